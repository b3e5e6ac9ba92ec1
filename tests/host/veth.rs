//! Veth pairs, as `ip` sees them from both ends.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use docklet::Error;
use docklet::name::LinkName;
use docklet::net::{Bridge, LinkOwner, MacAddress, Mtu, Netlink, NetworkNamespace, Veth, VethSpec};
use serde_json::Value;

use crate::bridge::{self, addresses, is_up, show};
use crate::kernel;
use crate::netns::ip_inside;
use crate::sandbox::Sandbox;

/// A veth pair into the `n`th namespace behind `br0`.
pub(crate) fn spec(n: u8) -> VethSpec {
    VethSpec {
        addresses: vec![
            format!("10.0.0.{}/24", n + 1).parse().unwrap(),
            format!("fd00::{:x}/64", n + 1).parse().unwrap(),
        ],
        gateways: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        ..VethSpec::new(
            LinkName::new(format!("dkve{n}")).unwrap(),
            LinkOwner::new(format!("docklet-test/veth/{n}")).unwrap(),
            LinkName::new("br0").unwrap(),
            LinkName::new("eth0").unwrap(),
        )
    }
}

pub(crate) struct Network {
    pub(crate) net: Netlink,
    dir: PathBuf,
}

impl Network {
    /// A bridge with the gateways' addresses.
    pub(crate) async fn new(sandbox: &Sandbox) -> Self {
        let net = Netlink::connect().await.unwrap();
        Bridge::ensure(&net, &bridge::spec(&["10.0.0.1/24", "fd00::1/64"])).await.unwrap();
        Self { net, dir: sandbox.dir("netns") }
    }

    pub(crate) fn pin(&self, n: u8) -> PathBuf {
        self.dir.join(n.to_string())
    }

    pub(crate) async fn end(self) {
        let spec = bridge::spec(&[]);
        Bridge::remove(&self.net, &spec.name, &spec.owner).await.unwrap();
    }
}

pub(crate) fn ping(from: &Path, to: &str) -> bool {
    let namespace = format!("--net={}", from.display());
    Command::new("nsenter").args([&namespace, "ping", "-c1", "-W2", to]).output().unwrap().status.success()
}

/// What of a link should stay. The rest (carrier, searches for duplicates) settles in its own time.
fn lasting(link: &Value) -> (Vec<Value>, Vec<String>, bool) {
    let fields = ["ifindex", "ifname", "mtu", "address", "ifalias", "master", "linkinfo"];
    (fields.iter().map(|field| link[field].clone()).collect(), addresses(link), is_up(link))
}

pub(crate) fn default_routes(pin: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for family in ["-4", "-6"] {
        let routes = ip_inside(pin, &[family, "route", "show", "default"]);
        found.extend(routes.as_array().unwrap().iter().map(|r| r["gateway"].as_str().unwrap().to_owned()));
    }
    found
}

/// Two namespaces on one bridge reach each other and their gateway.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn namespaces_reach_each_other_through_the_bridge() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    let mut namespaces = Vec::new();
    for n in [1, 2] {
        let namespace = NetworkNamespace::ensure(&network.pin(n)).unwrap();
        let veth = Veth::ensure(&network.net, &namespace, &spec(n)).await.unwrap();
        let host = show(&format!("dkve{n}"));
        assert_eq!(host["ifindex"], veth.index());
        assert_eq!(host["linkinfo"]["info_kind"], "veth");
        assert_eq!(host["master"], "br0");
        assert_eq!(host["ifalias"], format!("docklet-test/veth/{n}"));
        assert_eq!(host["linkinfo"]["info_slave_kind"], "bridge");
        let inner = ip_inside(&network.pin(n), &["-d", "addr", "show", "eth0"])[0].take();
        assert!(is_up(&host) && is_up(&inner));
        assert_eq!(addresses(&inner), [format!("10.0.0.{}/24", n + 1), format!("fd00::{}/64", n + 1)]);
        assert_eq!(inner["address"], MacAddress::derive(&spec(n).owner, "eth0").to_string().as_str());
        assert_eq!(default_routes(&network.pin(n)), ["10.0.0.1", "fd00::1"]);
        namespaces.push(namespace);
    }
    for to in ["10.0.0.1", "10.0.0.3", "fd00::1", "fd00::3"] {
        assert!(ping(&network.pin(1), to), "no answer from {to}");
    }

    // One goes with its namespace, one by deletion.
    let before = kernel::links();
    NetworkNamespace::remove(&network.pin(1)).unwrap();
    let error = network.net.wait_gone(&spec(1).name, Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "a descriptor keeps the namespace: {error}");
    drop(namespaces.remove(0));
    network.net.wait_gone(&spec(1).name, Duration::from_secs(10)).await.unwrap();
    Veth::remove(&network.net, &spec(2).name, &spec(2).owner).await.unwrap();
    Veth::remove(&network.net, &spec(2).name, &spec(2).owner).await.unwrap();
    assert_eq!(kernel::links().len(), before.len() - 2);
    assert!(!ip_inside(&network.pin(2), &["link"]).to_string().contains("eth0"));
    NetworkNamespace::remove(&network.pin(2)).unwrap();
    network.end().await;
}

