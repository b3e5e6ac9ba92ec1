//! What a [`Firewall`](super::Firewall) is to say, as plain data (`man 8 nft` has what becomes of it).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::iter;
use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Port, PortForward};
use crate::error::{Error, Result};
use crate::name::LinkName;
use crate::net::{LinkOwner, Subnet};

/// The longest owner that nftables takes as a comment, in bytes (`NFTNL_UDATA_COMMENT_MAXLEN`).
const OWNER_MAX: usize = 128;

/// Everything that one table says. The default says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ruleset {
    /// The networks of this host.
    #[serde(default)]
    pub networks: Vec<FirewallNetwork>,
    /// The published ports.
    #[serde(default)]
    pub forwards: Vec<PortForward>,
    /// What else is the tenants': the networks of other hosts. No network reaches them unless it may
    /// [reach](FirewallNetwork::reach) them, and what goes there is not masqueraded.
    #[serde(default)]
    pub pool: Vec<Subnet>,
    /// What no network reaches, whatever else is said: the control plane.
    #[serde(default)]
    pub denied: Vec<Denied>,
    /// The UDP ports of the host's tunnels: what a network sends there out of the pool could pass for a tunnel's frame, and
    /// is dropped. 4789, VXLAN's own, always is.
    #[serde(default)]
    pub tunnel_ports: BTreeSet<NonZeroU16>,
}

/// A network of this host: what is behind one bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirewallNetwork {
    /// Whose it is: at most 128 bytes. It stands beside each of its entries in the table.
    pub owner: LinkOwner,
    /// The bridge. It need not exist yet.
    pub bridge: LinkName,
    /// Its addresses. What it sends from any other address does not leave it; with none, nothing does.
    pub subnets: Vec<Subnet>,
    /// Whether what leaves the pool bears the host's address. Default: it does not.
    #[serde(default)]
    pub masquerade: bool,
    /// Other networks of the pool, on this host or another, to which it may open connections. Default: none. What is
    /// outside of the pool it reaches anyway.
    #[serde(default)]
    pub reach: Vec<Subnet>,
    /// Who outside of this host's networks may open connections to it, by address; `0.0.0.0/0` is everybody. Default: nobody.
    #[serde(default)]
    pub admit: Vec<IpNet>,
    /// What it may use of the host, at each address of the host but those in other networks. Default: nothing.
    #[serde(default)]
    pub host_ports: Vec<Port>,
}

impl FirewallNetwork {
    /// A network that reaches the outside under its own addresses, and nothing else.
    #[must_use]
    pub fn new(owner: LinkOwner, bridge: LinkName, subnets: Vec<Subnet>) -> Self {
        let (reach, admit, host_ports) = (Vec::new(), Vec::new(), Vec::new());
        Self { owner, bridge, subnets, masquerade: false, reach, admit, host_ports }
    }
}

/// A destination that no network reaches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denied {
    /// The addresses: `192.0.2.7/32`.
    pub net: IpNet,
    /// The port there. Default: everything.
    #[serde(default)]
    pub port: Option<Port>,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{port} of {}", self.net),
            None => self.net.fmt(f),
        }
    }
}

/// All ports of these addresses.
impl From<IpNet> for Denied {
    fn from(net: IpNet) -> Self {
        Self { net, port: None }
    }
}

impl Ruleset {
    /// Whether it makes sense in itself. The host is not looked at.
    ///
    /// # Errors
    /// [`Error::Invalid`] if an owner is too long, a bridge is named twice, subnets of two networks overlap, an address
    /// range has bits of a host, or a forward leads out of the networks, to what is denied, or is published where another
    /// one is; then both are named. Where everything is denied (`0.0.0.0/0`) a port can still be published to the outside.
    pub fn check(&self) -> Result<()> {
        let mut bridges = BTreeSet::new();
        for network in &self.networks {
            check_owner(&network.owner)?;
            if !bridges.insert(&network.bridge) {
                return Err(Error::invalid("bridge", network.bridge.as_str(), "is behind two networks"));
            }
            network.admit.iter().try_for_each(|net| check_net("admitted addresses", *net))?;
        }
        self.denied.iter().try_for_each(|denied| check_net("denied addresses", denied.net))?;
        self.check_overlap()?;
        let (targets, mut published) = (Targets::of(self), BTreeMap::new());
        for forward in &self.forwards {
            check_owner(&forward.owner)?;
            forward.check()?;
            targets.check(forward)?;
            forward.claim(&mut published)?;
        }
        Ok(())
    }

