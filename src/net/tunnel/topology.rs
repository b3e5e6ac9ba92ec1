//! Which hosts are in a network, and who sends to whom (RFC 7348 for VXLAN, RFC 2890 for GRE with a key).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use super::arm::Arm;
use super::wire::Wire;
use super::{GreKey, Vni};
use crate::error::{Error, Result};

fn vxlan_port() -> u16 {
    TunnelTopology::VXLAN_PORT
}

/// A network over several hosts, stated as a whole: the same on each of them. A host is its address on the underlay.
///
/// Addresses are of one family, unicast, and neither loopback nor link-local. UDP ports are 1 to 65535, 4789 unless given.
///
/// | topology | links of a host | how frames get on |
/// |---|---|---|
/// | VXLAN mesh | one, which floods to each other host | the kernel learns who is where |
/// | VXLAN star | the hub: one for each spoke; a spoke: one | the hub's bridge passes them on |
/// | GRE mesh | one for each other host, isolated from one another | the bridge learns |
/// | GRE star | the hub: one for each spoke; a spoke: one | the hub's bridge passes them on |
///
/// # Why there is no loop
///
/// In a mesh nothing that came from a tunnel goes into a tunnel: a bridge does not send a frame back to the port it came
/// from, and a VXLAN mesh is one port; the ports of a GRE mesh are `isolated`, and a bridge passes nothing from one such to
/// another. So it does not matter what the hosts believe of each other while a change makes its way. In a star only the hub
/// passes on, and a spoke has one link; while the hub moves there may be two for a moment, with one path between them.
/// A bridge takes one tunnel: a second one, whoever's it is, is refused. New links are down until that was looked at.
///
/// A star over VXLAN needs a VNI for each spoke, since the kernel tells its links apart by VNI and not by sender, and one
/// link for all would send a spoke its own broadcasts back.
///
/// Isolated ports do not reach each other, whatever is behind them: a container whose own port is isolated does not reach
/// other hosts through a GRE mesh. The other three do not isolate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TunnelTopology {
    /// Each host sends to each other one.
    VxlanMesh {
        /// The network's identifier.
        vni: Vni,
        /// The UDP port of all hosts.
        #[serde(default = "vxlan_port")]
        port: u16,
        /// All hosts.
        hosts: BTreeSet<IpAddr>,
    },
    /// Each spoke sends to the hub, which passes on.
    VxlanStar {
        /// The UDP port of all hosts.
        #[serde(default = "vxlan_port")]
        port: u16,
        /// The host in the middle.
        hub: IpAddr,
        /// The others, each with an identifier of its own for its way to the hub.
        spokes: BTreeMap<IpAddr, Vni>,
    },
    /// Each host sends to each other one.
    GreMesh {
        /// The network's key.
        key: GreKey,
        /// All hosts.
        hosts: BTreeSet<IpAddr>,
    },
    /// Each spoke sends to the hub, which passes on.
    GreStar {
        /// The network's key.
        key: GreKey,
        /// The host in the middle.
        hub: IpAddr,
        /// The others.
        spokes: BTreeSet<IpAddr>,
    },
}

impl TunnelTopology {
    /// The UDP port that IANA has given to VXLAN.
    pub const VXLAN_PORT: u16 = 4789;

    /// A VXLAN mesh of `hosts` on the usual UDP port.
    #[must_use]
    pub fn vxlan_mesh(vni: Vni, hosts: impl IntoIterator<Item = IpAddr>) -> Self {
        Self::VxlanMesh { vni, port: Self::VXLAN_PORT, hosts: hosts.into_iter().collect() }
    }

    /// A VXLAN star around `hub` on the usual UDP port.
    #[must_use]
    pub fn vxlan_star(hub: IpAddr, spokes: impl IntoIterator<Item = (IpAddr, Vni)>) -> Self {
        Self::VxlanStar { port: Self::VXLAN_PORT, hub, spokes: spokes.into_iter().collect() }
    }