/// A second `ensure` changes nothing, also of what the container has added to its own end.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn ensure_is_repeatable() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    let pin = network.pin(1);
    let namespace = NetworkNamespace::ensure(&pin).unwrap();
    let veth = Veth::ensure(&network.net, &namespace, &spec(1)).await.unwrap();
    let inside = format!("--net={}", pin.display());
    kernel::run("nsenter", [&inside, "ip", "addr", "add", "10.9.9.9/24", "dev", "eth0"]);
    let state = || {
        let inner = ip_inside(&pin, &["addr", "show", "eth0"]);
        (
            lasting(&kernel::json("ip", ["-j", "addr", "show", "dkve1"])[0]),
            lasting(&inner[0]),
            default_routes(&pin),
        )
    };
    let before = state();
    assert_eq!(Veth::ensure(&network.net, &namespace, &spec(1)).await.unwrap(), veth);
    assert_eq!(state(), before);

    // The container renames its end: still the same pair.
    kernel::run("nsenter", [&inside, "ip", "link", "set", "eth0", "down"]);
    kernel::run("nsenter", [&inside, "ip", "link", "set", "eth0", "name", "wan"]);
    assert_eq!(Veth::ensure(&network.net, &namespace, &spec(1)).await.unwrap(), veth);
    assert!(ping(&pin, "10.0.0.1") && ping(&pin, "fd00::1"), "it is up again, with the addresses it lost");
    Veth::remove(&network.net, &spec(1).name, &spec(1).owner).await.unwrap();
    NetworkNamespace::remove(&pin).unwrap();
    network.end().await;
}

/// What is announced on a bridge is heard at all of its ports: one with IPv4 alone is silent until it is given IPv6.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn a_port_of_ipv4_alone_has_no_link_local_address() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    let pin = network.pin(1);
    let namespace = NetworkNamespace::ensure(&pin).unwrap();
    let both = spec(1);
    let alone =
        VethSpec { addresses: vec![both.addresses[0]], gateways: vec![both.gateways[0]], ..both.clone() };
    let inside = || link_local(&ip_inside(&pin, &["-6", "addr", "show", "dev", "eth0"]));
    let outside = || link_local(&kernel::json("ip", ["-j", "-6", "addr", "show", "dev", "dkve1"]));

    Veth::ensure(&network.net, &namespace, &alone).await.unwrap();
    // The kernel has told IPv6 of a link that it shows to be connected.
    kernel::wait_until("both ends are connected", || {
        ip_inside(&pin, &["link", "show", "dev", "eth0"])[0]["operstate"] == "UP"
    });
    assert!(ping(&pin, "10.0.0.1"));
    assert_eq!((inside(), outside()), (vec![], vec![]));

    Veth::apply(&network.net, &namespace, &both).await.unwrap();
    let [a, b, c, d, e, f] = MacAddress::derive(&both.owner, "eth0").octets();
    let words = [(a ^ 2, b), (c, 0xff), (0xfe, d), (e, f)].map(|(high, low)| u16::from_be_bytes([high, low]));
    let own = Ipv6Addr::new(0xfe80, 0, 0, 0, words[0], words[1], words[2], words[3]).to_string();
    assert_eq!(inside(), std::slice::from_ref(&own));
    assert!(ping(&pin, "fd00::1"));

    // One that has IPv6 from the beginning has the same, from the kernel.
    Veth::remove(&network.net, &both.name, &both.owner).await.unwrap();
    Veth::ensure(&network.net, &namespace, &both).await.unwrap();
    kernel::wait_until("its link-local address", || inside() == [own.clone()]);
    assert_eq!(outside(), Vec::<String>::new());
    Veth::remove(&network.net, &both.name, &both.owner).await.unwrap();
    NetworkNamespace::remove(&pin).unwrap();
    network.end().await;
}

