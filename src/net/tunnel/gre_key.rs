//! Keys of GRE tunnels (RFC 2890).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The key of a GRE network, the same in both directions: 1 to 4294967295. 0 is left out: it is what a missing one reads as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct GreKey(u32);

impl GreKey {
    /// Checks `number` and takes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is 0.
    pub fn new(number: u32) -> Result<Self> {
        if number != 0 {
            Ok(Self(number))
        } else {
            Err(Error::invalid("GRE key", number.to_string(), "must be 1 to 4294967295"))
        }
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for GreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u32> for GreKey {
    type Error = Error;

    fn try_from(number: u32) -> Result<Self> {
        Self::new(number)
    }
}

impl From<GreKey> for u32 {
    fn from(value: GreKey) -> Self {
        value.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_checked() {
        for good in [1, u32::MAX] {
            assert_eq!(GreKey::new(good).unwrap().number(), good);
        }
        let message = GreKey::new(0).unwrap_err().to_string();
        assert!(message.starts_with("invalid GRE key") && message.contains("1 to 4294967295"), "{message}");
        assert!(serde_json::from_str::<GreKey>("0").is_err());
    }
}
