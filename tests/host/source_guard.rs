//! What comes out of a container: frames are sent from within, and received by a neighbour and by the host.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;

use docklet::net::{Bridge, MacAddress, Netlink, NetworkNamespace, SourceGuard, Veth, VethSpec};

use crate::bridge;
use crate::frames::{Named, Sender};
use crate::kernel;
use crate::netns::inside;
use crate::packet::PacketSocket;
use crate::sandbox::Sandbox;
use crate::veth::spec;

/// The container in the `n`th namespace.
fn sender(n: u8) -> Sender {
    Sender {
        mac: MacAddress::derive(&spec(n).owner, "eth0").octets(),
        ipv4: Ipv4Addr::new(10, 0, 0, n + 1),
        ipv6: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n) + 1),
    }
}

/// What of `frames`, sent by `from`, arrives at both `neighbour` and `host`. One that arrives at one alone is an error.
fn arriving(from: &PacketSocket, to: [&PacketSocket; 2], frames: &[Named]) -> Vec<&'static str> {
    let marks: Vec<_> = (0..=frames.len()).map(|n| format!("docklet mark {n:04}")).collect();
    for ((_, frame), mark) in frames.iter().zip(&marks) {
        from.send(&[&frame[..], mark.as_bytes()].concat());
    }
    let last = marks.last().unwrap().as_bytes();
    // Whatever the rules are, this may pass.
    from.send(&[&sender(1).good()[0].1[..], last].concat());
    let [neighbour, host] = to.map(|socket| {
        let arrived = socket.receive_until(last);
        let there = |mark: &&String| arrived.iter().any(|frame| frame.ends_with(mark.as_bytes()));
        marks[..frames.len()].iter().map(|mark| there(&mark)).collect::<Vec<_>>()
    });
    // The bridge keeps frames for itself that are for the spanning tree only, and these are not.
    assert_eq!(neighbour, host, "the neighbour and the host see the same");
    frames.iter().zip(neighbour).filter(|(_, arrived)| *arrived).map(|((what, _), _)| *what).collect()
}

struct Network {
    _sandbox: Sandbox,
    net: Netlink,
    namespaces: [NetworkNamespace; 2],
    neighbour: PacketSocket,
    host: PacketSocket,
}

impl Network {
    async fn new(first: &VethSpec) -> Self {
        let sandbox = Sandbox::new();
        // Where br_netfilter is, it drops what is no whole packet, and these frames are not.
        for family in ["ip", "ip6"] {
            let switch = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
            if Path::new(&switch).exists() {
                std::fs::write(switch, "0").unwrap();
            }
        }
        let net = Netlink::connect().await.unwrap();
        Bridge::ensure(&net, &bridge::spec(&["10.0.0.1/24", "fd00::1/64"])).await.unwrap();
        let dir = sandbox.dir("netns");
        let namespaces = [1, 2].map(|n| NetworkNamespace::ensure(&dir.join(n.to_string())).unwrap());
        Veth::ensure(&net, &namespaces[0], first).await.unwrap();
        Veth::ensure(&net, &namespaces[1], &spec(2)).await.unwrap();
        let neighbour = inside(namespaces[1].path(), || PacketSocket::open("eth0"));
        let host = PacketSocket::open("br0");
        Self { _sandbox: sandbox, net, namespaces, neighbour, host }
    }

    fn pin(&self) -> &Path {
        self.namespaces[0].path()
    }

    fn arriving(&self, frames: &[Named]) -> Vec<&'static str> {
        let from = inside(self.pin(), || PacketSocket::open("eth0"));
        arriving(&from, [&self.neighbour, &self.host], frames)
    }

    async fn end(self) {
        for n in [1, 2] {
            Veth::remove(&self.net, &spec(n).name, &spec(n).owner).await.unwrap();
        }
        for namespace in &self.namespaces {
            NetworkNamespace::remove(namespace.path()).unwrap();
        }
        let spec = bridge::spec(&[]);
        Bridge::remove(&self.net, &spec.name, &spec.owner).await.unwrap();
    }
}

fn names(frames: &[Named]) -> Vec<&'static str> {
    frames.iter().map(|(what, _)| *what).collect()
}

