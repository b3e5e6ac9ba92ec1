//! Typed values: what a program keeps in the store, with the version of its form (`serde`, JSON).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::key::Key;
use crate::error::{Error, Result};

/// The largest value, in bytes as JSON: etcd's limit of a whole request is 1.5 MiB (`--max-request-bytes`).
pub(super) const BYTES_MAX: usize = 1 << 20;

/// A type whose values can be kept in the store.
///
/// ```
/// # use docklet::state::Record;
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Node {
///     address: String,
/// }
///
/// impl Record for Node {
///     const KIND: &'static str = "node";
/// }
/// ```
///
/// Each value is kept with its kind and version. A program that meets another kind, or a newer version than its own, is told so; it
/// never takes one for the other.
pub trait Record: Serialize + DeserializeOwned {
    /// What it is: "node", "container".
    const KIND: &'static str;
    /// The version of the form that is written. It goes up when older programs would misread what is written.
    const VERSION: u32 = 1;

    /// Makes a value out of what was written in `version`, which is older than [`VERSION`](Self::VERSION). By default all
    /// versions are read alike.
    ///
    /// # Errors
    /// What serde says of it.
    fn upgrade(version: u32, value: Value) -> Result<Self, serde_json::Error> {
        let _ = version;
        serde_json::from_value(value)
    }
}

/// A value as it is kept: its kind, its version, and itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored(Vec<u8>);

/// What [`Stored`] holds, as JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<K, V> {
    kind: K,
    version: u32,
    value: V,
}

impl Stored {
    /// `record`, as it is kept.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is larger than 1 MiB, or JSON cannot hold it: what is put can be read back (not so a NaN).
    pub fn of<T: Record>(record: &T) -> Result<Self> {
        let envelope = Envelope { kind: T::KIND, version: T::VERSION, value: record };
        let bytes = serde_json::to_vec(&envelope)
            .map_err(|error| Error::invalid(T::KIND, "", format!("cannot be written as JSON: {error}")))?;
        if bytes.len() > BYTES_MAX {
            let size = format!("{} bytes", bytes.len());
            return Err(Error::invalid(T::KIND, size, "a value of the store has at most 1 MiB as JSON"));
        }
        if let Err(error) = serde_json::from_slice::<Envelope<String, T>>(&bytes) {
            let rule = format!("cannot be read back from JSON: {error}");
            return Err(Error::invalid(T::KIND, String::from_utf8_lossy(&bytes), rule));
        }
        Ok(Self(bytes))
    }

    /// What an engine kept.
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// What an engine is to keep.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The kind of what is kept.
    ///
    /// # Errors
    /// [`Error::Damaged`] if another program wrote something else here.
    pub fn kind(&self, key: &Key) -> Result<String> {
        Ok(self.open(key)?.kind)
    }

    /// The value, read as `T`. `key` is where it was found, for the error.
    ///
    /// # Errors
    /// - [`Error::Unsupported`] if a newer version of the program wrote it.
    /// - [`Error::Differs`] if it is of another kind.
    /// - [`Error::Damaged`] if it cannot be read.
    pub fn decode<T: Record>(&self, key: &Key) -> Result<T> {
        let Envelope { kind, version, value } = self.open(key)?;
        if kind != T::KIND {
            let difference =
                format!("it holds a {kind:?}, not a {:?}: read it as that, or delete it", T::KIND);
            return Err(Error::Differs { what: format!("key `{key}`"), difference });
        }
        if version > T::VERSION {
            return Err(Error::Unsupported {
                what: format!("reading key `{key}`, a {kind} of version {version}"),
                needs: format!("use a newer program: this one knows versions up to {}", T::VERSION),
            });
        }
        let damaged = |error: serde_json::Error| Self::damaged(key, &format!("no {kind}: {error}"));
        if version == T::VERSION {
            return serde_json::from_str(value.get()).map_err(damaged);
        }
        let value = serde_json::from_str(value.get()).map_err(damaged)?;
        T::upgrade(version, value).map_err(damaged)
    }

    fn open(&self, key: &Key) -> Result<Envelope<String, Box<RawValue>>> {
        serde_json::from_slice(&self.0)
            .map_err(|error| Self::damaged(key, &format!("not a value of this library: {error}")))
    }

    pub(super) fn damaged(key: &Key, reason: &str) -> Error {
        Error::Damaged {
            what: format!("the value of key `{key}`"),
            reason: format!("{reason}; delete it, or restore it from an export"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Number<T>(T);

    impl Record for Number<f64> {
        const KIND: &'static str = "number";
    }

    impl Record for Number<u128> {
        const KIND: &'static str = "number";
    }

    #[test]
    fn what_cannot_be_read_back_is_refused() {
        Stored::of(&Number(f64::NAN)).unwrap_err();
        Stored::of(&Number(f64::INFINITY)).unwrap_err();
        let key = Key::new("a").unwrap();
        let large = Number(u128::MAX);
        assert_eq!(Stored::of(&large).unwrap().decode::<Number<u128>>(&key).unwrap(), large);
    }

    proptest! {
        #[test]
        fn numbers_come_back_as_they_were(number in proptest::num::f64::NORMAL) {
            let key = Key::new("a").unwrap();
            let stored = Stored::of(&Number(number)).unwrap();
            prop_assert_eq!(stored.decode::<Number<f64>>(&key).unwrap(), Number(number));
        }
    }
}
