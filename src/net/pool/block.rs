//! Networks (RFC 4632) as blocks of 2ⁿ numbers, each aligned to its size: what a buddy system splits and joins.

use ipnet::IpNet;

use super::family::{Family, number};
use crate::error::{Error, Result};
use crate::net::Subnet;

/// All numbers that have their first `prefix_len` of 128 bits in common with `first`. The prefix has at least one bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Block {
    first: u128,
    prefix_len: u8,
}

impl Block {
    /// The block of that size around `number`.
    pub(super) fn around(number: u128, prefix_len: u8) -> Self {
        Self { first: number & !(u128::MAX >> prefix_len), prefix_len }
    }

    pub(super) fn first(self) -> u128 {
        self.first
    }

    pub(super) fn last(self) -> u128 {
        self.first | (u128::MAX >> self.prefix_len)
    }

    pub(super) fn prefix_len(self) -> u8 {
        self.prefix_len
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        self.first <= other.last() && other.first <= self.last()
    }

    /// The other half of [`Block::whole`].
    pub(super) fn buddy(self) -> Self {
        Self { first: self.first ^ (1 << (128 - self.prefix_len)), ..self }
    }

    /// The block that this one is half of. None is half of all numbers.
    pub(super) fn whole(self) -> Option<Self> {
        (self.prefix_len > 1).then(|| Self::around(self.first, self.prefix_len - 1))
    }

    /// The half that `inner`, which is smaller and inside, lies in.
    pub(super) fn half_with(self, inner: Self) -> Self {
        Self::around(inner.first, self.prefix_len + 1)
    }

    /// As a network of `family`.
    pub(super) fn subnet(self, family: Family) -> Result<Subnet> {
        let prefix_len = self.prefix_len - family.unused_bits();
        let net = IpNet::new(family.address(self.first), prefix_len);
        net.map_err(|error| Error::invalid("prefix length", prefix_len.to_string(), error.to_string()))
            .and_then(Subnet::new)
    }
}

impl From<Subnet> for Block {
    fn from(subnet: Subnet) -> Self {
        let ip = subnet.net().addr();
        Self::around(number(ip), subnet.net().prefix_len() + Family::of(ip).unused_bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_halves() {
        let block = |text: &str| Block::from(text.parse::<Subnet>().unwrap());
        for (left, right, whole) in [
            ("10.0.2.0/24", "10.0.3.0/24", "10.0.2.0/23"),
            ("fd00::/64", "fd00:0:0:1::/64", "fd00::/63"),
            ("4000::/2", "6000::/3", "4000::/2"),
        ] {
            let (left, right, whole) = (block(left), block(right), block(whole));
            if left != whole {
                assert_eq!((left.buddy(), right.buddy()), (right, left));
                assert_eq!((left.whole(), right.whole()), (Some(whole), Some(whole)));
                assert!(!left.overlaps(right));
            }
            assert_eq!(whole.half_with(right), right);
            assert!(whole.overlaps(left) && right.overlaps(whole));
        }
        let block = block("10.0.2.0/23");
        assert_eq!((block.first(), block.last()), (0x0a00_0200, 0x0a00_03ff));
        assert_eq!(block.subnet(Family::V4).unwrap().to_string(), "10.0.2.0/23");
    }
}