/// The link-local addresses in what `ip addr` says of one link.
fn link_local(shown: &Value) -> Vec<String> {
    let links = shown.as_array().unwrap().iter().filter_map(|link| link["addr_info"].as_array());
    let addresses = links.flatten().filter(|address| address["scope"] == "link");
    addresses.map(|address| address["local"].as_str().unwrap().to_owned()).collect()
}

/// A kill between any two messages, a namespace made anew, a bridge made anew.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn what_is_half_made_is_completed_or_made_anew() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    let (pin, spec) = (network.pin(1), spec(1));
    let namespace = NetworkNamespace::ensure(&pin).unwrap();

    // Right after the first message: no alias, nothing set inside. `ip` has no name for the namespace, so it is
    // moved there, as nothing in docklet ever does.
    let [outer, inner] = ["dkve1", "eth0"].map(|name| MacAddress::derive(&spec.owner, name).to_string());
    kernel::run(
        "ip",
        [
            "link", "add", "dkve1", "address", &outer, "type", "veth", "peer", "name", "eth0", "address",
            &inner,
        ],
    );
    let holder = crate::netns::inside(&pin, || Command::new("sleep").arg("60").spawn().unwrap());
    let mut holder = holder;
    kernel::run("ip", ["link", "set", "eth0", "netns", &holder.id().to_string()]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    let index = show("dkve1")["ifindex"].clone();
    Veth::ensure(&network.net, &namespace, &spec).await.unwrap();
    assert_eq!(show("dkve1")["ifindex"], index, "completed, not made anew");
    assert_eq!(show("dkve1")["ifalias"], "docklet-test/veth/1");
    assert_eq!(show("dkve1")["master"], "br0");
    assert!(ping(&pin, "10.0.0.1"));

    // The bridge was made anew.
    let bridge = bridge::spec(&["10.0.0.1/24", "fd00::1/64"]);
    Bridge::remove(&network.net, &bridge.name, &bridge.owner).await.unwrap();
    let error = Veth::ensure(&network.net, &namespace, &spec).await.unwrap_err();
    assert_eq!(error.to_string(), "bridge `br0` does not exist");
    Bridge::ensure(&network.net, &bridge).await.unwrap();
    Veth::ensure(&network.net, &namespace, &spec).await.unwrap();
    assert_eq!(show("dkve1")["ifindex"], index);
    assert!(ping(&pin, "10.0.0.1"));

    // The namespace was made anew, while the old one lives on with the old pair.
    NetworkNamespace::remove(&pin).unwrap();
    let anew = NetworkNamespace::ensure(&pin).unwrap();
    Veth::ensure(&network.net, &anew, &spec).await.unwrap();
    assert_ne!(show("dkve1")["ifindex"], index);
    assert!(ping(&pin, "10.0.0.1"));

    NetworkNamespace::remove(&pin).unwrap();
    drop((namespace, anew));
    network.net.wait_gone(&spec.name, Duration::from_secs(10)).await.unwrap();

    // Removal right after the first message.
    kernel::run("ip", ["link", "add", "dkve1", "address", &outer, "type", "veth", "peer", "name", "eth0"]);
    Veth::remove(&network.net, &spec.name, &spec.owner).await.unwrap();
    assert!(!kernel::links().contains(&"eth0".to_owned()));
    network.end().await;
}

