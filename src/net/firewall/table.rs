//! The whole table: as it should be, and as `nft` lists it (`man 5 libnftables-json`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ipnet::IpNet;
use serde_json::Value;

use super::entry::{self, Content, Key, Part};
use super::rules::{CHAINS, SETS, Set};
use super::{FirewallNetwork, PortForward, Ruleset, Whose, syntax};
use crate::net::{LinkOwner, TunnelTopology};

const TUNNEL_PORTS: &str = "tunnel_ports";

/// The sets of what is said for all networks.
const HOSTS_OWN: [&str; 6] = ["pool4", "pool6", "denied4", "denied6", "denied_ports4", "denied_ports6"];

/// The entries of all sets, and what in a listed table is none of docklet's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// By set and key.
    entries: BTreeMap<(&'static str, Key), Content>,
    /// Each thing that is there and should not be, or is missing.
    strange: Vec<String>,
}

impl Table {
    /// What `ruleset` asks for.
    pub(super) fn of(ruleset: &Ruleset) -> Self {
        let mut table = Self::default();
        // First: of what is the host's and a network's, too, the host's entry counts.
        for subnet in &ruleset.pool {
            table.enter(of_family(subnet.net(), "pool4", "pool6"), vec![Part::Net(subnet.net())], None, None);
        }
        ruleset.networks.iter().for_each(|network| table.enter_network(network));
        ruleset.forwards.iter().for_each(|forward| table.enter_forward(forward));
        for denied in &ruleset.denied {
            let mut key = vec![Part::Net(denied.net)];
            let set = match denied.port {
                None => of_family(denied.net, "denied4", "denied6"),
                Some(port) => {
                    key.extend([Part::word(port.protocol), Part::word(port.number)]);
                    of_family(denied.net, "denied_ports4", "denied_ports6")
                }
            };
            table.enter(set, key, None, None);
        }
        for port in
            [TunnelTopology::VXLAN_PORT].into_iter().chain(ruleset.tunnel_ports.iter().map(|port| port.get()))
        {
            table.enter(TUNNEL_PORTS, vec![Part::word(port)], None, None);
        }
        table
    }

    fn enter_network(&mut self, network: &FirewallNetwork) {
        let owner = Some(&network.owner);
        let bridge = || Part::link(&network.bridge);
        self.enter("bridges", vec![bridge()], None, owner);
        self.enter("same", vec![bridge(), bridge()], None, owner);
        for net in network.subnets.iter().map(|subnet| subnet.net()) {
            self.enter(of_family(net, "own4", "own6"), vec![bridge(), Part::Net(net)], None, owner);
            self.enter(of_family(net, "pool4", "pool6"), vec![Part::Net(net)], None, owner);
            if network.masquerade {
                self.enter(of_family(net, "masquerade4", "masquerade6"), vec![Part::Net(net)], None, owner);
            }
        }
        for net in network.reach.iter().map(|subnet| subnet.net()) {
            self.enter(of_family(net, "reach4", "reach6"), vec![bridge(), Part::Net(net)], None, owner);
        }
        for net in &network.admit {
            self.enter(of_family(*net, "admit4", "admit6"), vec![bridge(), Part::Net(*net)], None, owner);
        }
        for port in &network.host_ports {
            let key = vec![bridge(), Part::word(port.protocol), Part::word(port.number)];
            self.enter("host_ports", key, None, owner);
        }
    }

    fn enter_forward(&mut self, forward: &PortForward) {
        let target = IpNet::from(forward.to.ip());
        let data = format!("{} . {}", forward.to.ip(), forward.to.port());
        let mut key = vec![Part::word(forward.protocol), Part::word(forward.host_port)];
        let set = match forward.host_address {
            None => of_family(target, "any4", "any6"),
            Some(address) => {
                key.insert(0, Part::Net(address.into()));
                of_family(target, "at4", "at6")
            }
        };
        self.enter(set, key, Some(data), Some(&forward.owner));
    }

