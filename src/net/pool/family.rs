//! Addresses as numbers (RFC 791, RFC 4291): one arithmetic for both versions of IP.

use std::net::{IpAddr, Ipv4Addr};

/// The version of IP that numbers stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// How many of 128 bits stand before an address.
    pub(super) fn unused_bits(self) -> u8 {
        match self {
            Self::V4 => 96,
            Self::V6 => 0,
        }
    }

    /// The address that `number` stands for; `number` is one of this family.
    pub(super) fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => {
                let [.., a, b, c, d] = number.to_be_bytes();
                Ipv4Addr::new(a, b, c, d).into()
            }
            Self::V6 => IpAddr::V6(number.into()),
        }
    }
}

/// The number of an address among those of its family.
pub(super) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_for_addresses() {
        for text in ["0.0.0.0", "10.1.2.3", "255.255.255.255", "::", "::ffff:10.1.2.3", "fd00::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(Family::of(ip).address(number(ip)), ip);
        }
        assert_eq!(number("10.0.0.1".parse().unwrap()), 0x0a00_0001);
    }
}
