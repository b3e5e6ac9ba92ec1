//! VXLAN network identifiers (RFC 7348).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The identifier of a VXLAN network: 1 to 16777215. 0 is left out: it is what a missing one reads as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// Checks `number` and takes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of 1 to 16777215.
    pub fn new(number: u32) -> Result<Self> {
        if (1..=0xff_ffff).contains(&number) {
            Ok(Self(number))
        } else {
            Err(Error::invalid("VNI", number.to_string(), "must be 1 to 16777215"))
        }
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u32> for Vni {
    type Error = Error;

    fn try_from(number: u32) -> Result<Self> {
        Self::new(number)
    }
}

impl From<Vni> for u32 {
    fn from(value: Vni) -> Self {
        value.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_checked() {
        for good in [1, 0xff_ffff] {
            assert_eq!(Vni::new(good).unwrap().number(), good);
        }
        for bad in [0, 0x100_0000, u32::MAX] {
            let message = Vni::new(bad).unwrap_err().to_string();
            assert!(message.starts_with("invalid VNI") && message.contains("1 to 16777215"), "{message}");
        }
        assert!(serde_json::from_str::<Vni>("0").is_err());
    }
}