    fn enter(&mut self, set: &'static str, key: Vec<Part>, data: Option<String>, owner: Option<&LinkOwner>) {
        let owner = owner.map(ToString::to_string);
        self.entries.entry((set, Key(key))).or_insert(Content { data, owner });
    }

    /// A table of which nothing is known but that it is not as it should be.
    pub(super) fn unreadable(reason: String) -> Self {
        Self { strange: vec![reason], ..Self::default() }
    }

    /// What `nft` lists of the table.
    pub(super) fn listed(objects: &[Value]) -> Self {
        let mut table = Self::default();
        let mut found = Vec::new();
        for object in objects {
            let Some((kind, content)) = object.as_object().and_then(|fields| fields.iter().next()) else {
                continue;
            };
            let name = content["name"].as_str().unwrap_or_default();
            match kind.as_str() {
                "metainfo" => {}
                "table" if content.get("flags").is_none() => {}
                "set" | "map" => {
                    found.push(format!("{kind} {name} {}", syntax::set(content)));
                    if let Some(set) = SETS.iter().find(|set| set.name == name) {
                        table.read_set(set, content);
                    }
                }
                "chain" => found.push(format!("chain {name} {}", syntax::chain(content))),
                "rule" => found.push(format!("rule {}", syntax::rule(content))),
                _ => table.strange.push(object.to_string()),
            }
        }
        table.compare(&found, objects);
        table
    }

    fn read_set(&mut self, set: &Set, content: &Value) {
        let types = syntax::types(content);
        for value in content["elem"].as_array().map(Vec::as_slice).unwrap_or_default() {
            match entry::listed(value, &types) {
                Some((key, content)) => {
                    self.entries.insert((set.name, key), content);
                }
                None => self.strange.push(format!("{} has {value}", set.name)),
            }
        }
    }

    /// Notes where chains, rules and declarations are not as they should be.
    fn compare(&mut self, found: &[String], objects: &[Value]) {
        let sets = SETS.iter().map(|set| format!("{} {} {}", set.kind, set.name, set.declaration()));
        let chains = CHAINS.iter().map(|chain| format!("chain {} {}", chain.name, chain.declaration()));
        let declared: BTreeSet<String> = sets.chain(chains).collect();
        let listed: BTreeSet<String> =
            found.iter().filter(|text| !text.starts_with("rule ")).cloned().collect();
        self.strange.extend(listed.difference(&declared).cloned());
        self.strange.extend(declared.difference(&listed).map(|text| format!("no {text}")));
        for chain in CHAINS {
            let rules = objects.iter().filter_map(|object| object.get("rule"));
            let rules: Vec<_> = rules.filter(|rule| rule["chain"] == chain.name).map(syntax::rule).collect();
            if rules != chain.rules {
                let strange = rules.iter().find(|rule| !chain.rules.contains(&rule.as_str()));
                let difference = strange.map_or("rules are missing, or in another order", String::as_str);
                self.strange.push(format!("{}: {difference}", chain.name));
            }
        }
    }

    /// What is strange about it, if anything is.
    pub(super) fn stranger(&self) -> Option<String> {
        (!self.strange.is_empty()).then(|| self.strange.join("; "))
    }

