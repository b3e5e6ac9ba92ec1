//! Networks that addresses are taken from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::InterfaceAddress;
use crate::error::{Error, Result};

/// Networks without hosts' addresses: multicast and loopback (RFC 6890; RFC 4291 for IPv6, where `::1` is in the unspecified
/// network of any size).
const NO_HOSTS: [IpNet; 3] = [
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
    IpNet::new_assert(IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
];

/// A network with room for a gateway and at least one host, as in `10.0.0.0/24`: no host bits, and a prefix of 1 to 30
/// bits (IPv4) or 1 to 126 bits (IPv6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet(IpNet);

impl Subnet {
    /// Checks `net` and takes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that `net` breaks.
    pub fn new(net: IpNet) -> Result<Self> {
        let invalid = |rule: String| Err(Error::invalid("subnet", net.to_string(), rule));
        if net != net.trunc() {
            return invalid(format!("has bits of a host; the network is {}", net.trunc()));
        }
        if net.prefix_len() == 0 || net.max_prefix_len() - net.prefix_len() < 2 {
            return invalid(format!("must have a prefix of 1 to {} bits", net.max_prefix_len() - 2));
        }
        // Multicast and loopback: a larger network has them inside.
        let overlaps = |other: IpNet| other.contains(&net) || net.contains(&other);
        if net.addr().is_unspecified() || NO_HOSTS.into_iter().any(overlaps) {
            return invalid(
                "must not be or contain an unspecified, multicast or loopback network".to_owned(),
            );
        }
        Ok(Self(net))
    }

    /// The network itself.
    #[must_use]
    pub fn net(self) -> IpNet {
        self.0
    }

    /// Whether `ip` lies in this network.
    #[must_use]
    pub fn contains(self, ip: IpAddr) -> bool {
        self.0.contains(&ip)
    }

    /// The first address a host can have: what a gateway has by custom.
    #[must_use]
    pub fn first_host(self) -> IpAddr {
        match self.0 {
            IpNet::V4(net) => IpAddr::V4((u32::from(net.network()) + 1).into()),
            IpNet::V6(net) => IpAddr::V6((u128::from(net.network()) + 1).into()),
        }
    }

    /// `ip` as the address of an interface in this network.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `ip` is outside, or not a host's address.
    pub fn interface(self, ip: IpAddr) -> Result<InterfaceAddress> {
        if !self.contains(ip) {
            return Err(Error::invalid("address", ip.to_string(), format!("must be in the network {self}")));
        }
        IpNet::new(ip, self.0.prefix_len())
            .map_err(|e| Error::invalid("address", ip.to_string(), e.to_string()))
            .and_then(InterfaceAddress::new)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Subnet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let net = text.parse().map_err(|_| {
            Error::invalid("subnet", text, "must be an address and a prefix length, as in 10.0.0.0/24")
        })?;
        Self::new(net)
    }
}

impl TryFrom<String> for Subnet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_are_checked() {
        for good in ["10.0.0.0/8", "10.0.0.0/30", "fd00::/64", "fd00::/126"] {
            assert_eq!(good.parse::<Subnet>().unwrap().to_string(), good);
        }
        for (bad, rule) in [
            ("x", "prefix length"),
            ("10.0.0.1/24", "the network is 10.0.0.0/24"),
            ("10.0.0.0/31", "1 to 30"),
            ("0.0.0.0/0", "1 to 30"),
            ("fd00::/127", "1 to 126"),
            ("224.0.0.0/8", "multicast"),
            ("192.0.0.0/2", "multicast"),
            ("fe00::/7", "multicast"),
            ("127.1.0.0/16", "loopback"),
            ("126.0.0.0/7", "loopback"),
        ] {
            let message = bad.parse::<Subnet>().unwrap_err().to_string();
            assert!(message.starts_with("invalid subnet") && message.contains(rule), "{bad}: {message}");
        }
    }

    #[test]
    fn hosts_are_within() {
        let subnet: Subnet = "10.0.0.0/24".parse().unwrap();
        assert_eq!(subnet.first_host(), "10.0.0.1".parse::<IpAddr>().unwrap());
        assert_eq!(subnet.interface(subnet.first_host()).unwrap().to_string(), "10.0.0.1/24");
        for bad in ["10.0.1.1", "10.0.0.0", "10.0.0.255", "fd00::1"] {
            subnet.interface(bad.parse().unwrap()).unwrap_err();
        }
    }
}
