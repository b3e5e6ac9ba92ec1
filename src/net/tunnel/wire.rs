//! What the kernel does not change about a tunnel's link once it is made (`man 8 ip-link`, VXLAN and GRE types).

use std::fmt;
use std::net::IpAddr;

use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{GreIOFlags, InfoData, InfoGre, InfoGre6, InfoKind, InfoVxlan};

use crate::error::Error;
use crate::name::LinkName;
use crate::net::change::{Change, Mode};
use crate::net::link::MessageBuilder;
use crate::net::{LinkOwner, MacAddress};

/// The hops that a packet of a GRE tunnel lives. VXLAN takes the host's own number.
const GRE_TTL: u8 = 64;
/// `IFLA_GRE_FLAGS` and `IP6_TNL_F_IGN_ENCAP_LIMIT` of `linux/if_tunnel.h`, `linux/ip6_tunnel.h`: without them the kernel
/// adds an option of 8 bytes to each packet.
const GRE_FLAGS: u16 = 13;
const IGNORE_ENCAPSULATION_LIMIT: u32 = 1;

/// Which packets a link takes for its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Vxlan {
        vni: u32,
        port: u16,
        local: IpAddr,
    },
    /// 0 is no key.
    Gretap {
        key: u32,
        local: IpAddr,
        remote: IpAddr,
    },
}

