//! Ports in batches, and ports that are changed in place, as `ip` sees them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use docklet::Error;
use docklet::name::LinkName;
use docklet::net::{Bridge, LinkOwner, Mtu, Netlink, NetworkNamespace, Rate, RateLimits, Veth, VethSpec};

use crate::bridge::{self, addresses, show};
use crate::kernel;
use crate::netns::ip_inside;
use crate::sandbox::Sandbox;
use crate::veth::{Network, default_routes, ping, spec};

const PORTS: u8 = 200;

/// What the kernel tells everybody of links and traffic control while `job` runs.
async fn told_during<T>(job: impl Future<Output = T>) -> (T, String) {
    let mut monitor = Command::new("ip").args(["monitor", "link"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut traffic = Command::new("tc").arg("monitor").stdout(Stdio::piped()).spawn().unwrap();
    // A link of the test's own says when both listen, and when they have heard everything.
    let stir = |name: &str| {
        kernel::run("ip", ["link", "add", name, "type", "ifb"]);
        kernel::run("tc", ["qdisc", "add", "dev", name, "ingress"]);
    };
    let lines = [Lines::new(monitor.stdout.take().unwrap()), Lines::new(traffic.stdout.take().unwrap())];
    let mut number = 0;
    for lines in &lines {
        while !lines.heard("ifb-begin") {
            number += 1;
            stir(&format!("ifb-begin{number}"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let result = job.await;
    stir("ifb-end");
    for lines in &lines {
        while !lines.heard("ifb-end") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    for child in [&mut monitor, &mut traffic] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for name in kernel::links().iter().filter(|name| name.starts_with("ifb-")) {
        kernel::run("ip", ["link", "del", name]);
    }
    let text = lines.map(|lines| lines.text()).concat();
    let told = text.lines().filter(|line| !line.contains("ifb-") && !line.trim().starts_with("link/"));
    (result, told.collect::<Vec<_>>().join("\n"))
}

/// What a program prints, read by a thread.
struct Lines(std::sync::Arc<std::sync::Mutex<String>>);

impl Lines {
    fn new(output: std::process::ChildStdout) -> Self {
        let text = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
        let shared = text.clone();
        std::thread::spawn(move || {
            use std::io::BufRead;
            for line in std::io::BufReader::new(output).lines().map_while(Result::ok) {
                let mut text = shared.lock().unwrap();
                text.push_str(&line);
                text.push('\n');
            }
        });
        Self(text)
    }

    fn heard(&self, word: &str) -> bool {
        self.0.lock().unwrap().contains(word)
    }

    fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

/// Waits until the kernel has nothing more to say of new ports: that they have a carrier.
fn settled() {
    let deadline = Instant::now() + Duration::from_secs(20);
    let up = || {
        let links = kernel::json("ip", ["-j", "link", "show", "type", "veth"]);
        links.as_array().unwrap().iter().all(|link| link["operstate"] == "UP")
    };
    while !up() {
        assert!(Instant::now() < deadline, "ports without a carrier");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn port(n: u8) -> VethSpec {
    let base = spec(n);
    VethSpec { name: LinkName::new(format!("dkvb{n}")).unwrap(), ..base }
}

/// Two hundred at once; again, and nothing is written; some of them drifted, and only those are put right.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn two_hundred_ports_are_made_and_left_alone() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    let net = network.net.clone();
    let mut all: Vec<(NetworkNamespace, VethSpec)> =
        (1..=PORTS).map(|n| (NetworkNamespace::ensure(&network.pin(n)).unwrap(), port(n))).collect();
    // Two of them cost the devices for their limits.
    let rates = RateLimits { to_container: Some(Rate::megabits(50).unwrap()), from_container: None };
    all[6].1.rates = RateLimits { from_container: rates.to_container, ..rates };
    all[7].1.rates = rates;
    all[8].1.isolated = true;
    all[9].1.guard = None;
    let pairs: Vec<_> = all.iter().map(|(namespace, spec)| (namespace, spec)).collect();

    let made = Veth::ensure_all(&net, &pairs).await.unwrap();
    assert_eq!(made.len(), pairs.len());
    for (veth, (namespace, spec)) in made.iter().zip(&pairs) {
        assert_eq!(veth.name(), &spec.name);
        if [1, 7, 8, 9, 10, 200].map(|n| port(n).name).contains(&spec.name) {
            let host = show(spec.name.as_str());
            assert_eq!(host["ifindex"], veth.index());
            assert_eq!(host["ifalias"], spec.owner.as_str());
            assert_eq!(host["master"], "br0");
            assert!(ping(namespace.path(), "10.0.0.1") && ping(namespace.path(), "fd00::1"), "{}", spec.name);
        }
    }
    assert_eq!(net.links_owned("docklet-test/veth/").await.unwrap().len(), 201);

    settled();
    let (again, told) = told_during(Veth::ensure_all(&net, &pairs)).await;
    assert_eq!(again.unwrap(), made);
    assert_eq!(told, "", "nothing was written");

    kernel::run("ip", ["link", "set", "dkvb5", "nomaster"]);
    kernel::run("ip", ["link", "set", "dkvb6", "down"]);
    kernel::run("tc", ["filter", "del", "dev", "dkvb7", "ingress", "prio", "1"]);
    kernel::run("tc", ["qdisc", "del", "dev", "dkvb8", "root"]);
    kernel::run("ip", ["link", "del", "dkvb11"]);
    let (again, told) = told_during(Veth::ensure_all(&net, &pairs)).await;
    let again = again.unwrap();
    assert_eq!((&again[..10], &again[11..]), (&made[..10], &made[11..]));
    let spoken_of = |n: u8| told.contains(&format!("dkvb{n}@")) || told.contains(&format!("dkvb{n} "));
    let touched: Vec<_> = (1..=PORTS).filter(|n| spoken_of(*n)).collect();
    assert_eq!(touched, [5, 6, 7, 8, 11], "{told}");
    assert_eq!(show("dkvb5")["master"], "br0");
    assert!(ping(pairs[10].0.path(), "10.0.0.1"));

    // One name twice, and nothing is touched.
    let error = Veth::ensure_all(&net, &[pairs[0], pairs[1], pairs[0]]).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    let devices = Veth::links(&all[6].1.name, &all[6].1.owner);
    for (namespace, _) in all.drain(..) {
        NetworkNamespace::remove(namespace.path()).unwrap();
    }
    for n in 1..=PORTS {
        net.wait_gone(&port(n).name, Duration::from_secs(30)).await.unwrap();
    }
    Veth::remove(&net, &devices[0], &port(7).owner).await.unwrap();
    let owned = net.links_owned("docklet-test/veth/").await.unwrap();
    assert!(owned.is_empty(), "{owned:?}");
    network.end().await;
}

/// Others make and remove some of them meanwhile; in the end there is one of each.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn batches_at_once_end_in_one_of_each() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    let net = network.net.clone();
    let all: Vec<_> =
        (1..=20).map(|n| (NetworkNamespace::ensure(&network.pin(n)).unwrap(), port(n))).collect();
    let pairs: Vec<_> = all.iter().map(|(namespace, spec)| (namespace, spec)).collect();
    let other = Netlink::connect().await.unwrap();
    let (one, two) =
        futures_util::future::join(Veth::ensure_all(&net, &pairs), Veth::ensure_all(&other, &pairs)).await;
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(net.links_owned("docklet-test/veth/").await.unwrap().len(), 20);
    for (namespace, spec) in &all {
        assert!(
            kernel::run("tc", ["filter", "show", "dev", spec.name.as_str(), "ingress"])
                .contains("direct-action")
        );
        Veth::remove(&net, &spec.name, &spec.owner).await.unwrap();
        NetworkNamespace::remove(namespace.path()).unwrap();
    }
    network.end().await;
}

/// The program of a guard with many addresses is so long that what the kernel tells of a few of them fills a socket.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn long_guards_are_read_back() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    let net = network.net.clone();
    let all: Vec<_> = (1..=40)
        .map(|n| {
            let addresses = (1..=64).map(|last| format!("fd00::{n:x}:{last:x}/64").parse().unwrap());
            let spec = VethSpec { addresses: addresses.collect(), gateways: Vec::new(), ..port(n) };
            (NetworkNamespace::ensure(&network.pin(n)).unwrap(), spec)
        })
        .collect();
    let pairs: Vec<_> = all.iter().map(|(namespace, spec)| (namespace, spec)).collect();
    let made = tokio::time::timeout(Duration::from_secs(60), Veth::ensure_all(&net, &pairs)).await;
    let made = made.expect("no answer").unwrap();
    let again = tokio::time::timeout(Duration::from_secs(60), Veth::ensure_all(&net, &pairs)).await;
    assert_eq!(again.expect("no answer").unwrap(), made);
    for (namespace, spec) in &all {
        Veth::remove(&net, &spec.name, &spec.owner).await.unwrap();
        NetworkNamespace::remove(namespace.path()).unwrap();
    }
    network.end().await;
}

fn inner_addresses(pin: &Path) -> Vec<String> {
    let mut found = addresses(&ip_inside(pin, &["addr", "show", "eth0"])[0]);
    found.sort();
    found
}

/// Address, gateway, MTU, rate and bridge of a running container change in place.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn a_port_is_changed_in_place() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    let net = network.net.clone();
    let pin = network.pin(1);
    let namespace = NetworkNamespace::ensure(&pin).unwrap();
    let error = Veth::apply(&net, &namespace, &spec(1)).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let veth = Veth::ensure(&net, &namespace, &spec(1)).await.unwrap();
    let inside = format!("--net={}", pin.display());
    kernel::run("nsenter", [&inside, "ip", "addr", "add", "10.9.9.9/24", "dev", "eth0"]);

    let mut other = spec(1);
    other.addresses = vec!["10.0.0.50/24".parse().unwrap()];
    other.gateways = vec!["10.0.0.1".parse().unwrap()];
    other.mtu = Some(Mtu::new(1400).unwrap());
    other.rates.to_container = Some(Rate::megabits(10).unwrap());
    for _ in 0..2 {
        assert_eq!(Veth::apply(&net, &namespace, &other).await.unwrap(), veth);
        assert_eq!(inner_addresses(&pin), ["10.0.0.50/24"]);
        assert_eq!(default_routes(&pin), ["10.0.0.1"]);
        assert_eq!(ip_inside(&pin, &["link", "show", "eth0"])[0]["mtu"], 1400);
        assert_eq!(show("dkve1")["mtu"], 1400);
        assert!(ping(&pin, "10.0.0.1"));
    }
    Veth::ensure(&net, &namespace, &other).await.unwrap();

    // To another bridge, and back to what it was.
    let second = docklet::net::BridgeSpec {
        addresses: vec!["10.1.0.1/24".parse().unwrap()],
        ..docklet::net::BridgeSpec::new(
            LinkName::new("br1").unwrap(),
            LinkOwner::new("docklet-test/bridge/1").unwrap(),
        )
    };
    Bridge::ensure(&net, &second).await.unwrap();
    let mut moved = VethSpec { bridge: second.name.clone(), isolated: true, ..other.clone() };
    moved.addresses = vec!["10.1.0.2/24".parse().unwrap()];
    moved.gateways = vec!["10.1.0.1".parse().unwrap()];
    assert_eq!(Veth::apply(&net, &namespace, &moved).await.unwrap(), veth);
    assert_eq!(show("dkve1")["master"], "br1");
    assert_eq!(show("dkve1")["linkinfo"]["info_slave_data"]["isolated"], true);
    assert!(ping(&pin, "10.1.0.1"));
    assert_eq!(Veth::apply(&net, &namespace, &spec(1)).await.unwrap(), veth);
    assert_eq!(inner_addresses(&pin), ["10.0.0.2/24", "fd00::2/64"]);
    assert_eq!(default_routes(&pin), ["10.0.0.1", "fd00::1"]);
    assert_eq!((show("dkve1")["master"].as_str(), show("dkve1")["mtu"].as_u64()), (Some("br0"), Some(1500)));
    assert!(ping(&pin, "10.0.0.1"));
    // The bridge was without a port: IPv6 on it learns in its own time that there is one.
    assert!((0..5).any(|_| ping(&pin, "fd00::1")));

    let elsewhere = NetworkNamespace::ensure(&network.pin(2)).unwrap();
    let error = Veth::apply(&net, &elsewhere, &spec(1)).await.unwrap_err();
    assert!(matches!(error, Error::Differs { .. }), "{error}");
    Veth::remove(&net, &spec(1).name, &spec(1).owner).await.unwrap();
    for namespace in [&namespace, &elsewhere] {
        NetworkNamespace::remove(namespace.path()).unwrap();
    }
    for spec in [bridge::spec(&[]), second] {
        Bridge::remove(&net, &spec.name, &spec.owner).await.unwrap();
    }
}