    /// Checks what the types alone do not. `local` is one of the hosts.
    pub(super) fn check(&self, local: IpAddr) -> Result<()> {
        let hosts = self.hosts();
        for host in &hosts {
            check_host(*host)?;
            if host.is_ipv4() != local.is_ipv4() {
                return Err(Error::invalid("host", host.to_string(), format!("must be of {local}'s family")));
            }
        }
        if !hosts.contains(&local) {
            return Err(Error::invalid("local address", local.to_string(), "must be one of the hosts"));
        }
        if let Self::VxlanMesh { port: 0, .. } | Self::VxlanStar { port: 0, .. } = self {
            return Err(Error::invalid("UDP port", "0", "must be 1 to 65535"));
        }
        match self {
            Self::VxlanStar { hub, spokes, .. } => {
                let mut seen = BTreeSet::new();
                if let Some(vni) = spokes.values().find(|vni| !seen.insert(**vni)) {
                    return Err(Error::invalid("VNI", vni.to_string(), "must be of one spoke alone"));
                }
                check_apart(*hub, spokes.contains_key(hub))
            }
            Self::GreStar { hub, spokes, .. } => check_apart(*hub, spokes.contains(hub)),
            Self::VxlanMesh { .. } | Self::GreMesh { .. } => Ok(()),
        }
    }

    /// The UDP port that its frames go to; GRE has none.
    #[must_use]
    pub fn udp_port(&self) -> Option<NonZeroU16> {
        match self {
            Self::VxlanMesh { port, .. } | Self::VxlanStar { port, .. } => NonZeroU16::new(*port),
            Self::GreMesh { .. } | Self::GreStar { .. } => None,
        }
    }

    /// All hosts.
    fn hosts(&self) -> BTreeSet<IpAddr> {
        match self {
            Self::VxlanMesh { hosts, .. } | Self::GreMesh { hosts, .. } => hosts.clone(),
            Self::VxlanStar { hub, spokes, .. } => spokes.keys().copied().chain([*hub]).collect(),
            Self::GreStar { hub, spokes, .. } => spokes.iter().copied().chain([*hub]).collect(),
        }
    }

    /// The hosts that `local` sends to.
    pub(super) fn peers(&self, local: IpAddr) -> BTreeSet<IpAddr> {
        match self {
            Self::VxlanStar { hub, .. } | Self::GreStar { hub, .. } if *hub != local => [*hub].into(),
            _ => self.hosts().into_iter().filter(|host| *host != local).collect(),
        }
    }

    /// The links that `local` needs.
    pub(super) fn arms(&self, local: IpAddr) -> Vec<Arm> {
        let peers = self.peers(local);
        match self {
            Self::VxlanMesh { vni, port, .. } => {
                let wire = Wire::Vxlan { vni: vni.number(), port: *port, local };
                vec![Arm { wire, peers, isolated: false }]
            }
            Self::VxlanStar { port, spokes, .. } => {
                let ways = spokes.iter().filter(|(spoke, _)| **spoke == local || peers.contains(spoke));
                let arm = |(spoke, vni): (&IpAddr, &Vni)| Arm {
                    wire: Wire::Vxlan { vni: vni.number(), port: *port, local },
                    peers: if *spoke == local { peers.clone() } else { [*spoke].into() },
                    isolated: false,
                };
                ways.map(arm).collect()
            }
            Self::GreMesh { key, .. } | Self::GreStar { key, .. } => {
                let isolated = matches!(self, Self::GreMesh { .. });
                let arm = |remote: &IpAddr| Arm {
                    wire: Wire::Gretap { key: key.number(), local, remote: *remote },
                    peers: [*remote].into(),
                    isolated,
                };
                peers.iter().map(arm).collect()
            }
        }
    }

    /// The bytes of an underlay's packet that are not the network's: its headers, and the inner hardware header.
    pub(super) fn overhead_bytes(&self, local: IpAddr) -> u32 {
        const ETHERNET: u32 = 14;
        let address_header = if local.is_ipv4() { 20 } else { 40 };
        let own = match self {
            // UDP and VXLAN, of 8 bytes each.
            Self::VxlanMesh { .. } | Self::VxlanStar { .. } => 16,
            // GRE and its key, of 4 bytes each.
            Self::GreMesh { .. } | Self::GreStar { .. } => 8,
        };
        ETHERNET + address_header + own
    }

