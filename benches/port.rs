//! A port with its source guard, made and removed: by docklet, by the bare netlink messages in as few sends as there can
//! be, and by `ip` and `tc`; on a bridge without other ports, and on one with two hundred. All in turns, in one run. Then
//! two hundred at once, and again.
//!
//! Run it as root with `cargo bench --bench port`. `DOCKLET_TURNS` sets the number of turns (default 100).

#![allow(clippy::print_stdout, missing_docs, reason = "a benchmark prints")]

#[path = "parts/messages.rs"]
mod messages;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use docklet::name::LinkName;
use docklet::net::{Bridge, BridgeSpec, LinkOwner, Netlink, NetworkNamespace, Veth, VethSpec};
use nix::sched::{CloneFlags, unshare};

use messages::Messages;

const PORTS: usize = 200;
/// Where `ip` looks for namespaces.
const NAMESPACES: &str = "/run/netns";

fn main() {
    let turns = std::env::var("DOCKLET_TURNS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("root is needed: unshare");
    run("mount", &["--make-rprivate", "/"]);
    std::fs::create_dir_all(NAMESPACES).expect("directory");
    run("mount", &["-t", "tmpfs", "tmpfs", NAMESPACES]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let full = Bench::new().await;
        let ports = full.fill().await;
        // Sockets stay where they were made: this bridge has a namespace of its own, in which the programs run, too.
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
        let empty = Bench::new().await;

        let (mut alone, mut beside) = (Times::default(), Times::default());
        for turn in 0..turns {
            empty.turn(turn, &mut alone).await;
            full.turn(turn, &mut beside).await;
            if turn % 5 == 0 {
                empty.turn_of_programs(&mut alone);
            }
        }
        alone.print(&format!("one port, {turns} turns"));
        beside.print(&format!("one port more beside {PORTS}, in turns with these"));
        let grown = |side: usize, percent| {
            percentile(&beside.create[side], percent) / percentile(&alone.create[side], percent)
        };
        for (side, name) in SIDES.iter().enumerate().take(2) {
            println!(
                "create beside {PORTS} / alone, {name}: median {:.2}, p10 {:.2}",
                grown(side, 50),
                grown(side, 10)
            );
        }
        full.batches(&ports).await;
    });
}

const SIDES: [&str; 3] = ["docklet", "messages", "ip and tc"];

/// How long each took, in the order of [`SIDES`].
#[derive(Default)]
struct Times {
    create: [Vec<Duration>; 3],
    remove: [Vec<Duration>; 3],
}

impl Times {
    fn print(&self, title: &str) {
        println!("\n{title:<33} median      p10      p90");
        for (what, sides) in [("create", &self.create), ("remove", &self.remove)] {
            for (side, durations) in SIDES.iter().zip(sides).filter(|(_, d)| !d.is_empty()) {
                let [low, middle, high] = [10, 50, 90].map(|percent| percentile(durations, percent));
                println!("  {:<28} {middle:>8.2} {low:>8.2} {high:>8.2} ms", format!("{what}, {side}"));
            }
            let [low, middle] =
                [10, 50].map(|percent| percentile(&sides[0], percent) / percentile(&sides[1], percent));
            println!("  {what}, docklet / messages   {middle:>8.2} {low:>8.2}");
        }
    }
}

struct Bench {
    net: Netlink,
    namespace: NetworkNamespace,
    messages: Messages,
    bytecode: String,
}

fn spec(n: usize) -> VethSpec {
    let (high, low) = ((n + 2) / 250, (n + 2) % 250);
    let name = |text: String| LinkName::new(text).expect("name");
    VethSpec {
        addresses: vec![format!("10.66.{high}.{low}/16").parse().expect("address")],
        gateways: vec!["10.66.255.1".parse().expect("address")],
        ..VethSpec::new(
            name(format!("dkpb{n}")),
            LinkOwner::new(format!("docklet-bench/port/{n}")).expect("owner"),
            name("dkbr".to_owned()),
            name("eth0".to_owned()),
        )
    }
}

fn pin(n: usize) -> PathBuf {
    Path::new(NAMESPACES).join(format!("bench{n}"))
}