    /// Whose the entries are.
    pub(super) fn owners(&self) -> BTreeSet<LinkOwner> {
        let networks = self.networks.iter().map(|network| &network.owner);
        networks.chain(self.forwards.iter().map(|forward| &forward.owner)).cloned().collect()
    }

    fn check_overlap(&self) -> Result<()> {
        let mut subnets: Vec<_> = self
            .networks
            .iter()
            .flat_map(|network| network.subnets.iter().map(|subnet| (subnet.net(), &network.bridge)))
            .collect();
        // A network comes before what it contains, and next to it.
        subnets.sort_by_key(|(net, _)| (net.network(), net.prefix_len()));
        for pair in subnets.windows(2) {
            let [(net, bridge), (other, beside)] = pair else { continue };
            if net.contains(other) {
                let rule = format!("overlaps {net} of bridge {bridge}, and is behind bridge {beside}");
                return Err(Error::invalid("subnet", other.to_string(), rule));
            }
        }
        Ok(())
    }
}

/// Where forwards may lead, and where not. Made once for all: there may be thousands of each.
struct Targets {
    /// By their first addresses; no two overlap.
    subnets: BTreeMap<IpAddr, Subnet>,
    denied: BTreeSet<(IpNet, Option<Port>)>,
}

impl Targets {
    fn of(ruleset: &Ruleset) -> Self {
        let subnets = ruleset.networks.iter().flat_map(|network| &network.subnets);
        Self {
            subnets: subnets.map(|subnet| (subnet.net().network(), *subnet)).collect(),
            denied: ruleset.denied.iter().map(|denied| (denied.net, denied.port)).collect(),
        }
    }

    fn check(&self, forward: &PortForward) -> Result<()> {
        let target = forward.to.ip();
        let before = self.subnets.range(..=target).next_back().map(|(_, subnet)| subnet);
        let Some(subnet) = before.filter(|subnet| subnet.contains(target)) else {
            let rule = "leads to an address that is in none of the networks";
            return Err(Error::invalid("port forward", forward.to_string(), rule));
        };
        if let Err(Error::Invalid { rule, .. }) = subnet.interface(target) {
            let rule = format!("leads to no host of {subnet}: {target} {rule}");
            return Err(Error::invalid("port forward", forward.to_string(), rule));
        }
        let number = NonZeroU16::new(forward.to.port());
        let port = number.map(|number| Port { protocol: forward.protocol, number });
        let around = iter::successors(Some(IpNet::from(target)), IpNet::supernet);
        let denied = around
            .filter(|net| net.prefix_len() > 0)
            .flat_map(|net| [None, port].map(|port| Denied { net, port }))
            .find(|denied| self.denied.contains(&(denied.net, denied.port)));
        if let Some(denied) = denied {
            let rule = format!("leads to {denied}, which is denied");
            return Err(Error::invalid("port forward", format!("{forward} of {}", forward.owner), rule));
        }
        Ok(())
    }
}

fn check_owner(owner: &LinkOwner) -> Result<()> {
    if owner.as_str().len() <= OWNER_MAX {
        return Ok(());
    }
    Err(Error::invalid("owner of a rule", owner.as_str(), format!("must have at most {OWNER_MAX} bytes")))
}

