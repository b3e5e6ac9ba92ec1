//! Address translation for what leaves a network (`man 8 nft`, "NAT statements").

use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Subnet, nft};
use crate::error::{Error, Result};
use crate::name::LinkName;
use crate::sys::file;

/// A network whose hosts reach the outside under this host's addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatNetwork {
    /// The network.
    pub subnet: Subnet,
    /// The bridge it is behind. It need not exist yet.
    pub bridge: LinkName,
}

/// Address translation in one nftables table (family `inet`) that is docklet's alone; no other table is read or
/// changed. All calls work in the network namespace of the calling thread.
///
/// The table drops nothing, and it cannot undo another table's drop: on a host whose own rules drop forwarded packets
/// (Docker's do), allow the bridge there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nat {
    table: String,
}

impl Nat {
    /// Names the table: 1 to 63 bytes of letters, digits, `-` and `_`, beginning with a letter. Everything in a table of
    /// that name is taken for docklet's.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `table` breaks that rule.
    pub fn new(table: impl Into<String>) -> Result<Self> {
        let table = table.into();
        if (1..=63).contains(&table.len())
            && table.starts_with(|c: char| c.is_ascii_alphabetic())
            && table.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        {
            return Ok(Self { table });
        }
        let rule = "must have 1 to 63 letters, digits, '-' and '_', and begin with a letter";
        Err(Error::invalid("nftables table", table, rule))
    }

    /// Makes the table translate for exactly `networks`, and tells whether it did not before. A table that differs is
    /// replaced as a whole, in one transaction, so that there is no moment without; for no networks there is no table.
    /// What a network sends to itself, or through its own bridge, is not translated.
    ///
    /// Lets the host forward IPv4 packets (`net.ipv4.ip_forward`) and never takes that back, since others may rely on it
    /// by then. Forwarding of IPv6 is not switched on: it would make the host ignore the router advertisements that
    /// it may live by.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if `nft` is not installed, or if there is an IPv6 network and the host does not forward
    /// IPv6; [`Error::Command`] with what `nft` says if it refuses; [`Error::Os`] if forwarding cannot be switched on.
    pub fn apply(&self, networks: &[NatNetwork]) -> Result<bool> {
        let _span = tracing::debug_span!("nat", table = self.table).entered();
        if networks.iter().any(|network| matches!(network.subnet.net(), IpNet::V6(_))) {
            require_ipv6_forwarding()?;
        }
        if networks.iter().any(|network| matches!(network.subnet.net(), IpNet::V4(_))) {
            allow_ipv4_forwarding()?;
        }
        match self.current() {
            Ok(None) if networks.is_empty() => return Ok(false),
            Ok(Some(current)) if !networks.is_empty() && current == networks => return Ok(false),
            // Somebody else wrote into it: it is made anew.
            Ok(_) | Err(Error::Differs { .. }) => {}
            Err(error) => return Err(error),
        }
        let commands = if networks.is_empty() { forget(&self.table) } else { script(&self.table, networks) };
        nft::transact(commands)?;
        tracing::debug!(networks = networks.len(), "table replaced");
        Ok(true)
    }

    /// The networks that the table translates for, as the kernel has them, or `None` if there is no table.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if `nft` is not installed; [`Error::Command`] if it fails; [`Error::Differs`] if there is
    /// a rule in the table that docklet did not write.
    pub fn current(&self) -> Result<Option<Vec<NatNetwork>>> {
        let Some(objects) = nft::list_table(&self.table)? else { return Ok(None) };
        let rules = objects.iter().filter_map(|object| object.get("rule"));
        let networks = rules.map(|rule| {
            parse_rule(rule).ok_or_else(|| Error::Differs {
                what: format!("nftables table `inet {}`", self.table),
                difference: format!("a rule is not docklet's: {}", rule["expr"]),
            })
        });
        networks.collect::<Result<_>>().map(Some)
    }

    /// Removes the table. One that is gone is removed. Forwarding stays as it is.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if `nft` is not installed; [`Error::Command`] if it fails.
    pub fn remove(&self) -> Result<()> {
        nft::transact(forget(&self.table))?;
        tracing::debug!(table = self.table, "table removed");
        Ok(())
    }

    /// The name of the table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }
}

/// Deletes the table, whether or not there is one: only one that exists can be deleted, and making it twice is fine.
fn forget(table: &str) -> Vec<Value> {
    let table = json!({ "table": { "family": "inet", "name": table } });
    vec![json!({ "add": table }), json!({ "delete": table })]
}