    /// Takes over what `other` has that `keep` chooses.
    pub(super) fn adopt(&mut self, other: &Self, keep: impl Fn(Whose<'_>) -> bool) {
        for ((set, key), content) in &other.entries {
            let owner = content.owner.as_ref().map(LinkOwner::new);
            let whose = match &owner {
                Some(Ok(owner)) => Whose::Owner(owner),
                None if *set == TUNNEL_PORTS => Whose::Tunnels,
                None if HOSTS_OWN.contains(set) => Whose::Host,
                // A stranger's.
                _ => continue,
            };
            if !keep(whose) {
                continue;
            }
            if whose == Whose::Host {
                self.entries.insert((set, key.clone()), content.clone());
            }
            self.entries.entry((set, key.clone())).or_insert_with(|| content.clone());
            // Its part of the pool may have been in a larger one.
            if let ("own4" | "own6", [_, Part::Net(net)]) = (*set, key.0.as_slice()) {
                let place = (of_family(*net, "pool4", "pool6"), Key(vec![Part::Net(*net)]));
                self.entries.entry(place).or_insert_with(|| content.clone());
            }
        }
    }

    /// Leaves out ranges that are in another one: the kernel does not take ranges that overlap.
    pub(super) fn settle(&mut self) {
        let entries = &self.entries;
        let contained =
            |set: &'static str, key: &Key| key.larger().any(|key| entries.contains_key(&(set, key)));
        let within: Vec<_> = entries
            .keys()
            .filter(|(set, key)| SETS.iter().any(|s| s.name == *set && s.interval) && contained(set, key))
            .cloned()
            .collect();
        within.iter().for_each(|place| drop(self.entries.remove(place)));
    }

    /// What to tell `nft` to make `wanted` of the listed table NAME, if only sets without ranges differ, as when a port is
    /// published: not all kernels take a range out and one that overlaps it in, in one transaction.
    pub(super) fn update(&self, wanted: &Self, name: &str) -> Option<String> {
        let differs = |one: &Self, other: &Self| {
            let fresh =
                one.entries.iter().filter(|(place, content)| other.entries.get(place) != Some(content));
            fresh.map(|((set, key), content)| (*set, key.clone(), content.clone())).collect::<Vec<_>>()
        };
        let (gone, fresh) = (differs(self, wanted), differs(wanted, self));
        let plain = |set: &str| SETS.iter().any(|known| known.name == set && !known.interval);
        if !self.strange.is_empty() || !gone.iter().chain(&fresh).all(|(set, ..)| plain(set)) {
            return None;
        }
        let gone = gone.iter().map(|(set, key, _)| format!("delete element inet {name} {set} {{ {key} }}\n"));
        let fresh = fresh
            .iter()
            .map(|(set, key, content)| format!("add element inet {name} {set} {{ {key}{content} }}\n"));
        Some(gone.chain(fresh).collect())
    }

    /// Whether it says nothing of anybody: what is the host's own has no effect without a network.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.values().all(|content| content.owner.is_none())
    }

    /// One text per entry, sorted.
    pub(super) fn entries(&self) -> Vec<String> {
        let text = |((set, key), content): (&(&str, Key), &Content)| {
            let data = content.data.as_ref().map(|data| format!(" : {data}")).unwrap_or_default();
            let owner = content.owner.as_ref().map(|owner| format!(" # {owner}")).unwrap_or_default();
            format!("{set} {key}{data}{owner}")
        };
        self.entries.iter().map(text).collect()
    }
}

/// What stands between the braces of the table, for `nft`.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for set in SETS {
            write!(f, "{} {} {{ {}", set.kind, set.name, set.declaration())?;
            let entries: Vec<_> = self.entries.iter().filter(|((name, _), _)| *name == set.name).collect();
            let mut separator = " elements = {";
            for ((_, key), content) in &entries {
                write!(f, "{separator} {key}{content}")?;
                separator = ",";
            }
            writeln!(f, "{} }}", if entries.is_empty() { "" } else { " }" })?;
        }
        for chain in CHAINS {
            writeln!(f, "chain {} {{ {}", chain.name, chain.declaration())?;
            chain.rules.iter().try_for_each(|rule| writeln!(f, "{rule}"))?;
            writeln!(f, "}}")?;
        }
        Ok(())
    }
}

