//! Choosing addresses. Pure: no clock, no kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Subnet;
use crate::error::{Error, Result};

/// The lowest address of `subnet` that a new host can have: not the network's own, not the broadcast address, not
/// `gateway`, and not in `taken` (where addresses of other networks do not matter).
///
/// # Errors
/// [`Error::Invalid`] if `gateway` is not a host's address in `subnet`; [`Error::Busy`] if all addresses are taken.
pub fn allocate(subnet: Subnet, gateway: IpAddr, taken: &BTreeSet<IpAddr>) -> Result<IpAddr> {
    subnet.interface(gateway)?;
    let free = |ip: &IpAddr| *ip != gateway && !taken.contains(ip);
    // Ends after at most `taken.len() + 2` steps, however large the network.
    let found = match subnet.net() {
        IpNet::V4(net) => net.hosts().map(IpAddr::V4).find(free),
        // The first address of an IPv6 network is the routers' anycast address (RFC 4291).
        IpNet::V6(net) => net.hosts().skip(1).map(IpAddr::V6).find(free),
    };
    found.ok_or_else(|| Error::Busy {
        what: format!("subnet {subnet}"),
        reason: "all its addresses are taken".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_lowest_free_address_is_taken() {
        let subnet: Subnet = "10.0.0.0/29".parse().unwrap();
        let mut taken = BTreeSet::from([ip("10.0.0.3"), ip("192.168.0.2")]);
        let mut given = Vec::new();
        while let Ok(address) = allocate(subnet, ip("10.0.0.1"), &taken) {
            given.push(address.to_string());
            taken.insert(address);
        }
        assert_eq!(given, ["10.0.0.2", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        let message = allocate(subnet, ip("10.0.0.1"), &taken).unwrap_err().to_string();
        assert_eq!(message, "subnet 10.0.0.0/29 is busy: all its addresses are taken");
    }

    #[test]
    fn a_huge_network_is_no_work() {
        let subnet: Subnet = "fd00::/8".parse().unwrap();
        assert_eq!(allocate(subnet, ip("fd00::1"), &BTreeSet::new()).unwrap(), ip("fd00::2"));
    }

    #[test]
    fn the_gateway_is_checked() {
        let subnet: Subnet = "10.0.0.0/24".parse().unwrap();
        for bad in ["10.0.1.1", "10.0.0.0", "10.0.0.255", "fd00::1"] {
            let error = allocate(subnet, ip(bad), &BTreeSet::new()).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_given_is_free_and_a_hosts(
            base: u32, prefix in 22_u8..=30, seed in prop::collection::btree_set(0_u32..1024, 0..300), gateway: u32,
        ) {
            let net = ipnet::Ipv4Net::new(base.into(), prefix).unwrap().trunc();
            let Ok(subnet) = Subnet::new(net.into()) else { return Ok(()) };
            let first = u32::from(net.network());
            let hosts = (1_u32 << (32 - prefix)) - 2;
            let gateway = IpAddr::V4((first + 1 + gateway % hosts).into());
            let taken: BTreeSet<IpAddr> = seed.iter().map(|n| IpAddr::V4((first.wrapping_add(*n)).into())).collect();
            let free = net.hosts().map(IpAddr::V4).filter(|ip| *ip != gateway && !taken.contains(ip)).min();
            match allocate(subnet, gateway, &taken) {
                Ok(ip) => {
                    prop_assert_eq!(Some(ip), free);
                    prop_assert!(subnet.interface(ip).is_ok());
                }
                Err(error) => {
                    let busy = matches!(error, Error::Busy { .. });
                    prop_assert!(busy);
                    prop_assert_eq!(free, None);
                }
            }
        }
    }
}