    /// How `wire`, which is this tunnel's by its mark, is unlike any arm that `local` has, with whatever peers.
    pub(super) fn differences(&self, local: IpAddr, wire: &Wire) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, is: String, asked: String| {
            if is != asked {
                found.push(format!("its {what} is {is}, not {asked}"));
            }
        };
        match (self, wire) {
            (
                Self::VxlanMesh { port, .. } | Self::VxlanStar { port, .. },
                Wire::Vxlan { vni, port: found_port, local: found_local },
            ) => {
                // The hub's arms are told apart by their VNIs.
                let only = match self {
                    Self::VxlanMesh { vni, .. } => Some(vni),
                    Self::VxlanStar { spokes, .. } => spokes.get(&local),
                    _ => None,
                };
                if let Some(only) = only {
                    compare("VNI", vni.to_string(), only.to_string());
                }
                compare("UDP port", found_port.to_string(), port.to_string());
                compare("local address", found_local.to_string(), local.to_string());
            }
            (
                Self::GreMesh { key, .. } | Self::GreStar { key, .. },
                Wire::Gretap { key: found_key, local: found_local, .. },
            ) => {
                compare("key", found_key.to_string(), key.to_string());
                compare("local address", found_local.to_string(), local.to_string());
            }
            (Self::VxlanMesh { .. } | Self::VxlanStar { .. }, Wire::Gretap { .. }) => {
                compare("kind", "GRE".to_owned(), "VXLAN".to_owned());
            }
            (Self::GreMesh { .. } | Self::GreStar { .. }, Wire::Vxlan { .. }) => {
                compare("kind", "VXLAN".to_owned(), "GRE".to_owned());
            }
        }
        found
    }
}

fn check_apart(hub: IpAddr, is_spoke: bool) -> Result<()> {
    if is_spoke {
        return Err(Error::invalid("hub", hub.to_string(), "must not be one of the spokes"));
    }
    Ok(())
}