/// The set for addresses of the family of `net`.
fn of_family(net: IpNet, four: &'static str, six: &'static str) -> &'static str {
    match net {
        IpNet::V4(_) => four,
        IpNet::V6(_) => six,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ruleset() -> Ruleset {
        serde_json::from_value(json!({
            "networks": [{
                "owner": "net", "bridge": "br0", "subnets": ["10.0.0.0/24"], "masquerade": true,
                "reach": ["10.0.1.0/24"], "host_ports": [{ "protocol": "udp", "number": 53 }],
            }],
            "forwards": [{ "owner": "box", "protocol": "tcp", "host_port": 80, "to": "10.0.0.2:8080" }],
            "pool": ["10.0.0.0/16"],
            "denied": [{ "net": "192.0.2.9/32", "port": { "protocol": "tcp", "number": 2379 } }],
            "tunnel_ports": [8472],
        }))
        .unwrap()
    }

    #[test]
    fn a_ruleset_becomes_entries() {
        let mut table = Table::of(&ruleset());
        table.settle();
        assert_eq!(
            table.entries(),
            [
                "any4 tcp . 80 : 10.0.0.2 . 8080 # box",
                "bridges \"br0\" # net",
                "denied_ports4 192.0.2.9 . tcp . 2379",
                "host_ports \"br0\" . udp . 53 # net",
                "masquerade4 10.0.0.0/24 # net",
                "own4 \"br0\" . 10.0.0.0/24 # net",
                // The network's own part of the pool is in the pool.
                "pool4 10.0.0.0/16",
                "reach4 \"br0\" . 10.0.1.0/24 # net",
                "same \"br0\" . \"br0\" # net",
                "tunnel_ports 4789",
                "tunnel_ports 8472",
            ]
        );
        let script = table.to_string();
        let map = "map any4 { type inet_proto . inet_service : ipv4_addr . inet_service; \
                   elements = { tcp . 80 comment \"box\" : 10.0.0.2 . 8080 } }\n";
        assert!(script.contains(map), "{script}");
        assert!(script.contains("set admit6 { type ifname . ipv6_addr; flags interval; }\n"), "{script}");
    }

    #[test]
    fn what_is_kept_is_chosen() {
        let (mut old, mut new) = (Table::of(&ruleset()), Table::default());
        new.adopt(&old, |whose| matches!(whose, Whose::Owner(owner) if owner.as_str() == "box"));
        assert_eq!(new.entries(), ["any4 tcp . 80 : 10.0.0.2 . 8080 # box"]);
        assert!(!new.is_empty());
        // A stranger's, without an owner.
        old.enter("bridges", vec![Part::Link("br9".to_owned())], None, None);
        let kept = |whose: Whose<'_>| {
            let mut table = Table::default();
            table.adopt(&old, |found| found == whose);
            table.entries()
        };
        assert_eq!(kept(Whose::Tunnels), ["tunnel_ports 4789", "tunnel_ports 8472"]);
        assert_eq!(kept(Whose::Host), ["denied_ports4 192.0.2.9 . tcp . 2379", "pool4 10.0.0.0/16"]);
        let pool = Ruleset { networks: Vec::new(), forwards: Vec::new(), ..ruleset() };
        assert!(Table::of(&pool).is_empty());
    }

    #[test]
    fn strangers_are_named() {
        let listed = Table::listed(&[
            json!({ "metainfo": { "version": "1.0.6" } }),
            json!({ "set": { "name": "bridges", "type": "ifname", "elem": ["br0", { "elem": { "val": "br1", "timeout": 5 } }] } }),
            json!({ "chain": { "name": "extra" } }),
            json!({ "rule": { "chain": "input", "expr": [{ "drop": null }] } }),
            json!({ "counter": { "name": "c" } }),
        ]);
        let stranger = listed.stranger().unwrap();
        for part in ["bridges has", "timeout", "chain extra", "no set same", "input: drop", "counter"] {
            assert!(stranger.contains(part), "{part}: {stranger}");
        }
        assert_eq!(listed.entries(), ["bridges \"br0\""]);
    }
}