/// What is the container's own arrives, and nothing else: not with another hardware address or IP address, no answer
/// for another, no router's message, however it is wrapped.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn a_container_cannot_pose_as_another() {
    let network = Network::new(&spec(1)).await;
    let (good, bad) = (sender(1).good(), sender(1).bad());
    assert_eq!(network.arriving(&good), names(&good));
    assert_eq!(network.arriving(&bad), Vec::<&str>::new());

    // Root inside takes another hardware address, and another IP address: nothing comes out.
    let namespace = format!("--net={}", network.pin().display());
    kernel::run("nsenter", [&namespace, "ip", "link", "set", "eth0", "address", "02:00:00:00:00:01"]);
    kernel::run("nsenter", [&namespace, "ip", "addr", "add", "10.0.0.9/24", "dev", "eth0"]);
    let ping = |args: &[&str]| {
        let args = [&[&*namespace, "ping", "-c1", "-W1"], args].concat();
        std::process::Command::new("nsenter").args(args).output().unwrap().status.success()
    };
    assert!(!ping(&["10.0.0.3"]));
    let own = MacAddress::derive(&spec(1).owner, "eth0").to_string();
    kernel::run("nsenter", [&*namespace, "ip", "link", "set", "eth0", "address", &own]);
    assert!(ping(&["10.0.0.3"]));
    assert!(!ping(&["-I", "10.0.0.9", "10.0.0.3"]));
    network.end().await;
}

/// Without a guard all of them arrive: the frames above are as they should be. A guard that is asked for later, or
/// that somebody has taken away, is set by `ensure`, and none is asked for, it goes.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn the_guard_is_set_exchanged_and_taken_away() {
    let open = VethSpec { guard: None, ..spec(1) };
    let network = Network::new(&open).await;
    let bad = sender(1).bad();
    // A VLAN's tag arrives beside the frame, not in it.
    assert_eq!(network.arriving(&bad), names(&bad));
    let filters = || kernel::run("tc", ["filter", "show", "dev", "dkve1", "ingress"]);
    assert_eq!(filters().trim(), "");

    Veth::ensure(&network.net, &network.namespaces[0], &spec(1)).await.unwrap();
    assert_eq!(network.arriving(&bad), Vec::<&str>::new());
    let set = filters();
    assert!(set.contains("direct-action"), "{set}");

    kernel::run("tc", ["qdisc", "del", "dev", "dkve1", "ingress"]);
    assert_eq!(network.arriving(&bad).len(), bad.len());
    Veth::ensure(&network.net, &network.namespaces[0], &spec(1)).await.unwrap();
    assert_eq!(network.arriving(&bad), Vec::<&str>::new());
    kernel::run("tc", ["filter", "del", "dev", "dkve1", "ingress"]);
    Veth::ensure(&network.net, &network.namespaces[0], &spec(1)).await.unwrap();
    assert_eq!(filters(), set);
    // One that lets everything through, in the place of ours.
    let accept =
        ["filter", "replace", "dev", "dkve1", "ingress", "prio", "1", "handle", "1", "protocol", "all"];
    kernel::run("tc", [&accept[..], &["bpf", "da", "bytecode", "1,6 0 0 0"]].concat());
    Veth::ensure(&network.net, &network.namespaces[0], &spec(1)).await.unwrap();
    assert_eq!(filters(), set);

    let some = SourceGuard { vlan_tags: true, ethernet_types: vec![0x88cc] };
    let some = VethSpec { guard: Some(some), ..spec(1) };
    Veth::ensure(&network.net, &network.namespaces[0], &some).await.unwrap();
    assert_eq!(network.arriving(&bad), ["LLDP"]);
    Veth::ensure(&network.net, &network.namespaces[0], &open).await.unwrap();
    assert_eq!(network.arriving(&bad).len(), bad.len());
    network.end().await;
}

/// A container that runs gets another address: from then on that one passes, and the old one does not.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn the_guard_follows_the_addresses() {
    let network = Network::new(&spec(1)).await;
    let moved = Sender { ipv4: Ipv4Addr::new(10, 0, 0, 77), ..sender(1) };
    let frames = [("old", sender(1).good()[0].1.clone()), ("new", moved.good()[0].1.clone())];
    assert_eq!(network.arriving(&frames), ["old"]);
    let mut other = spec(1);
    other.addresses = vec!["10.0.0.77/24".parse().unwrap(), "10.0.0.2/24".parse().unwrap()];
    other.gateways.remove(1);
    Veth::apply(&network.net, &network.namespaces[0], &other).await.unwrap();
    assert_eq!(network.arriving(&frames), ["old", "new"]);
    network.end().await;
}

/// Isolated ports reach the bridge, and not each other.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn isolated_ports_do_not_reach_each_other() {
    let network = Network::new(&VethSpec { isolated: true, ..spec(1) }).await;
    let namespace = format!("--net={}", network.pin().display());
    let ping = |to: &str| {
        let args = [&*namespace, "ping", "-c1", "-W1", to];
        std::process::Command::new("nsenter").args(args).output().unwrap().status.success()
    };
    assert!(ping("10.0.0.1") && ping("10.0.0.3"), "the other one is not isolated");
    let both = VethSpec { isolated: true, ..spec(2) };
    Veth::ensure(&network.net, &network.namespaces[1], &both).await.unwrap();
    assert!(ping("10.0.0.1") && !ping("10.0.0.3"));
    Veth::ensure(&network.net, &network.namespaces[1], &spec(2)).await.unwrap();
    assert!(ping("10.0.0.3"));
    network.end().await;
}
