//! The largest packet of a link.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The largest packet a link carries, in bytes without its hardware header: 68 (RFC 791) to 65535, the range of
/// bridges and veth pairs. A link with an IPv6 address needs 1280 (RFC 8200).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Mtu(u32);

impl Mtu {
    /// What Ethernet carries: 1500 bytes, the kernel's default for bridges and veth pairs.
    pub const ETHERNET: Self = Self(1500);
    /// The most that a link can have.
    pub(super) const MAX_BYTES: u32 = 65535;
    /// The least that IPv6 works with.
    const IPV6_MIN: u32 = 1280;

    /// Checks `bytes` and takes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of 68 to 65535.
    pub fn new(bytes: u32) -> Result<Self> {
        if (68..=Self::MAX_BYTES).contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(Error::invalid("MTU", bytes.to_string(), "must be 68 to 65535 bytes"))
        }
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u32 {
        self.0
    }

    /// Refuses a link with an IPv6 address that is too small for it.
    pub(super) fn check_carries(mtu: Option<Self>, addresses: &[super::InterfaceAddress]) -> Result<()> {
        match mtu {
            Some(mtu) if mtu.0 < Self::IPV6_MIN => match addresses.iter().find(|a| a.ip().is_ipv6()) {
                Some(address) => {
                    let rule = format!("must be at least {} bytes with {address}", Self::IPV6_MIN);
                    Err(Error::invalid("MTU", mtu.to_string(), rule))
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u32> for Mtu {
    type Error = Error;

    fn try_from(bytes: u32) -> Result<Self> {
        Self::new(bytes)
    }
}

impl From<Mtu> for u32 {
    fn from(mtu: Mtu) -> Self {
        mtu.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::InterfaceAddress;

    #[test]
    fn sizes_are_checked() {
        for good in [68, 1500, 65535] {
            assert_eq!(Mtu::new(good).unwrap().bytes(), good);
        }
        for bad in [0, 67, 65536, u32::MAX] {
            let message = Mtu::new(bad).unwrap_err().to_string();
            assert!(message.starts_with("invalid MTU") && message.contains("68 to 65535"), "{message}");
        }
    }

    #[test]
    fn ipv6_needs_more() {
        let v4: InterfaceAddress = "10.0.0.1/24".parse().unwrap();
        let v6: InterfaceAddress = "fd00::1/64".parse().unwrap();
        Mtu::check_carries(Some(Mtu(1279)), &[v4]).unwrap();
        Mtu::check_carries(Some(Mtu(1280)), &[v6]).unwrap();
        Mtu::check_carries(None, &[v6]).unwrap();
        let message = Mtu::check_carries(Some(Mtu(1279)), &[v4, v6]).unwrap_err().to_string();
        assert_eq!(message, "invalid MTU \"1279\": must be at least 1280 bytes with fd00::1/64");
    }
}