impl Wire {
    /// Reads it from what the kernel says of a link.
    pub(super) fn parse(data: &InfoData) -> Option<Self> {
        match data {
            InfoData::Vxlan(infos) => {
                let (mut number, mut udp_port, mut address) = (0, 0, None);
                for info in infos {
                    match info {
                        InfoVxlan::Id(id) => number = *id,
                        InfoVxlan::Port(port) => udp_port = *port,
                        InfoVxlan::Local(ip) => address = Some(IpAddr::V4(*ip)),
                        InfoVxlan::Local6(ip) => address = Some(IpAddr::V6(*ip)),
                        _ => {}
                    }
                }
                let local = address.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED));
                Some(Self::Vxlan { vni: number, port: udp_port, local })
            }
            InfoData::GreTap(infos) => {
                let find = |pick: fn(&InfoGre) -> Option<IpAddr>| infos.iter().find_map(pick);
                Some(Self::Gretap {
                    key: infos
                        .iter()
                        .find_map(|i| if let InfoGre::IKey(key) = i { Some(*key) } else { None })?,
                    local: find(|i| if let InfoGre::Local(ip) = i { Some((*ip).into()) } else { None })?,
                    remote: find(|i| if let InfoGre::Remote(ip) = i { Some((*ip).into()) } else { None })?,
                })
            }
            InfoData::GreTap6(infos) => {
                let find = |pick: fn(&InfoGre6) -> Option<IpAddr>| infos.iter().find_map(pick);
                Some(Self::Gretap {
                    key: infos
                        .iter()
                        .find_map(|i| if let InfoGre6::IKey(key) = i { Some(*key) } else { None })?,
                    local: find(|i| if let InfoGre6::Local(ip) = i { Some((*ip).into()) } else { None })?,
                    remote: find(|i| if let InfoGre6::Remote(ip) = i { Some((*ip).into()) } else { None })?,
                })
            }
            _ => None,
        }
    }

    /// Whether the kernel refuses to have both in one namespace.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Vxlan { vni, port, .. }, Self::Vxlan { vni: other, port: other_port, .. }) => {
                vni == other && port == other_port
            }
            _ => self == other,
        }
    }

    /// The name of `owner`'s link: a hash. The host's address is in it, so that links of one owner on two hosts have
    /// different hardware addresses.
    pub(super) fn link_name(&self, owner: &LinkOwner) -> LinkName {
        LinkName::of_hash("dkt", MacAddress::derive(owner, &format!("{self} at {}", self.local())).octets())
    }

    fn local(&self) -> IpAddr {
        match self {
            Self::Vxlan { local, .. } | Self::Gretap { local, .. } => *local,
        }
    }

    pub(super) fn kind(&self) -> InfoKind {
        match self {
            Self::Vxlan { .. } => InfoKind::Vxlan,
            Self::Gretap { local: IpAddr::V4(_), .. } => InfoKind::GreTap,
            Self::Gretap { local: IpAddr::V6(_), .. } => InfoKind::GreTap6,
        }
    }

    /// Makes the link as a port of the bridge with the number `bridge`. It is down: it carries nothing yet.
    pub(super) fn create(&self, name: &LinkName, owner: &LinkOwner, bridge: u32, mtu: u32) -> Change {
        let message = MessageBuilder::new_with_info_kind(self.kind())
            .name(name.to_string())
            .address(MacAddress::derive(owner, name.as_str()).octets().to_vec())
            .mtu(mtu)
            .controller(bridge)
            .set_info_data(self.data())
            .build();
        let target = format!("{} link `{name}`", self.kind());
        Change { mode: Mode::Create, ..Change::new(target, RouteNetlinkMessage::NewLink(message)) }
    }

    fn data(&self) -> InfoData {
        let keyed = GreIOFlags::Key;
        match *self {
            Self::Vxlan { vni, port, local } => InfoData::Vxlan(vec![
                InfoVxlan::Id(vni),
                InfoVxlan::Port(port),
                match local {
                    IpAddr::V4(ip) => InfoVxlan::Local(ip),
                    IpAddr::V6(ip) => InfoVxlan::Local6(ip),
                },
                InfoVxlan::Learning(true),
            ]),
            Self::Gretap { key, local: IpAddr::V4(local), remote: IpAddr::V4(remote) } => {
                InfoData::GreTap(vec![
                    InfoGre::IFlags(keyed),
                    InfoGre::OFlags(keyed),
                    InfoGre::IKey(key),
                    InfoGre::OKey(key),
                    InfoGre::Local(local),
                    InfoGre::Remote(remote),
                    InfoGre::Ttl(GRE_TTL),
                    InfoGre::PathMTUDiscovery(true),
                ])
            }
            Self::Gretap { key, local, remote } => {
                let v6 = |ip: IpAddr| match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    IpAddr::V6(ip) => ip,
                };
                InfoData::GreTap6(vec![
                    InfoGre6::IFlags(keyed),
                    InfoGre6::OFlags(keyed),
                    InfoGre6::IKey(key),
                    InfoGre6::OKey(key),
                    InfoGre6::Local(v6(local)),
                    InfoGre6::Remote(v6(remote)),
                    InfoGre6::Ttl(GRE_TTL),
                    InfoGre6::Other(DefaultNla::new(
                        GRE_FLAGS,
                        IGNORE_ENCAPSULATION_LIMIT.to_ne_bytes().to_vec(),
                    )),
                ])
            }
        }
    }

    /// Says what to do about a host that does not know this kind of link, or whose port is taken.
    pub(super) fn explain(&self, error: Error) -> Error {
        match (error.errno(), self) {
            (Some(libc::EOPNOTSUPP), _) => {
                let (module, option) = match self.kind() {
                    InfoKind::Vxlan => ("vxlan", "CONFIG_VXLAN"),
                    InfoKind::GreTap => ("ip_gre", "CONFIG_NET_IPGRE"),
                    _ => ("ip6_gre", "CONFIG_IPV6_GRE"),
                };
                Error::Unsupported {
                    what: format!("{self}"),
                    needs: format!(
                        "the kernel knows no {} links: load the module {module} ({option})",
                        self.kind()
                    ),
                }
            }
            (Some(libc::EADDRINUSE), Self::Vxlan { port, .. }) => Error::Busy {
                what: format!("UDP port {port}"),
                reason: "a socket that is no VXLAN's has it".to_owned(),
            },
            _ => error,
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vxlan { vni, port, .. } => write!(f, "VXLAN {vni} on UDP port {port}"),
            Self::Gretap { key, local, remote } => write!(f, "GRE {key} from {local} to {remote}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_asked_is_what_is_read() {
        for wire in [
            Wire::Vxlan { vni: 5, port: 4789, local: ip("10.0.0.1") },
            Wire::Vxlan { vni: 5, port: 4789, local: ip("fd00::1") },
            Wire::Gretap { key: 7, local: ip("10.0.0.1"), remote: ip("10.0.0.2") },
            Wire::Gretap { key: 7, local: ip("fd00::1"), remote: ip("fd00::2") },
        ] {
            assert_eq!(Wire::parse(&wire.data()), Some(wire));
        }
    }

    #[test]
    fn names_are_hashes_of_owner_and_wire() {
        let owner = LinkOwner::new("docklet/t").unwrap();
        let at = |local: &str| Wire::Vxlan { vni: 5, port: 4789, local: ip(local) };
        // Written down: a later version must find the links of this one.
        assert_eq!(at("10.0.0.1").link_name(&owner).as_str(), "dkt46f4269c9f4b");
        assert_ne!(at("10.0.0.1").link_name(&owner), at("10.0.0.2").link_name(&owner));
    }

    #[test]
    fn one_vni_is_one_link() {
        let at = |vni, port, local: &str| Wire::Vxlan { vni, port, local: ip(local) };
        assert!(at(5, 4789, "10.0.0.1").excludes(&at(5, 4789, "fd00::1")));
        assert!(!at(5, 4789, "10.0.0.1").excludes(&at(5, 4790, "10.0.0.1")));
        assert!(!at(5, 4789, "10.0.0.1").excludes(&at(6, 4789, "10.0.0.1")));
    }
}