/// What the guard lets out is told by the hardware address: `ensure` and `apply` bring the port's own one back, and a port
/// that is applied under another inner name goes on under the one that it has.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn a_guarded_port_has_its_own_hardware_address() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    let pin = network.pin(1);
    let namespace = NetworkNamespace::ensure(&pin).unwrap();
    let mac = |name: &str| MacAddress::derive(&spec(1).owner, name).to_string();
    let found = || ip_inside(&pin, &["link", "show", "eth0"])[0]["address"].clone();
    let disguise = || {
        let inside = format!("--net={}", pin.display());
        kernel::run("nsenter", [&inside, "ip", "link", "set", "eth0", "address", "02:00:00:00:00:01"]);
        assert!(!ping(&pin, "10.0.0.1"), "the guard lets nothing out");
    };
    Veth::ensure(&network.net, &namespace, &spec(1)).await.unwrap();
    disguise();
    Veth::ensure(&network.net, &namespace, &spec(1)).await.unwrap();
    assert_eq!(found(), mac("eth0"));
    assert!(ping(&pin, "10.0.0.1") && ping(&pin, "fd00::1"));
    disguise();
    let other = VethSpec { inner_name: LinkName::new("eth9").unwrap(), ..spec(1) };
    for (spec, name) in [(&other, "eth9"), (&spec(1), "eth0")] {
        Veth::apply(&network.net, &namespace, spec).await.unwrap();
        assert_eq!(found(), mac(name));
        assert!(ping(&pin, "10.0.0.1") && ping(&pin, "fd00::1"), "{name}");
    }

    // Without a guard the address is the container's own affair.
    let open = VethSpec { guard: None, ..spec(1) };
    Veth::apply(&network.net, &namespace, &open).await.unwrap();
    kernel::run(
        "nsenter",
        [&format!("--net={}", pin.display()), "ip", "link", "set", "eth0", "address", "02:00:00:00:00:01"],
    );
    Veth::ensure(&network.net, &namespace, &open).await.unwrap();
    assert_eq!(found(), "02:00:00:00:00:01");
    assert!(ping(&pin, "10.0.0.1"));

    Veth::remove(&network.net, &spec(1).name, &spec(1).owner).await.unwrap();
    NetworkNamespace::remove(&pin).unwrap();
    network.end().await;
}

