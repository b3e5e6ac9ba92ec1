//! Keys of the store: paths of segments, relative to the cluster and to nothing else.
//!
//! The engines keep keys beneath a prefix of the cluster's. No key knows it, so what a listing returns can be given back to
//! every call as it is. Source of the limits: etcd counts a key towards the size of a request (`--max-request-bytes`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The longest key, in bytes.
const BYTES_MAX: usize = 512;

fn check(what: &'static str, text: &str) -> Result<()> {
    let rule = if text.is_empty() || text.len() > BYTES_MAX {
        "must have 1 to 512 bytes"
    } else if text.chars().any(char::is_control) {
        "control characters are not allowed"
    } else if text.split('/').any(str::is_empty) {
        "is made of segments with one '/' between them, and none at either end: keys are relative to the cluster"
    } else if text.split('/').any(|segment| matches!(segment, "." | "..")) {
        "segments must not be '.' or '..'"
    } else {
        return Ok(());
    };
    Err(Error::invalid(what, text, rule))
}

/// The name of one value of the store: `nodes/n1`.
///
/// One to 512 bytes of UTF-8: segments with `/` between them, none of them empty, `.` or `..`, without control characters.
/// Keys are ordered by their bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

impl Key {
    /// Checks `text` and takes it as a key.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that `text` breaks.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        check("key", &text)?;
        Ok(Self(text))
    }

    /// The key of `segment` beneath this one. A segment that holds `/` is several.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that the longer key breaks.
    pub fn join(&self, segment: impl fmt::Display) -> Result<Self> {
        Self::new(format!("{self}/{segment}"))
    }

    /// The last segment.
    #[must_use]
    pub fn last_segment(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Key {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl TryFrom<String> for Key {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

/// Which keys a listing or a watch is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All keys of the cluster.
    All,
    /// This key alone.
    One(Key),
    /// The keys beneath this one, whole segments: beneath `a` are `a/b` and `a/b/c`, not `a` itself and not `ab`.
    Beneath(Key),
}

impl Scope {
    /// All keys beneath `key`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `key` is none.
    pub fn beneath(key: impl Into<String>) -> Result<Self> {
        Ok(Self::Beneath(Key::new(key)?))
    }

    /// Whether `key` is one of them.
    #[must_use]
    pub fn holds(&self, key: &Key) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == key,
            Self::Beneath(top) => key.0.strip_prefix(&top.0).is_some_and(|rest| rest.starts_with('/')),
        }
    }

    /// The first text a key of the scope can have, and the first behind it that none has. `None` for no end.
    pub(super) fn bounds(&self) -> (String, Option<String>) {
        match self {
            Self::All => (String::new(), None),
            Self::One(key) => (key.0.clone(), Some(format!("{key}\0"))),
            // '0' follows '/' in ASCII.
            Self::Beneath(top) => (format!("{top}/"), Some(format!("{top}0"))),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all keys"),
            Self::One(key) => write!(f, "key `{key}`"),
            Self::Beneath(top) => write!(f, "the keys beneath `{top}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_a_relative_path() {
        for text in ["a", "nodes/n1", "ä/ö b", "a.b/..c", &"k".repeat(512)] {
            assert_eq!(Key::new(text).unwrap().as_str(), text);
        }
        for text in ["", "/", "/a", "a/", "a//b", ".", "a/../b", "a\n", "a\0b", &"k".repeat(513)] {
            Key::new(text).unwrap_err();
        }
    }

    #[test]
    fn beneath_means_whole_segments() {
        let scope = Scope::beneath("a").unwrap();
        let held = |text: &str| scope.holds(&Key::new(text).unwrap());
        assert!(held("a/b") && held("a/b/c"));
        assert!(!held("a") && !held("ab") && !held("ab/c") && !held("a0"));
    }

    proptest! {
        #[test]
        fn bounds_hold_what_the_scope_holds(top in "[a-c/0.]{1,4}", text in "[a-c/0.]{1,6}") {
            let (Ok(top), Ok(key)) = (Key::new(top), Key::new(text)) else { return Ok(()) };
            for scope in [Scope::All, Scope::One(top.clone()), Scope::Beneath(top.clone())] {
                let (first, end) = scope.bounds();
                let inside = key.0 >= first && end.is_none_or(|end| key.0 < end);
                prop_assert_eq!(inside, scope.holds(&key));
            }
        }

        #[test]
        fn keys_go_through_json_unchanged(text in "\\PC{1,20}") {
            let Ok(key) = Key::new(text) else { return Ok(()) };
            let json = serde_json::to_string(&key).unwrap();
            prop_assert_eq!(serde_json::from_str::<Key>(&json).unwrap(), key);
        }
    }
}
