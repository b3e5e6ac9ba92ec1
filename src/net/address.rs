//! Addresses of interfaces.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// An address of an interface with the length of its network's prefix, as `ip address` writes it: `10.0.0.2/24`.
///
/// Never the network's own address or its broadcast address, and never a multicast, loopback or unspecified one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceAddress(IpNet);

impl InterfaceAddress {
    /// Checks `address` and takes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that `address` breaks.
    pub fn new(address: IpNet) -> Result<Self> {
        let ip = address.addr();
        // A prefix of one or two addresses has neither a network nor a broadcast address (RFC 3021, RFC 6164).
        let has_room = address.max_prefix_len() - address.prefix_len() > 1;
        let rule = if address.prefix_len() == 0 {
            "must have a prefix length of at least 1"
        } else if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            "must not be an unspecified, multicast or loopback address"
        } else if has_room && ip == address.network() {
            "is the network's own address; give a host's"
        } else if has_room && ip.is_ipv4() && ip == address.broadcast() {
            "is the network's broadcast address; give a host's"
        } else {
            return Ok(Self(address));
        };
        Err(Error::invalid("interface address", address.to_string(), rule))
    }

    /// The address alone.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        self.0.addr()
    }

    /// The length of the network's prefix, in bits.
    #[must_use]
    pub fn prefix_len(self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether `ip` is in the network of this address.
    #[must_use]
    pub fn reaches(self, ip: IpAddr) -> bool {
        self.0.contains(&ip)
    }

    /// The IPv4 broadcast address, where the network has one.
    pub(super) fn broadcast(self) -> Option<std::net::Ipv4Addr> {
        match self.0 {
            IpNet::V4(net) if net.prefix_len() < 31 => Some(net.broadcast()),
            _ => None,
        }
    }

    /// Refuses a list that has one address twice.
    pub(super) fn check_distinct(addresses: &[Self]) -> Result<()> {
        for (n, address) in addresses.iter().enumerate() {
            if addresses[..n].iter().any(|earlier| earlier.ip() == address.ip()) {
                return Err(Error::invalid("interface address", address.to_string(), "is given twice"));
            }
        }
        Ok(())
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for InterfaceAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let net = text.parse().map_err(|_| {
            Error::invalid(
                "interface address",
                text,
                "must be an address and a prefix length, as in 10.0.0.2/24",
            )
        })?;
        Self::new(net)
    }
}

impl TryFrom<String> for InterfaceAddress {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<InterfaceAddress> for String {
    fn from(address: InterfaceAddress) -> Self {
        address.to_string()
    }
}

impl From<InterfaceAddress> for IpNet {
    fn from(address: InterfaceAddress) -> Self {
        address.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        for good in ["10.0.0.1/24", "10.0.0.254/24", "10.0.0.0/31", "10.0.0.7/32", "fd00::1/64", "fd00::/127"]
        {
            assert_eq!(good.parse::<InterfaceAddress>().unwrap().to_string(), good);
        }
        for (bad, rule) in [
            ("", "prefix length"),
            ("10.0.0.1", "prefix length"),
            ("10.0.0.1/33", "prefix length"),
            ("10.0.0.1/0", "at least 1"),
            ("10.0.0.0/24", "network's own"),
            ("10.0.0.255/24", "broadcast"),
            ("fd00::/64", "network's own"),
            ("224.0.0.1/24", "multicast"),
            ("127.0.0.1/8", "loopback"),
            ("ff02::1/64", "multicast"),
            ("::1/128", "loopback"),
        ] {
            let message = bad.parse::<InterfaceAddress>().unwrap_err().to_string();
            assert!(
                message.starts_with("invalid interface address") && message.contains(rule),
                "{bad}: {message}"
            );
        }
    }

    #[test]
    fn a_repeated_address_is_refused() {
        let [a, b]: [InterfaceAddress; 2] = ["10.0.0.1/24".parse().unwrap(), "10.0.0.1/16".parse().unwrap()];
        assert!(InterfaceAddress::check_distinct(&[a, b]).unwrap_err().to_string().contains("twice"));
    }
}
