//! The mark that says whose a link is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The longest mark, in bytes: the kernel's `IFALIASZ` (256) less its terminating zero.
const OWNER_MAX: usize = 255;

/// Who a link belongs to, as it stands in the link's `ifalias` (`ip link` shows it).
///
/// 1 to 255 bytes of printable ASCII without `"`, `\` and spaces. Two owners never share one: put the object's id in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkOwner(String);

impl LinkOwner {
    /// Checks `text` and takes it as a mark.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that `text` breaks.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let rule = if text.is_empty() || text.len() > OWNER_MAX {
            "must have 1 to 255 bytes"
        } else if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\') {
            "only printable ASCII without '\"', '\\' and spaces is allowed"
        } else {
            return Ok(Self(text));
        };
        Err(Error::invalid("owner of a link", text, rule))
    }

    /// The mark as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for LinkOwner {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl TryFrom<String> for LinkOwner {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::new(text)
    }
}

impl From<LinkOwner> for String {
    fn from(owner: LinkOwner) -> Self {
        owner.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_checked() {
        "docklet/0123abcd/net/default".parse::<LinkOwner>().unwrap();
        LinkOwner::new("x".repeat(255)).unwrap();
        for (bad, rule) in [
            ("", "1 to 255"),
            (&*"x".repeat(256), "1 to 255"),
            ("a b", "printable"),
            ("a\n", "printable"),
            ("ä", "printable"),
        ] {
            let message = LinkOwner::new(bad).unwrap_err().to_string();
            assert!(message.starts_with("invalid owner of a link") && message.contains(rule), "{message}");
        }
    }
}