fn script(table: &str, networks: &[NatNetwork]) -> Vec<Value> {
    let mut commands = forget(table);
    commands.push(json!({ "add": { "table": { "family": "inet", "name": table } } }));
    commands.push(json!({ "add": { "chain": {
        "family": "inet", "table": table, "name": "postrouting",
        "type": "nat", "hook": "postrouting", "prio": 100, "policy": "accept",
    } } }));
    commands.extend(networks.iter().map(|network| {
        json!({ "add": { "rule": {
            "family": "inet", "table": table, "chain": "postrouting", "expr": expressions(network),
        } } })
    }));
    commands
}

fn expressions(network: &NatNetwork) -> Value {
    let net = network.subnet.net();
    let protocol = match net {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    };
    let field = |field: &str| json!({ "payload": { "protocol": protocol, "field": field } });
    let prefix = json!({ "prefix": { "addr": net.addr().to_string(), "len": net.prefix_len() } });
    json!([
        { "match": { "op": "==", "left": field("saddr"), "right": prefix } },
        { "match": { "op": "!=", "left": field("daddr"), "right": prefix } },
        // Multicast and broadcast of the host's own on the bridge do not leave.
        { "match": { "op": "!=", "left": { "meta": { "key": "oifname" } }, "right": network.bridge.as_str() } },
        { "masquerade": null },
    ])
}

/// The network of a rule that [`expressions`] made.
fn parse_rule(rule: &Value) -> Option<NatNetwork> {
    let prefix = &rule.pointer("/expr/0/match/right/prefix")?;
    let subnet = format!("{}/{}", prefix["addr"].as_str()?, prefix["len"]).parse().ok()?;
    let bridge = LinkName::new(rule.pointer("/expr/2/match/right")?.as_str()?).ok()?;
    let network = NatNetwork { subnet, bridge };
    (rule["expr"] == expressions(&network)).then_some(network)
}

fn allow_ipv4_forwarding() -> Result<()> {
    let switch = Path::new("/proc/sys/net/ipv4/ip_forward");
    if file::read(switch)?.trim() == "0" {
        file::write_interface(switch, "1")?;
        tracing::debug!("net.ipv4.ip_forward switched on");
    }
    Ok(())
}

fn require_ipv6_forwarding() -> Result<()> {
    match file::read_if_exists(Path::new("/proc/sys/net/ipv6/conf/all/forwarding"))?.as_deref().map(str::trim) {
        Some("0") => Err(Error::Unsupported {
            what: "address translation for an IPv6 network".to_owned(),
            needs: "the host does not forward IPv6: set net.ipv6.conf.all.forwarding=1 with sysctl, and accept_ra=2 for \
                    an interface that gets its address or route by router advertisement"
                .to_owned(),
        }),
        Some(_) => Ok(()),
        None => Err(Error::Unsupported {
            what: "address translation for an IPv6 network".to_owned(),
            needs: "the kernel has no IPv6, or was booted with ipv6.disable=1".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(subnet: &str, bridge: &str) -> NatNetwork {
        NatNetwork { subnet: subnet.parse().unwrap(), bridge: LinkName::new(bridge).unwrap() }
    }

    #[test]
    fn tables_are_named() {
        Nat::new("docklet-0123abcd").unwrap();
        for bad in ["", "0a", "a b", "a;b", "a\n", &"x".repeat(64)] {
            let message = Nat::new(bad).unwrap_err().to_string();
            assert!(message.starts_with("invalid nftables table"), "{message}");
        }
    }

    #[test]
    fn rules_are_read_back() {
        for network in [network("10.0.0.0/24", "br0"), network("fd00::/64", "br1")] {
            assert_eq!(parse_rule(&json!({ "expr": expressions(&network) })), Some(network));
        }
        let mut foreign = json!({ "expr": expressions(&network("10.0.0.0/24", "br0")) });
        foreign["expr"][3] = json!({ "drop": null });
        assert_eq!(parse_rule(&foreign), None);
        assert_eq!(parse_rule(&json!({ "expr": [] })), None);
    }

    #[test]
    fn the_table_is_replaced_as_a_whole() {
        let script = script("t", &[network("10.0.0.0/24", "br0")]);
        let verbs: Vec<_> = script
            .iter()
            .map(|command| {
                let (verb, object) = command.as_object().unwrap().iter().next().unwrap();
                format!("{verb} {}", object.as_object().unwrap().keys().next().unwrap())
            })
            .collect();
        assert_eq!(verbs, ["add table", "delete table", "add table", "add chain", "add rule"]);
    }
}
