//! Hardware addresses (IEEE 802).

use std::fmt;
use std::net::Ipv6Addr;

use super::LinkOwner;

/// A hardware address of six bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The address of the link `name` of `owner`: always the same for the same two, so that a link made anew after a
    /// reboot is known to its neighbours. Locally administered, unicast; the other 46 bits are a hash, so that links
    /// with different owners do not meet. Hosts that share a link layer need different owners.
    #[must_use]
    pub fn derive(owner: &LinkOwner, name: &str) -> Self {
        // FNV-1a, then the mixer of SplitMix64, since FNV alone leaves similar inputs similar.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in owner.as_str().bytes().chain([0]).chain(name.bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
        let [a, b, c, d, e, f, ..] = hash.to_be_bytes();
        Self([(a & 0b1111_1100) | 0b10, b, c, d, e, f])
    }

    /// The six bytes, as they go over the wire.
    #[must_use]
    pub fn octets(self) -> [u8; 6] {
        self.0
    }

    /// The link-local address of IPv6 that is made from it (EUI-64, RFC 4291).
    pub(super) fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }

    pub(super) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddress({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn addresses_are_stable_local_and_distinct() {
        let owner = LinkOwner::new("docklet/x").unwrap();
        // Written down: a later version must derive the same, or it would not know its links again.
        assert_eq!(MacAddress::derive(&owner, "eth0").to_string(), "aa:bc:5a:93:57:62");
        let all: BTreeSet<_> = (0..10_000)
            .map(|n| {
                let mac = MacAddress::derive(&LinkOwner::new(format!("docklet/{n}")).unwrap(), "eth0");
                assert_eq!(mac.octets()[0] & 0b11, 0b10, "{mac}");
                mac
            })
            .collect();
        assert_eq!(all.len(), 10_000);
    }
}