impl Bench {
    async fn new() -> Self {
        let net = Netlink::connect().await.expect("netlink");
        let bridge = BridgeSpec {
            addresses: vec!["10.66.255.1/16".parse().expect("address")],
            ..BridgeSpec::new(
                LinkName::new("dkbr").expect("name"),
                LinkOwner::new("docklet-bench/bridge").expect("owner"),
            )
        };
        let bridge = Bridge::ensure(&net, &bridge).await.expect("bridge");
        let namespace = NetworkNamespace::ensure(&pin(0)).expect("namespace");
        let veth = Veth::ensure(&net, &namespace, &spec(0)).await.expect("veth");
        let messages = Messages::new(bridge.index(), veth.index());
        let shown = output("tc", &["filter", "show", "dev", "dkpb0", "ingress"]);
        let bytecode = shown.split('\'').nth(1).expect("bytecode").to_owned();
        Veth::remove(&net, &spec(0).name, &spec(0).owner).await.expect("remove");
        Self { net, namespace, messages, bytecode }
    }

    /// One more port, made and removed by docklet, then by the messages.
    async fn turn(&self, turn: usize, times: &mut Times) {
        let spec = spec(0);
        let begun = Instant::now();
        Veth::ensure(&self.net, &self.namespace, &spec).await.expect("veth");
        times.create[0].push(begun.elapsed());
        let begun = Instant::now();
        Veth::remove(&self.net, &spec.name, &spec.owner).await.expect("remove");
        times.remove[0].push(begun.elapsed());

        let begun = Instant::now();
        self.messages.create(&self.namespace, turn);
        times.create[1].push(begun.elapsed());
        let begun = Instant::now();
        self.messages.remove(turn);
        times.remove[1].push(begun.elapsed());
    }

    fn turn_of_programs(&self, times: &mut Times) {
        let begun = Instant::now();
        self.create_by_programs();
        times.create[2].push(begun.elapsed());
        let begun = Instant::now();
        run("ip", &["link", "delete", "dkip"]);
        times.remove[2].push(begun.elapsed());
    }

    fn create_by_programs(&self) {
        run("ip", &["link", "add", "dkip", "type", "veth", "peer", "name", "eth0", "netns", "bench0"]);
        run("tc", &["qdisc", "add", "dev", "dkip", "ingress"]);
        let filter =
            ["filter", "add", "dev", "dkip", "ingress", "prio", "1", "handle", "1", "protocol", "all"];
        run("tc", &[&filter[..], &["bpf", "da", "bytecode", &self.bytecode]].concat());
        run("ip", &["link", "set", "dkip", "master", "dkbr", "alias", "docklet-bench/ip", "up"]);
        run("ip", &["-n", "bench0", "link", "set", "eth0", "up"]);
        run("ip", &["-n", "bench0", "address", "add", "10.66.0.2/16", "dev", "eth0"]);
        run("ip", &["-n", "bench0", "route", "add", "default", "via", "10.66.255.1"]);
    }

    /// Two hundred ports, one after the other.
    async fn fill(&self) -> Vec<(NetworkNamespace, VethSpec)> {
        let ports: Vec<_> =
            (1..=PORTS).map(|n| (NetworkNamespace::ensure(&pin(n)).expect("namespace"), spec(n))).collect();
        let begun = Instant::now();
        for (namespace, spec) in &ports {
            Veth::ensure(&self.net, namespace, spec).await.expect("veth");
        }
        println!("{PORTS} ports, one after the other {:>8.1} ms", millis(begun.elapsed()));
        ports
    }

    async fn batches(&self, ports: &[(NetworkNamespace, VethSpec)]) {
        let pairs: Vec<_> = ports.iter().map(|(namespace, spec)| (namespace, spec)).collect();
        let mut again = Vec::new();
        for _ in 0..20 {
            let begun = Instant::now();
            Veth::ensure_all(&self.net, &pairs).await.expect("veths");
            again.push(begun.elapsed());
        }
        println!("{PORTS} ports, unchanged        {:>8.1} ms", percentile(&again, 50));
        for (_, spec) in ports {
            Veth::remove(&self.net, &spec.name, &spec.owner).await.expect("remove");
        }
        let begun = Instant::now();
        Veth::ensure_all(&self.net, &pairs).await.expect("veths");
        println!("{PORTS} ports, all at once      {:>8.1} ms", millis(begun.elapsed()));
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn percentile(durations: &[Duration], percent: usize) -> f64 {
    let mut sorted = durations.to_vec();
    sorted.sort();
    millis(sorted[(sorted.len() - 1) * percent / 100])
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn run(program: &str, arguments: &[&str]) {
    output(program, arguments);
}