/// Somebody else's links stay, outside and inside, and every difference is told.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn foreign_and_differing_links_are_left() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    let pin = network.pin(1);
    let namespace = NetworkNamespace::ensure(&pin).unwrap();
    let inside = format!("--net={}", pin.display());
    let differs = |result: docklet::Result<Veth>, text: &str| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Differs { .. }) && error.to_string().contains(text), "{error}");
    };

    kernel::run("ip", ["link", "add", "dkve1", "type", "veth", "peer", "name", "p1"]);
    let before = kernel::run("ip", ["-d", "link", "show", "dkve1"]);
    differs(Veth::ensure(&network.net, &namespace, &spec(1)).await, "no owner's mark");
    Veth::remove(&network.net, &spec(1).name, &spec(1).owner).await.unwrap_err();
    assert_eq!(kernel::run("ip", ["-d", "link", "show", "dkve1"]), before);
    kernel::run("ip", ["link", "del", "dkve1"]);

    kernel::run("nsenter", [&inside, "ip", "link", "add", "eth0", "type", "bridge"]);
    differs(Veth::ensure(&network.net, &namespace, &spec(1)).await, "belongs to something else");
    kernel::run("nsenter", [&inside, "ip", "link", "del", "eth0"]);

    let mut on_device = spec(1);
    on_device.bridge = LinkName::new("ifb9").unwrap();
    kernel::run("ip", ["link", "add", "ifb9", "type", "ifb"]);
    differs(Veth::ensure(&network.net, &namespace, &on_device).await, "it is no bridge");
    kernel::run("ip", ["link", "del", "ifb9"]);

    Veth::ensure(&network.net, &namespace, &spec(1)).await.unwrap();
    let before = lasting(&ip_inside(&pin, &["addr", "show", "eth0"])[0]);
    let mut other = spec(1);
    other.addresses = vec!["10.0.0.99/24".parse().unwrap()];
    other.gateways.clear();
    other.mtu = Some(Mtu::new(1400).unwrap());
    differs(
        Veth::ensure(&network.net, &namespace, &other).await,
        "its MTU is 1500, not 1400; it has the address 10.0.0.2/24",
    );
    kernel::run("ip", ["link", "add", "br9", "type", "bridge"]);
    other = spec(1);
    other.bridge = LinkName::new("br9").unwrap();
    differs(Veth::ensure(&network.net, &namespace, &other).await, "a port of another bridge than `br9`");
    kernel::run("ip", ["link", "del", "br9"]);
    let other = VethSpec { inner_name: LinkName::new("eth9").unwrap(), ..spec(1) };
    differs(Veth::ensure(&network.net, &namespace, &other).await, "its inner end is `eth0`, not `eth9`");
    assert_eq!(lasting(&ip_inside(&pin, &["addr", "show", "eth0"])[0]), before);

    // Into another namespace, where the name is taken: the pair stays where it is.
    let index = show("dkve1")["ifindex"].clone();
    let elsewhere = NetworkNamespace::ensure(&network.pin(2)).unwrap();
    let there = format!("--net={}", network.pin(2).display());
    kernel::run("nsenter", [&there, "ip", "link", "add", "eth0", "type", "bridge"]);
    differs(Veth::ensure(&network.net, &elsewhere, &spec(1)).await, "than veth `dkve1`");
    assert_eq!(show("dkve1")["ifindex"], index);
    assert!(ping(&pin, "10.0.0.1"));
    NetworkNamespace::remove(&network.pin(2)).unwrap();

    Veth::remove(&network.net, &spec(1).name, &spec(1).owner).await.unwrap();
    NetworkNamespace::remove(&pin).unwrap();
    network.end().await;
}

/// The bridge's MTU is the pair's unless it is given one.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn a_pair_takes_the_mtu_of_its_bridge() {
    let sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let mut bridge = bridge::spec(&["10.0.0.1/24"]);
    bridge.mtu = Some(Mtu::new(1420).unwrap());
    Bridge::ensure(&net, &bridge).await.unwrap();
    let pin = sandbox.dir("netns").join("1");
    let namespace = NetworkNamespace::ensure(&pin).unwrap();
    Veth::ensure(&net, &namespace, &spec(1)).await.unwrap();
    assert_eq!(show("dkve1")["mtu"], 1420);
    assert_eq!(ip_inside(&pin, &["link", "show", "eth0"])[0]["mtu"], 1420);
    Veth::remove(&net, &spec(1).name, &spec(1).owner).await.unwrap();
    NetworkNamespace::remove(&pin).unwrap();
    Bridge::remove(&net, &bridge.name, &bridge.owner).await.unwrap();
}

/// Sixteen at once, over one connection and over many, and again for the same sixteen.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn sixteen_pairs_at_once() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    for _ in 0..2 {
        let tasks: Vec<_> = (1..=16)
            .map(|n| {
                let (net, pin) = (network.net.clone(), network.pin(n));
                tokio::spawn(async move {
                    let namespace = NetworkNamespace::ensure(&pin).unwrap();
                    let other = Netlink::connect().await.unwrap();
                    let spec = spec(n);
                    let (a, b) = futures_util::future::join(
                        Veth::ensure(&net, &namespace, &spec),
                        Veth::ensure(&other, &namespace, &spec),
                    )
                    .await;
                    assert_eq!(a.unwrap(), b.unwrap());
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(network.net.links_owned("docklet-test/veth/").await.unwrap().len(), 16);
        assert!(ping(&network.pin(16), "10.0.0.2"));
    }
    for n in 1..=16 {
        NetworkNamespace::remove(&network.pin(n)).unwrap();
    }
    for n in 1..=16 {
        network.net.wait_gone(&spec(n).name, Duration::from_secs(20)).await.unwrap();
    }
    network.end().await;
}
