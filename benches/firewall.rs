//! Publishing one more port, and looking whether everything is as it should be; against the `nft` processes that people run
//! for it. Both sides in turns, in one run.
//!
//! By hand a published port is a rule each in the chains `prerouting`, `output` and `forward` (what Docker and others add per
//! port), and a look is `nft list table`. Run it as root with `cargo bench --bench firewall`. `DOCKLET_PAIRS` sets the number
//! of pairs (default 60).

#![allow(clippy::print_stdout, missing_docs, reason = "a benchmark prints")]

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use docklet::name::LinkName;
use docklet::net::{Firewall, FirewallNetwork, LinkOwner, PortForward, Protocol, Ruleset};
use nix::sched::{CloneFlags, unshare};

/// The table of the other side.
const BY_HAND: &str = "byhand";

fn main() {
    let pairs: usize = std::env::var("DOCKLET_PAIRS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    unshare(CloneFlags::CLONE_NEWNET).expect("root is needed: unshare");
    println!("\n{pairs} pairs, in turns                                   docklet       nft   ratio");
    for (networks, forwards) in [(1, 1), (20, 100), (200, 1000)] {
        nft(&["flush ruleset"]);
        let firewall = Firewall::new("docklet-bench").expect("a name");
        let mut ruleset = ruleset(networks, forwards);
        firewall.apply(&ruleset).expect("apply");
        by_hand(forwards);
        let mut sides: [Vec<Duration>; 4] = Default::default();
        for pair in 0..pairs {
            let port = 40_000 + u16::try_from(pair % 10_000).expect("small");
            ruleset.forwards.push(forward(port, 0));
            sides[0].push(timed(|| assert!(firewall.apply(&ruleset).expect("apply"))));
            sides[1].push(timed(|| publish_by_hand(port)));
            sides[2].push(timed(|| assert!(!firewall.apply(&ruleset).expect("apply"))));
            sides[3].push(timed(|| nft(&["list", "table", "inet", BY_HAND])));
            ruleset.forwards.pop();
        }
        firewall.remove().expect("remove");
        for (what, ours, theirs) in [("one more port", 0, 1), ("nothing to do", 2, 3)] {
            let [ours, theirs] = [ours, theirs].map(|side| median(&sides[side]));
            let of = format!("{what}, {networks} networks, {forwards} ports");
            println!("  {of:<46} {ours:>8.2}  {theirs:>8.2}  {:>6.2}", ours / theirs);
        }
    }
}

fn ruleset(networks: u16, forwards: u16) -> Ruleset {
    let network = |n: u16| {
        let bridge = LinkName::new(format!("dk{n:013x}")).expect("a name");
        let owner = LinkOwner::new(format!("docklet:0123abcd:network:{n:016x}")).expect("an owner");
        let subnet = format!("10.88.{n}.0/24").parse().expect("a subnet");
        FirewallNetwork { masquerade: true, ..FirewallNetwork::new(owner, bridge, vec![subnet]) }
    };
    Ruleset {
        networks: (0..networks).map(network).collect(),
        forwards: (0..forwards).map(|n| forward(10_000 + n, n % networks)).collect(),
        ..Ruleset::default()
    }
}

fn forward(port: u16, network: u16) -> PortForward {
    PortForward {
        owner: LinkOwner::new(format!("docklet:0123abcd:container:{port:016x}")).expect("an owner"),
        protocol: Protocol::Tcp,
        host_address: None,
        host_port: port.try_into().expect("a port"),
        to: format!("10.88.{network}.2:80").parse().expect("an address"),
    }
}

/// The same ports in a table with a rule each.
fn by_hand(forwards: u16) {
    let table = format!("inet {BY_HAND}");
    nft(&[&format!("add table {table}")]);
    for (chain, kind) in [("prerouting", "nat"), ("output", "nat"), ("forward", "filter")] {
        nft(&[&format!("add chain {table} {chain} {{ type {kind} hook {chain} priority 0; }}")]);
    }
    let rules: Vec<_> = (0..forwards).flat_map(|n| rules(10_000 + n)).collect();
    let mut child = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
    child.stdin.take().expect("a pipe").write_all(rules.join("\n").as_bytes()).expect("write");
    assert!(child.wait().expect("wait").success());
}

fn rules(port: u16) -> [String; 3] {
    let rule = |chain: &str, rule: String| format!("add rule inet {BY_HAND} {chain} {rule}");
    let dnat = format!("fib daddr type local tcp dport {port} dnat ip to 10.88.0.2:80");
    [
        rule("prerouting", dnat.clone()),
        rule("output", dnat),
        rule("forward", format!("ip daddr 10.88.0.2 tcp dport 80 ct original proto-dst {port} accept")),
    ]
}

/// A process for each rule.
fn publish_by_hand(port: u16) {
    rules(port).iter().for_each(|rule| nft(&[rule]));
}

fn nft(arguments: &[&str]) {
    let status = Command::new("nft").args(arguments).stdout(Stdio::null()).status().expect("nft");
    assert!(status.success(), "nft {arguments:?}: {status}");
}

fn timed(call: impl FnOnce()) -> Duration {
    let started = Instant::now();
    call();
    started.elapsed()
}

fn median(durations: &[Duration]) -> f64 {
    let mut sorted = durations.to_vec();
    sorted.sort();
    sorted[sorted.len() / 2].as_secs_f64() * 1e3
}