fn check_host(host: IpAddr) -> Result<()> {
    let wrong = match host {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    if wrong || host.is_unspecified() || host.is_multicast() || host.is_loopback() {
        let rule = "must be a unicast address, and neither a loopback nor a link-local one";
        return Err(Error::invalid("host", host.to_string(), rule));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology(json: &str) -> TunnelTopology {
        serde_json::from_str(json).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_has_the_arms_that_its_place_needs() {
        // (wire, peers, isolated)
        let check = |json: &str, local: &str, expected: &[(&str, &[&str], bool)]| {
            let (topology, local) = (topology(json), ip(local));
            topology.check(local).unwrap();
            let arms: Vec<_> = topology
                .arms(local)
                .into_iter()
                .map(|arm| {
                    assert_eq!(topology.differences(local, &arm.wire), Vec::<String>::new());
                    (arm.wire.to_string(), arm.peers, arm.isolated)
                })
                .collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(wire, peers, isolated)| {
                    ((*wire).to_owned(), peers.iter().map(|peer| ip(peer)).collect(), *isolated)
                })
                .collect();
            assert_eq!(arms, expected, "{json}");
        };
        let vxlan = r#"{"vxlan_mesh": {"vni": 5, "hosts": ["10.0.0.1", "10.0.0.2", "10.0.0.3"]}}"#;
        check(vxlan, "10.0.0.2", &[("VXLAN 5 on UDP port 4789", &["10.0.0.1", "10.0.0.3"], false)]);
        check(
            r#"{"vxlan_mesh": {"vni": 5, "hosts": ["fd00::1"]}}"#,
            "fd00::1",
            &[("VXLAN 5 on UDP port 4789", &[], false)],
        );
        let star =
            r#"{"vxlan_star": {"port": 8472, "hub": "10.0.0.1", "spokes": {"10.0.0.2": 7, "10.0.0.3": 8}}}"#;
        check(
            star,
            "10.0.0.1",
            &[
                ("VXLAN 7 on UDP port 8472", &["10.0.0.2"], false),
                ("VXLAN 8 on UDP port 8472", &["10.0.0.3"], false),
            ],
        );
        check(star, "10.0.0.3", &[("VXLAN 8 on UDP port 8472", &["10.0.0.1"], false)]);
        let gre = r#"{"gre_mesh": {"key": 9, "hosts": ["10.0.0.1", "10.0.0.2", "10.0.0.3"]}}"#;
        check(
            gre,
            "10.0.0.2",
            &[
                ("GRE 9 from 10.0.0.2 to 10.0.0.1", &["10.0.0.1"], true),
                ("GRE 9 from 10.0.0.2 to 10.0.0.3", &["10.0.0.3"], true),
            ],
        );
        let star = r#"{"gre_star": {"key": 9, "hub": "10.0.0.1", "spokes": ["10.0.0.2", "10.0.0.3"]}}"#;
        check(
            star,
            "10.0.0.1",
            &[
                ("GRE 9 from 10.0.0.1 to 10.0.0.2", &["10.0.0.2"], false),
                ("GRE 9 from 10.0.0.1 to 10.0.0.3", &["10.0.0.3"], false),
            ],
        );
        check(star, "10.0.0.2", &[("GRE 9 from 10.0.0.2 to 10.0.0.1", &["10.0.0.1"], false)]);
    }

    #[test]
    fn topologies_are_checked() {
        for (json, local, rule) in [
            (r#"{"vxlan_mesh": {"vni": 5, "hosts": ["10.0.0.1"]}}"#, "10.0.0.2", "one of the hosts"),
            (r#"{"vxlan_mesh": {"vni": 5, "hosts": ["10.0.0.1", "fd00::1"]}}"#, "10.0.0.1", "family"),
            (r#"{"vxlan_mesh": {"vni": 5, "port": 0, "hosts": ["10.0.0.1"]}}"#, "10.0.0.1", "1 to 65535"),
            (r#"{"gre_mesh": {"key": 5, "hosts": ["10.0.0.1", "127.0.0.1"]}}"#, "10.0.0.1", "unicast"),
            (r#"{"gre_mesh": {"key": 5, "hosts": ["fd00::1", "fe80::1"]}}"#, "fd00::1", "unicast"),
            (r#"{"gre_mesh": {"key": 5, "hosts": ["10.0.0.1", "239.1.1.1"]}}"#, "10.0.0.1", "unicast"),
            (
                r#"{"vxlan_star": {"hub": "10.0.0.1", "spokes": {"10.0.0.2": 7, "10.0.0.3": 7}}}"#,
                "10.0.0.1",
                "one spoke alone",
            ),
            (r#"{"vxlan_star": {"hub": "10.0.0.1", "spokes": {"10.0.0.1": 7}}}"#, "10.0.0.1", "spokes"),
            (r#"{"gre_star": {"key": 1, "hub": "10.0.0.1", "spokes": ["10.0.0.1"]}}"#, "10.0.0.1", "spokes"),
            (r#"{"gre_star": {"key": 1, "hub": "10.0.0.1", "spokes": []}}"#, "10.0.0.9", "one of the hosts"),
        ] {
            let message = topology(json).check(ip(local)).unwrap_err().to_string();
            assert!(message.starts_with("invalid ") && message.contains(rule), "{json}: {message}");
        }
        for bad in [
            r#"{"vxlan_mesh": {"vni": 0, "hosts": []}}"#,
            r#"{"vxlan_mesh": {"vni": 16777216, "hosts": []}}"#,
            r#"{"gre_mesh": {"key": 4294967296, "hosts": []}}"#,
            r#"{"gre_mesh": {"key": 1, "vni": 1, "hosts": []}}"#,
            // Two hubs are no star.
            r#"{"gre_star": {"key": 1, "hub": ["10.0.0.1", "10.0.0.2"], "spokes": []}}"#,
        ] {
            assert!(serde_json::from_str::<TunnelTopology>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_changed_in_place_is_a_difference() {
        let mesh = topology(r#"{"vxlan_mesh": {"vni": 5, "hosts": ["10.0.0.1"]}}"#);
        let found = Wire::Vxlan { vni: 6, port: 1, local: ip("10.0.0.9") };
        assert_eq!(
            mesh.differences(ip("10.0.0.1"), &found),
            [
                "its VNI is 6, not 5",
                "its UDP port is 1, not 4789",
                "its local address is 10.0.0.9, not 10.0.0.1"
            ]
        );
        let other = Wire::Gretap { key: 5, local: ip("10.0.0.1"), remote: ip("10.0.0.2") };
        assert_eq!(mesh.differences(ip("10.0.0.1"), &other), ["its kind is GRE, not VXLAN"]);
        // Another spoke's arm is no difference at the hub.
        let star = topology(r#"{"vxlan_star": {"hub": "10.0.0.1", "spokes": {"10.0.0.2": 7}}}"#);
        let gone = Wire::Vxlan { vni: 8, port: 4789, local: ip("10.0.0.1") };
        assert_eq!(star.differences(ip("10.0.0.1"), &gone), Vec::<String>::new());
    }
}
