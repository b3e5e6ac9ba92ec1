//! Sixteen processes that make, change and remove the same links, in one network namespace.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use docklet::Error;
use docklet::error::Chain;
use docklet::net::{
    Bridge, BridgeSpec, Mtu, Netlink, NetworkNamespace, Protocol, Rate, RateLimits, Ruleset, Tunnel,
    TunnelSpec, Veth, VethSpec,
};

use crate::firewall::{forward, network};
use crate::sandbox::Sandbox;
use crate::{bridge, firewall, kernel, veth};

/// Tells a process that it is one of them: where the container's namespace is.
const PIN: &str = "DOCKLET_TEST_SIXTEEN";
const PROCESSES: usize = 16;
const ROUNDS: usize = 40;
/// None of them takes longer, unless it hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// As many copies of this program, each with that test alone.
pub(crate) fn processes(test: &str, mark: &str, value: &Path) -> Vec<Child> {
    let start = |number: usize| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--include-ignored", "--quiet"])
            .env(mark, value)
            .env("DOCKLET_TEST_NUMBER", number.to_string())
            .spawn()
            .unwrap()
    };
    (0..PROCESSES).map(start).collect()
}

/// Which one of them this process is.
pub(crate) fn number() -> usize {
    std::env::var("DOCKLET_TEST_NUMBER").expect("one of sixteen").parse().unwrap()
}

/// Ends when all have, well.
pub(crate) fn wait_for(processes: Vec<Child>) {
    for mut process in processes {
        assert!(process.wait().unwrap().success(), "one of the processes failed");
    }
}

fn bridge_spec() -> BridgeSpec {
    BridgeSpec { mtu: Some(Mtu::new(1400).unwrap()), ..bridge::spec(&["10.0.0.1/24", "fd00::1/64"]) }
}

fn port(number: usize) -> VethSpec {
    let rate = |n| Some(Rate::megabits(n).unwrap());
    let rates = match number % 3 {
        0 => RateLimits::default(),
        1 => RateLimits { to_container: rate(10), from_container: rate(20) },
        _ => RateLimits { to_container: None, from_container: rate(30) },
    };
    VethSpec { rates, isolated: number.is_multiple_of(2), ..veth::spec(1) }
}

fn tunnel(number: usize) -> TunnelSpec {
    let hosts: Vec<String> = (1..4 + number % 4).map(|n| format!("192.0.2.{n}")).collect();
    serde_json::from_value(serde_json::json!({
        "owner": "docklet-test/tunnel", "bridge": "br0", "local": "192.0.2.1", "mtu": 1400,
        "topology": { "vxlan_mesh": { "vni": 5, "hosts": hosts } },
    }))
    .unwrap()
}

fn rules(number: usize) -> Ruleset {
    let to = format!("10.0.0.{}:80", 2 + number);
    let forwards = vec![forward(Protocol::Tcp, None, 1000 + u16::try_from(number).unwrap(), &to)];
    Ruleset { networks: vec![network("br0", &["10.0.0.0/24"])], forwards, ..Ruleset::default() }
}

/// Whatever order they come in, each call succeeds or says that somebody else was quicker; then there is one of each
/// thing, as it was asked for last, and in the end none.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn sixteen_processes_share_all_links() {
    let sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    kernel::run("ip", ["link", "add", "under", "type", "ifb"]);
    kernel::run("ip", ["address", "add", "192.0.2.1/24", "dev", "under"]);
    kernel::run("ip", ["link", "set", "under", "up"]);
    let pin = sandbox.dir("netns").join("1");
    let namespace = NetworkNamespace::ensure(&pin).unwrap();
    wait_for(processes("sixteen::one_of_sixteen", PIN, &pin));

    let table = firewall::table(&sandbox);
    Bridge::ensure(&net, &bridge_spec()).await.unwrap();
    Tunnel::ensure(&net, &tunnel(3)).await.unwrap();
    // What it was left with is whatever the last one asked for.
    match Veth::apply(&net, &namespace, &port(1)).await {
        Err(Error::NotFound { .. }) => Veth::ensure(&net, &namespace, &port(1)).await.unwrap(),
        result => result.unwrap(),
    };
    let ports = kernel::json("ip", ["-j", "link", "show", "master", "br0"]);
    assert_eq!(ports.as_array().unwrap().len(), 2, "{ports}");
    // The loopback, the underlay, the bridge, the tunnel, the port, and the device for its limit.
    assert_eq!(kernel::links().len(), 6, "{:?}", kernel::links());
    let flooded = kernel::json("bridge", ["-j", "fdb", "show", "br", "br0"]);
    let flooded = flooded.as_array().unwrap().iter().filter(|entry| entry["mac"] == "00:00:00:00:00:00");
    assert_eq!(flooded.count(), 5, "the peers of a mesh of six");
    let filters = kernel::run("tc", ["filter", "show", "dev", "dkve1", "ingress"]);
    assert_eq!(filters.matches("direct-action").count(), 1, "{filters}");
    assert!(veth::ping(&pin, "10.0.0.1") && veth::ping(&pin, "fd00::1"));

    Veth::remove(&net, &port(0).name, &port(0).owner).await.unwrap();
    Tunnel::remove(&net, &tunnel(0).owner).await.unwrap();
    Bridge::remove(&net, &bridge_spec().name, &bridge_spec().owner).await.unwrap();
    NetworkNamespace::remove(&pin).unwrap();
    table.remove().unwrap();
    kernel::run("ip", ["link", "delete", "under"]);
}

/// What each of the processes does; alone, nothing.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn one_of_sixteen() {
    let Some(pin) = std::env::var_os(PIN).map(PathBuf::from) else { return };
    tokio::time::timeout(LIMIT, work(&pin)).await.expect("it hangs");
}

async fn work(pin: &Path) {
    let number = number();
    let net = Netlink::connect().await.unwrap();
    let namespace = NetworkNamespace::open(pin).unwrap();
    let prefix = pin.ancestors().nth(3).unwrap();
    let table = firewall::table_of(prefix);
    for round in 0..ROUNDS {
        let step = number * 7 + round * (number + 1);
        let result = match step % 13 {
            0..=2 => Bridge::ensure(&net, &bridge_spec()).await.map(drop),
            3 => Bridge::remove(&net, &bridge_spec().name, &bridge_spec().owner).await,
            4 | 5 => Veth::ensure(&net, &namespace, &port(number)).await.map(drop),
            6 => Veth::ensure_all(&net, &[(&namespace, &port(number))]).await.map(drop),
            7 => Veth::apply(&net, &namespace, &port(number)).await.map(drop),
            8 => Veth::remove(&net, &port(number).name, &port(number).owner).await,
            9 | 10 => Tunnel::ensure(&net, &tunnel(number)).await.map(drop),
            11 => Tunnel::remove(&net, &tunnel(number).owner).await,
            _ => table.apply(&rules(number)).map(drop),
        };
        match result {
            Ok(()) | Err(Error::NotFound { .. } | Error::Busy { .. }) => {}
            Err(error) => panic!("{}: {}", step % 13, Chain(&error)),
        }
    }
}