fn check_net(what: &'static str, net: IpNet) -> Result<()> {
    if net == net.trunc() {
        return Ok(());
    }
    Err(Error::invalid(what, net.to_string(), format!("has bits of a host; the network is {}", net.trunc())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(bridge: &str, subnets: &[&str]) -> FirewallNetwork {
        FirewallNetwork::new(
            LinkOwner::new(format!("net:{bridge}")).unwrap(),
            LinkName::new(bridge).unwrap(),
            subnets.iter().map(|subnet| subnet.parse().unwrap()).collect(),
        )
    }

    fn forward(host: Option<&str>, port: u16, to: &str) -> PortForward {
        serde_json::from_value(serde_json::json!({
            "owner": format!("box:{to}"), "protocol": "tcp", "host_address": host, "host_port": port, "to": to,
        }))
        .unwrap()
    }

    fn refused(change: impl FnOnce(&mut Ruleset)) -> String {
        let mut ruleset = Ruleset {
            networks: vec![network("br0", &["10.0.0.0/24", "fd00::/64"]), network("br1", &["10.0.1.0/24"])],
            ..Ruleset::default()
        };
        ruleset.check().unwrap();
        change(&mut ruleset);
        let Err(error) = ruleset.check() else { return String::new() };
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        error.to_string()
    }

    #[test]
    fn networks_are_checked() {
        let says = |message: String, rule: &str| assert!(message.contains(rule), "{message:?}: {rule}");
        says(refused(|r| r.networks[1].bridge = LinkName::new("br0").unwrap()), "behind two networks");
        for overlap in ["10.0.0.0/24", "10.0.0.128/25", "10.0.0.0/16"] {
            says(refused(|r| r.networks[1].subnets = vec![overlap.parse().unwrap()]), "overlaps");
        }
        says(refused(|r| r.networks[0].owner = LinkOwner::new("x".repeat(129)).unwrap()), "128 bytes");
        says(refused(|r| r.networks[0].admit = vec!["10.1.2.3/8".parse().unwrap()]), "network is 10.0.0.0/8");
        let denied = Denied::from("192.0.2.7/24".parse::<IpNet>().unwrap());
        says(refused(|r| r.denied.push(denied)), "network is 192.0.2.0/24");
    }

    #[test]
    fn forwards_stay_in_the_networks() {
        let says = |message: String, rule: &str| assert!(message.contains(rule), "{message:?}: {rule}");
        let to = |to: &'static str| refused(|r| r.forwards.push(forward(None, 80, to)));
        assert_eq!(to("10.0.0.2:80"), "");
        assert_eq!(to("[fd00::2]:80"), "");
        says(to("10.0.2.2:80"), "none of the networks");
        says(to("127.0.0.1:80"), "none of the networks");
        says(to("10.0.0.255:80"), "port forward");
        says(to("10.0.0.255:80"), "leads to no host of 10.0.0.0/24: 10.0.0.255 is the network's broadcast");
        says(to("10.0.0.2:0"), "port 0");
        for port in
            [None, Some(Port { protocol: super::super::Protocol::Tcp, number: 80.try_into().unwrap() })]
        {
            let denied = Denied { net: "10.0.0.2/32".parse().unwrap(), port };
            says(
                refused(|r| {
                    r.denied.push(denied);
                    r.forwards.push(forward(None, 8080, "10.0.0.2:80"));
                }),
                "which is denied",
            );
        }
        let all = Denied { net: "0.0.0.0/0".parse().unwrap(), port: None };
        let published = refused(|r| {
            r.denied.push(all);
            r.forwards.push(forward(None, 8080, "10.0.0.2:80"));
        });
        assert_eq!(published, "", "to the outside");
    }

    #[test]
    fn a_port_is_published_once() {
        let both = |one: PortForward, other: PortForward| refused(|r| r.forwards.extend([one, other]));
        for (one, other) in [(None, None), (None, Some("192.0.2.1")), (Some("192.0.2.1"), None)] {
            let message = both(forward(one, 80, "10.0.0.2:80"), forward(other, 80, "10.0.1.2:80"));
            assert!(message.contains("box:10.0.0.2:80"), "{message}");
            assert!(message.contains("10.0.1.2:80"), "{message}");
        }
        let same = forward(None, 80, "10.0.0.2:80");
        assert!(both(same.clone(), same).contains("is published already"));
        let udp = PortForward { protocol: super::super::Protocol::Udp, ..forward(None, 80, "10.0.1.2:80") };
        for other in [
            udp,
            forward(None, 81, "10.0.0.2:80"),
            // Any address of the host is any IPv6 address for this one.
            forward(None, 80, "[fd00::2]:80"),
        ] {
            assert_eq!(both(forward(None, 80, "10.0.0.2:80"), other), "");
        }
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|ip| forward(Some(ip), 80, "10.0.0.2:80"));
        assert_eq!(both(one, other), "");
    }
}
