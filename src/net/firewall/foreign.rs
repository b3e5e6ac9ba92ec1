//! Rules of others that drop what docklet's networks send and get (`man 8 nft`, `man 8 iptables`).

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::net::nft;
use crate::sys::{file, tool};

/// A chain of somebody else that drops forwarded packets unless one of its rules lets them pass.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ForwardObstacle {
    /// The program that lists it: "nft", "iptables-legacy" or "ip6tables-legacy".
    pub program: &'static str,
    /// Family, table and chain: "ip filter FORWARD".
    pub chain: String,
    /// Whether rules beside it name the bridges: somebody has thought of them.
    pub names_bridges: bool,
}

impl fmt::Display for ForwardObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.chain, self.program)
    }
}

/// The chains, in the network namespace of the calling thread, that drop forwarded packets by their policy or by a rule
/// for everything. `bridges` is how the names of the bridges begin. Legacy iptables are asked only if the kernel has tables
/// of theirs.
///
/// # Errors
/// [`Error::Unsupported`] if `nft` is not installed; [`Error::Command`] if it cannot be read; [`Error::Os`] if a program
/// cannot be run.
pub fn forward_obstacles(bridges: &str) -> Result<Vec<ForwardObstacle>> {
    let text = nft::list_ruleset()?;
    let objects = nft::parse(&text).map_err(|reason| Error::Command {
        program: "nft".to_owned(),
        status: "unreadable output".to_owned(),
        stderr: reason,
    })?;
    let mut obstacles = in_ruleset(&objects, bridges);
    for (family, program) in [("ip", "iptables-legacy"), ("ip6", "ip6tables-legacy")] {
        // The program itself would load the module and make the tables.
        let tables = Path::new("/proc/thread-self/net").join(format!("{family}_tables_names"));
        let tables = file::read_if_exists(&tables)?.unwrap_or_default();
        if !tables.lines().any(|table| table == "filter") {
            continue;
        }
        let Some(mut command) = tool::command(program) else { continue };
        let output = tool::output(command.arg("-S"), tool::Limit::QUICK)?;
        let listing = String::from_utf8_lossy(&output.stdout);
        obstacles.extend(in_legacy(program, family, &listing, bridges));
    }
    Ok(obstacles)
}

fn in_ruleset(objects: &[Value], bridges: &str) -> Vec<ForwardObstacle> {
    let rules = || objects.iter().filter_map(|object| object.get("rule"));
    let chains = objects.iter().filter_map(|object| object.get("chain"));
    let obstacles = chains.filter(|chain| chain["hook"] == "forward").filter_map(|chain| {
        let beside = |rule: &&Value| rule["family"] == chain["family"] && rule["table"] == chain["table"];
        let drops_all = rules().filter(beside).any(|rule| rule["chain"] == chain["name"] && drops(rule));
        if chain["policy"] != "drop" && !drops_all {
            return None;
        }
        let named = format!("\"{bridges}");
        Some(ForwardObstacle {
            program: "nft",
            chain: ["family", "table", "name"].map(|part| chain[part].as_str().unwrap_or("?")).join(" "),
            names_bridges: rules().filter(beside).any(|rule| rule["expr"].to_string().contains(&named)),
        })
    });
    obstacles.collect()
}

/// Whether the rule drops whatever comes to it.
fn drops(rule: &Value) -> bool {
    let statements = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is = |statement: &Value, kinds: &[&str]| kinds.iter().any(|kind| statement.get(kind).is_some());
    statements.last().is_some_and(|last| is(last, &["drop", "reject"]))
        && statements.iter().all(|statement| is(statement, &["drop", "reject", "counter", "log"]))
}

/// What `iptables -S` says.
fn in_legacy(program: &'static str, family: &str, listing: &str, bridges: &str) -> Option<ForwardObstacle> {
    let all = ["-A FORWARD -j DROP", "-A FORWARD -j REJECT", "-P FORWARD DROP"];
    let drops = listing.lines().any(|line| all.iter().any(|start| line.starts_with(start)));
    let named = [format!("-i {bridges}"), format!("-o {bridges}")];
    drops.then(|| ForwardObstacle {
        program,
        chain: format!("{family} filter FORWARD"),
        names_bridges: named.iter().any(|named| listing.contains(named)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn chains_that_drop_are_found() {
        let chain = |hook: &str, policy: &str| json!({ "chain": { "family": "ip", "table": "filter", "name": "X", "hook": hook, "policy": policy } });
        let rule = |expr: Value| json!({ "rule": { "family": "ip", "table": "filter", "chain": "X", "expr": expr } });
        let found = |objects: &[Value]| {
            in_ruleset(objects, "dk").into_iter().map(|found| found.names_bridges).collect::<Vec<_>>()
        };
        assert_eq!(found(&[chain("forward", "drop")]), [false]);
        assert_eq!(found(&[chain("forward", "accept"), chain("input", "drop")]), [false; 0]);
        let reject = rule(json!([{ "counter": null }, { "reject": null }]));
        assert_eq!(found(&[chain("forward", "accept"), reject]), [false]);
        let ours = rule(json!([
            { "match": { "op": "==", "left": { "meta": { "key": "iifname" } }, "right": "dk*" } }, { "accept": null },
        ]));
        assert_eq!(found(&[chain("forward", "drop"), ours]), [true]);
    }

    #[test]
    fn legacy_chains_are_found() {
        let found =
            |text: &str| in_legacy("iptables-legacy", "ip", text, "dk").map(|found| found.names_bridges);
        assert_eq!(found("-P INPUT ACCEPT\n-P FORWARD DROP\n"), Some(false));
        assert_eq!(found("-P FORWARD DROP\n-A FORWARD -i dk+ -j ACCEPT\n"), Some(true));
        assert_eq!(found("-P FORWARD ACCEPT\n-A FORWARD -i eth0 -j DROP\n"), None);
    }
}
