//! The firewall's effect: who reaches whom, with real packets between network namespaces.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use docklet::name::LinkName;
use docklet::net::{
    Bridge, BridgeSpec, Denied, FirewallNetwork, Netlink, NetworkNamespace, PortForward, Protocol, Ruleset,
    Veth, VethSpec,
};

use crate::firewall::{IPV6_SWITCH, forward, network, owner, port, table};
use crate::kernel;
use crate::netns::{inside, ip_inside};
use crate::sandbox::Sandbox;

/// How long something that must arrive may take, and how long something that must not is waited for.
pub(crate) const ARRIVES: Duration = Duration::from_secs(10);
/// How much later than one that was sent after it a packet may come.
const OVERTAKEN: Duration = Duration::from_millis(300);
const DROPPED: Duration = Duration::from_millis(700);

/// Two tenants, the host between them, and an outside that has a second address, which is the control plane's, and knows
/// the way to the tenants' networks.
///
/// | who | where |
/// |---|---|
/// | a, a2 | 10.0.1.2, .3; fd00:1::2, ::3 behind `bra` |
/// | b | 10.0.2.2; fd00:2::2 behind `brb` |
/// | the host | 10.0.1.1, 10.0.2.1, 192.0.2.1; fd00:1::1, fd00:2::1, 2001:db8::1 |
/// | outside | 192.0.2.2, 192.0.2.9; 2001:db8::2, ::9 behind `up` |
pub(crate) struct World {
    net: Netlink,
    dir: PathBuf,
}

const PLACES: [(&str, &str, &str); 4] =
    [("a", "bra", "2"), ("a2", "bra", "3"), ("b", "brb", "2"), ("outside", "up", "2")];
const BRIDGES: [(&str, &str, &str); 3] =
    [("bra", "10.0.1.", "fd00:1::"), ("brb", "10.0.2.", "fd00:2::"), ("up", "192.0.2.", "2001:db8::")];

fn prefixes(bridge: &str) -> (&'static str, &'static str) {
    let (_, four, six) = BRIDGES.iter().find(|(name, ..)| *name == bridge).unwrap();
    (four, six)
}

fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

impl World {
    pub(crate) async fn new(sandbox: &Sandbox) -> Self {
        // As on a host that forwards already: what no rule allows is the firewall's doing.
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        fs::write(IPV6_SWITCH, "1").unwrap();
        let world = Self { net: Netlink::connect().await.unwrap(), dir: sandbox.dir("netns") };
        for (bridge, four, six) in BRIDGES {
            let addresses =
                vec![format!("{four}1/24").parse().unwrap(), format!("{six}1/64").parse().unwrap()];
            let spec = BridgeSpec { addresses, ..BridgeSpec::new(link(bridge), owner(bridge)) };
            Bridge::ensure(&world.net, &spec).await.unwrap();
        }
        for (place, bridge, number) in PLACES {
            let (four, six) = prefixes(bridge);
            let mut addresses = vec![format!("{four}{number}/24"), format!("{six}{number}/64")];
            if place == "outside" {
                addresses.extend([format!("{four}9/24"), format!("{six}9/64")]);
            }
            let spec = VethSpec {
                // What the firewall does about false sources is to be seen.
                guard: None,
                addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
                gateways: vec![format!("{four}1").parse().unwrap(), format!("{six}1").parse().unwrap()],
                ..VethSpec::new(link(&format!("v-{place}")), owner(place), link(bridge), link("eth0"))
            };
            let namespace = NetworkNamespace::ensure(&world.dir.join(place)).unwrap();
            Veth::ensure(&world.net, &namespace, &spec).await.unwrap();
        }
        // Nobody's choice to send from.
        let second = ["-6", "address", "change", "2001:db8::9/64", "dev", "eth0", "preferred_lft", "0"];
        ip_inside(&world.dir.join("outside"), &second);
        world
    }

    pub(crate) async fn end(self) {
        for (place, ..) in PLACES {
            NetworkNamespace::remove(&self.dir.join(place)).unwrap();
            self.net.wait_gone(&link(&format!("v-{place}")), Duration::from_secs(10)).await.unwrap();
        }
        for (bridge, ..) in BRIDGES {
            Bridge::remove(&self.net, &link(bridge), &owner(bridge)).await.unwrap();
        }
    }

    /// The namespace of a place; the host's is the calling thread's.
    pub(crate) fn pin(&self, place: &str) -> PathBuf {
        match place {
            "host" => format!("/proc/self/task/{}/ns/net", nix::unistd::gettid()).into(),
            place => self.dir.join(place),
        }
    }

    /// Tries them all at once, over TCP, with a second of waiting at most for those that are dropped.
    fn check(&self, rows: &[(&str, &str, &str, bool)]) {
        let tries: Vec<_> = rows
            .iter()
            .map(|(from, at, to, expected)| {
                let (from, at) = (self.pin(from), self.pin(at));
                let to: IpAddr = to.parse().unwrap();
                (from, at, to, *expected)
            })
            .collect();
        let results: Vec<_> = thread::scope(|scope| {
            let tries: Vec<_> = tries
                .iter()
                .map(|(from, at, to, expected)| {
                    let patience = if *expected { ARRIVES } else { DROPPED };
                    scope.spawn(move || {
                        exchange(
                            from,
                            at,
                            SocketAddr::new(*to, 0),
                            |port| SocketAddr::new(*to, port),
                            patience,
                        )
                    })
                })
                .collect();
            tries.into_iter().map(|attempt| attempt.join().unwrap()).collect()
        });
        let wrong: Vec<_> = rows
            .iter()
            .zip(&results)
            .filter(|((.., expected), found)| found.is_some() != *expected)
            .map(|((from, at, to, expected), found)| {
                format!("{from} to {at} at {to}: {found:?}, expected {expected}")
            })
            .collect();
        assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), kernel::run("nft", ["list", "ruleset"]));
    }

    /// Whether `from` gets an echo from `to`.
    fn echo(&self, from: &str, to: &str) -> bool {
        let namespace = format!("--net={}", self.pin(from).display());
        let args = [&*namespace, "busybox", "ping", "-c", "1", "-W", "1", to];
        std::process::Command::new("nsenter").args(args).output().unwrap().status.success()
    }

    /// Whose address what is sent over `protocol` from `from` to the published port bears when it arrives.
    fn published(&self, protocol: Protocol, from: &str, target: (&str, &str), to: &str) -> Option<IpAddr> {
        let (at, bind) = target;
        let to: SocketAddr = to.parse().unwrap();
        let (from, at, bind) = (self.pin(from), self.pin(at), bind.parse().unwrap());
        match protocol {
            Protocol::Tcp => exchange(&from, &at, bind, |_| to, ARRIVES),
            Protocol::Udp => exchange_udp(&from, &at, bind, to),
        }
    }
}

/// What `bind` gives. A program that another test is starting may have the socket before it for a moment more.
pub(crate) fn soon<T>(bind: impl Fn() -> io::Result<T>) -> T {
    let begun = Instant::now();
    loop {
        match bind() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && begun.elapsed() < ARRIVES => {
                thread::sleep(Duration::from_millis(1));
            }
            result => return result.unwrap(),
        }
    }
}

/// Connects from one namespace to a listener in another, and has a byte back. Returns whose address the listener saw.
fn exchange(
    from: &Path,
    at: &Path,
    bind: SocketAddr,
    to: impl Fn(u16) -> SocketAddr + Send,
    patience: Duration,
) -> Option<IpAddr> {
    let listener = inside(at, || soon(|| TcpListener::bind(bind)));
    let to = to(listener.local_addr().unwrap().port());
    let stream = match inside(from, || TcpStream::connect_timeout(&to, patience)) {
        Ok(stream) => stream,
        Err(error) => {
            let dropped = [ErrorKind::TimedOut, ErrorKind::WouldBlock, ErrorKind::NetworkUnreachable];
            assert!(
                dropped.contains(&error.kind()) || error.kind() == ErrorKind::HostUnreachable,
                "{to}: {error}"
            );
            return None;
        }
    };
    let (answer, source) = listener.accept().unwrap();
    std::io::Write::write_all(&mut &answer, b"x").unwrap();
    stream.set_read_timeout(Some(ARRIVES)).unwrap();
    std::io::Read::read_exact(&mut &stream, &mut [0]).unwrap();
    Some(source.ip())
}

/// The same with a datagram each way.
fn exchange_udp(from: &Path, at: &Path, bind: SocketAddr, to: SocketAddr) -> Option<IpAddr> {
    let server = inside(at, || soon(|| UdpSocket::bind(bind)));
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let client = inside(from, || UdpSocket::bind(any).unwrap());
    client.send_to(b"ping", to).unwrap();
    server.set_read_timeout(Some(ARRIVES)).unwrap();
    let source = match server.recv_from(&mut [0; 16]) {
        Ok((_, source)) => source,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
        Err(error) => panic!("{error}"),
    };
    server.send_to(b"pong", source).unwrap();
    client.set_read_timeout(Some(ARRIVES)).unwrap();
    let (_, answered) = client.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(answered, to, "the answer comes from where it was asked");
    Some(source.ip())
}

pub(crate) fn tenants() -> [FirewallNetwork; 2] {
    [network("bra", &["10.0.1.0/24", "fd00:1::/64"]), network("brb", &["10.0.2.0/24", "fd00:2::/64"])]
}

/// The kernel gives bridged frames to the firewall or does not; both must mean the same.
pub(crate) fn with_and_without_br_netfilter(test: impl Fn()) {
    for on in ["1", "0"] {
        for family in ["iptables", "ip6tables"] {
            fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{family}"), on).unwrap();
        }
        test();
    }
}

/// Who reaches whom.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn tenants_are_kept_apart() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox).await;
    let firewall = table(&sandbox);
    // Without the table all can.
    world.check(&[
        ("a", "b", "10.0.2.2", true),
        ("a", "b", "fd00:2::2", true),
        ("outside", "a", "10.0.1.2", true),
    ]);

    let denied =
        ["192.0.2.9/32", "2001:db8::9/128"].map(|net| Denied { net: net.parse().unwrap(), port: None });
    let ruleset = Ruleset { networks: tenants().to_vec(), denied: denied.to_vec(), ..Ruleset::default() };
    firewall.apply(&ruleset).unwrap();
    with_and_without_br_netfilter(|| {
        let mut rows = Vec::new();
        for [a, a2, b, outside, control, own, beside, up] in [
            [
                "10.0.1.2",
                "10.0.1.3",
                "10.0.2.2",
                "192.0.2.2",
                "192.0.2.9",
                "10.0.1.1",
                "10.0.2.1",
                "192.0.2.1",
            ],
            [
                "fd00:1::2",
                "fd00:1::3",
                "fd00:2::2",
                "2001:db8::2",
                "2001:db8::9",
                "fd00:1::1",
                "fd00:2::1",
                "2001:db8::1",
            ],
        ] {
            rows.extend([
                ("a", "a2", a2, true),
                ("a", "b", b, false),
                ("b", "a", a, false),
                ("a", "outside", outside, true),
                ("a", "outside", control, false),
                ("b", "outside", control, false),
                ("a", "host", own, false),
                ("a", "host", beside, false),
                ("a", "host", up, false),
                ("outside", "a", a, false),
                ("outside", "b", b, false),
                ("outside", "host", up, true),
                ("host", "a", a, true),
                ("host", "b", b, true),
                ("host", "outside", control, true),
            ]);
        }
        world.check(&rows);
        for (from, to, expected) in [
            ("a", "10.0.1.1", true),
            ("a", "fd00:1::1", true),
            ("a", "192.0.2.1", true),
            ("a", "10.0.2.1", false),
            ("a", "fd00:2::1", false),
            ("a", "10.0.2.2", false),
            ("a", "192.0.2.2", true),
            ("a", "192.0.2.9", false),
        ] {
            assert_eq!(world.echo(from, to), expected, "echo from {from} to {to}");
        }
    });
    firewall.remove().unwrap();
    world.check(&[("b", "a", "10.0.1.2", true), ("b", "a", "fd00:1::2", true)]);
    world.end().await;
}

/// What is allowed passes, in the direction that was allowed; a port of the control plane can be closed alone.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn what_is_allowed_passes() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox).await;
    let firewall = table(&sandbox);
    let [mut a, mut b] = tenants();
    a.reach = vec!["10.0.2.0/24".parse().unwrap(), "fd00:2::/64".parse().unwrap()];
    b.admit = vec![
        "192.0.2.0/24".parse().unwrap(),
        "2001:db8::/32".parse().unwrap(),
        "10.0.0.0/8".parse().unwrap(),
    ];
    firewall.apply(&Ruleset { networks: vec![a.clone(), b.clone()], ..Ruleset::default() }).unwrap();
    with_and_without_br_netfilter(|| {
        world.check(&[
            ("a", "b", "10.0.2.2", true),
            ("a", "b", "fd00:2::2", true),
            // Admitting is for the outside, whatever addresses it has.
            ("b", "a", "10.0.1.2", false),
            ("b", "a", "fd00:1::2", false),
            ("outside", "b", "10.0.2.2", true),
            ("outside", "b", "fd00:2::2", true),
            ("outside", "a", "10.0.1.2", false),
            // Who may reach the network may still not reach the host there.
            ("a", "host", "10.0.2.1", false),
        ]);
    });
    // One port of the host and one outside, each allowed or closed alone.
    let [service, closed] = [7001, 7002].map(|number| port(Protocol::Tcp, number));
    a.host_ports = vec![service];
    let denied = Denied { net: "192.0.2.2/32".parse().unwrap(), port: Some(closed) };
    firewall.apply(&Ruleset { networks: vec![a, b], denied: vec![denied], ..Ruleset::default() }).unwrap();
    for (from, at, to, expected) in [
        ("a", "host", "10.0.1.1:7001", true),
        ("a", "host", "192.0.2.1:7001", true),
        ("a", "host", "10.0.2.1:7001", false),
        ("a", "host", "10.0.1.1:7002", false),
        ("b", "host", "10.0.2.1:7001", false),
        ("a", "outside", "192.0.2.2:7001", true),
        ("a", "outside", "192.0.2.2:7002", false),
        ("a", "outside", "192.0.2.9:7002", true),
    ] {
        let to: SocketAddr = to.parse().unwrap();
        let patience = if expected { ARRIVES } else { DROPPED };
        let found = exchange(&world.pin(from), &world.pin(at), to, |_| to, patience);
        assert_eq!(found.is_some(), expected, "{from} to {to}");
    }
    firewall.remove().unwrap();
    world.end().await;
}

/// Published is published: from outside, from other tenants, from the own network and from the host.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn published_ports_are_reached() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox).await;
    let firewall = table(&sandbox);
    let mut forwards = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        forwards.extend([
            forward(protocol, None, 8080, "10.0.1.2:80"),
            forward(protocol, Some("192.0.2.1"), 8081, "10.0.1.2:80"),
            forward(protocol, None, 8080, "[fd00:1::2]:80"),
            forward(protocol, Some("2001:db8::1"), 8081, "[fd00:1::2]:80"),
        ]);
    }
    let denied = Denied { net: "192.0.2.9/32".parse().unwrap(), port: None };
    let ruleset =
        Ruleset { networks: tenants().to_vec(), forwards, denied: vec![denied], ..Ruleset::default() };
    firewall.apply(&ruleset).unwrap();
    with_and_without_br_netfilter(|| {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let four = ("a", "10.0.1.2:80");
            let six = ("a", "[fd00:1::2]:80");
            for (from, to, target, seen) in [
                ("outside", "192.0.2.1:8080", four, "192.0.2.2"),
                ("outside", "192.0.2.1:8081", four, "192.0.2.2"),
                ("outside", "[2001:db8::1]:8080", six, "2001:db8::2"),
                ("outside", "[2001:db8::1]:8081", six, "2001:db8::2"),
                ("b", "192.0.2.1:8080", four, "10.0.2.2"),
                ("b", "10.0.2.1:8080", four, "10.0.2.2"),
                ("b", "[2001:db8::1]:8081", six, "fd00:2::2"),
                // The answer must not go around the host.
                ("a2", "192.0.2.1:8080", four, "10.0.1.1"),
                ("a2", "192.0.2.1:8081", four, "10.0.1.1"),
                ("a2", "[2001:db8::1]:8080", six, "fd00:1::1"),
                ("host", "192.0.2.1:8080", four, "192.0.2.1"),
                ("host", "[2001:db8::1]:8081", six, "2001:db8::1"),
            ] {
                let found = world.published(protocol, from, target, to);
                assert_eq!(found, Some(seen.parse().unwrap()), "{protocol} from {from} to {to}");
            }
        }
    });
    // Itself, too; with br_netfilter the frame turns round on the bridge, whose port must allow that.
    for (netfilter, hairpin, expected) in [("0", "off", true), ("1", "off", false), ("1", "on", true)] {
        fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", netfilter).unwrap();
        kernel::run("bridge", ["link", "set", "dev", "v-a", "hairpin", hairpin]);
        let to = "192.0.2.1:8080".parse().unwrap();
        let patience = if expected { ARRIVES } else { DROPPED };
        let found =
            exchange(&world.pin("a"), &world.pin("a"), "10.0.1.2:80".parse().unwrap(), |_| to, patience);
        assert_eq!(found, expected.then(|| "10.0.1.1".parse().unwrap()), "{netfilter} {hairpin}");
    }
    // Under loopback, other addresses and other ports it is not: nobody listens there.
    for (from, to) in [
        ("host", "127.0.0.1:8080"),
        ("host", "[::1]:8080"),
        ("host", "10.0.1.1:8081"),
        ("outside", "192.0.2.1:8082"),
    ] {
        let to: SocketAddr = to.parse().unwrap();
        let error = inside(&world.pin(from), || TcpStream::connect_timeout(&to, ARRIVES)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
    }
    world.check(&[("outside", "a", "10.0.1.2", false), ("b", "a", "10.0.1.2", false)]);
    firewall.remove().unwrap();
    world.end().await;
}

/// Another firewall's drop is final, and so is its remedy enough.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables, iptables"]
async fn another_firewall_can_be_told() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox).await;
    let firewall = table(&sandbox);
    firewall.apply(&Ruleset { networks: tenants().to_vec(), ..Ruleset::default() }).unwrap();
    kernel::run("iptables-nft", ["-P", "FORWARD", "DROP"]);
    world.check(&[("a", "outside", "192.0.2.2", false)]);
    for side in ["-i", "-o"] {
        kernel::run("iptables-nft", ["-I", "FORWARD", side, "bra", "-j", "ACCEPT"]);
    }
    world.check(&[
        ("a", "outside", "192.0.2.2", true),
        ("a", "b", "10.0.2.2", false),
        ("outside", "a", "10.0.1.2", false),
    ]);
    firewall.remove().unwrap();
    world.end().await;
}

/// A forward that somebody else made does not lead to the control plane either.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn foreign_translation_is_no_way_around() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox).await;
    let firewall = table(&sandbox);
    let script = "table ip other { chain x { type nat hook prerouting priority -110;
                  ip daddr 192.0.2.1 tcp dport 9000 dnat to 192.0.2.9:9000
                  ip daddr 192.0.2.2 tcp dport 9001 dnat to 10.0.1.1:9001
                  }\n}\n";
    let file = sandbox.dir("nft").join("other");
    fs::write(&file, script).unwrap();
    kernel::run("nft", ["-f", file.to_str().unwrap()]);
    let outside = |expected| {
        let patience = if expected { ARRIVES } else { DROPPED };
        let to = "192.0.2.1:9000".parse().unwrap();
        let found = exchange(
            &world.pin("a"),
            &world.pin("outside"),
            "192.0.2.9:9000".parse().unwrap(),
            |_| to,
            patience,
        );
        assert_eq!(found.is_some(), expected);
        let to = "192.0.2.2:9001".parse().unwrap();
        let found =
            exchange(&world.pin("a"), &world.pin("host"), "10.0.1.1:9001".parse().unwrap(), |_| to, patience);
        assert_eq!(found.is_some(), expected);
    };
    let mut ruleset = Ruleset { networks: tenants().to_vec(), ..Ruleset::default() };
    ruleset.networks[0].host_ports = vec![port(Protocol::Tcp, 9001)];
    firewall.apply(&ruleset).unwrap();
    outside(true);
    ruleset.denied =
        ["192.0.2.9/32", "10.0.1.1/32"].map(|net| Denied { net: net.parse().unwrap(), port: None }).to_vec();
    firewall.apply(&ruleset).unwrap();
    outside(false);
    firewall.remove().unwrap();
    world.end().await;
}

/// Only what leaves the pool bears the host's address.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn what_leaves_bears_the_hosts_address() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox).await;
    let firewall = table(&sandbox);
    let [mut a, b] = tenants();
    a.reach = vec!["10.0.2.0/24".parse().unwrap(), "192.0.2.8/29".parse().unwrap()];
    let mut ruleset = Ruleset { networks: vec![a, b], ..Ruleset::default() };
    let seen = |from: &str, at: &str, to: &str| {
        let to: IpAddr = to.parse().unwrap();
        let bind = SocketAddr::new(to, 0);
        let source =
            exchange(&world.pin(from), &world.pin(at), bind, |port| SocketAddr::new(to, port), ARRIVES);
        source.unwrap().to_string()
    };
    firewall.apply(&ruleset).unwrap();
    assert_eq!(seen("a", "outside", "192.0.2.2"), "192.0.2.1");
    assert_eq!(seen("a", "outside", "2001:db8::2"), "2001:db8::1");
    assert_eq!(seen("a", "outside", "192.0.2.9"), "192.0.2.1");
    assert_eq!(seen("a", "b", "10.0.2.2"), "10.0.1.2");
    assert_eq!(seen("a", "a2", "10.0.1.3"), "10.0.1.2");
    assert_eq!(seen("host", "a", "10.0.1.2"), "10.0.1.1");
    // Another host's network.
    ruleset.pool = vec!["192.0.2.8/29".parse().unwrap()];
    firewall.apply(&ruleset).unwrap();
    assert_eq!(seen("a", "outside", "192.0.2.9"), "10.0.1.2");
    assert_eq!(seen("a", "outside", "192.0.2.2"), "192.0.2.1");
    world.check(&[("b", "outside", "192.0.2.9", false)]);
    // One that is not masqueraded.
    ruleset.networks[1].masquerade = false;
    firewall.apply(&ruleset).unwrap();
    assert_eq!(seen("b", "outside", "192.0.2.2"), "10.0.2.2");
    assert_eq!(seen("a", "outside", "192.0.2.2"), "192.0.2.1");
    firewall.remove().unwrap();
    world.end().await;
}

/// A tenant that is root can send from any address; it does not leave the network.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn borrowed_addresses_do_not_leave() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox).await;
    let firewall = table(&sandbox);
    let arrives = || {
        // The outside takes whatever comes.
        let outside = inside(&world.pin("outside"), || UdpSocket::bind("192.0.2.2:0").unwrap());
        let to = outside.local_addr().unwrap();
        for source in ["10.0.2.2", "198.51.100.7"] {
            inside(&world.pin("a"), || {
                kernel::run("ip", ["address", "replace", &format!("{source}/32"), "dev", "lo"]);
                UdpSocket::bind(format!("{source}:0")).unwrap().send_to(b"x", to).unwrap();
            });
        }
        inside(&world.pin("a"), || UdpSocket::bind("10.0.1.2:0").unwrap().send_to(b"last", to).unwrap());
        outside.set_read_timeout(Some(ARRIVES)).unwrap();
        let (mut count, mut buffer) = (0, [0; 16]);
        while outside.recv_from(&mut buffer).unwrap().0 != 4 {
            count += 1;
        }
        // Two processors may pass each other.
        outside.set_read_timeout(Some(OVERTAKEN)).unwrap();
        while outside.recv_from(&mut buffer).is_ok() {
            count += 1;
        }
        count
    };
    for filter in ["all", "bra", "default"] {
        fs::write(format!("/proc/sys/net/ipv4/conf/{filter}/rp_filter"), "0").unwrap();
    }
    assert_eq!(arrives(), 2);
    firewall.apply(&Ruleset { networks: tenants().to_vec(), ..Ruleset::default() }).unwrap();
    assert_eq!(arrives(), 0);
    // Masqueraded, it would come from the host as its tunnels' frames do.
    let tunnelled = |number: u16, last: u16| {
        let [outside, end] = [number, last]
            .map(|number| inside(&world.pin("outside"), || UdpSocket::bind(("192.0.2.2", number)).unwrap()));
        inside(&world.pin("a"), || {
            for socket in [&outside, &end] {
                let client = UdpSocket::bind("10.0.1.2:0").unwrap();
                client.send_to(b"x", socket.local_addr().unwrap()).unwrap();
            }
        });
        end.set_read_timeout(Some(ARRIVES)).unwrap();
        end.recv_from(&mut [0; 16]).unwrap();
        outside.set_read_timeout(Some(OVERTAKEN)).unwrap();
        outside.recv_from(&mut [0; 16]).is_ok()
    };
    assert!(!tunnelled(4789, 4790) && tunnelled(4788, 4790) && tunnelled(8472, 4790));
    let tunnel_ports = [8472.try_into().unwrap()].into();
    let ruleset = Ruleset { networks: tenants().to_vec(), tunnel_ports, ..Ruleset::default() };
    firewall.apply(&ruleset).unwrap();
    assert!(!tunnelled(4789, 4790) && tunnelled(4788, 4790) && !tunnelled(8472, 4790));
    firewall.remove().unwrap();
    world.end().await;
}

/// While the table is replaced, again and again, nothing slips through, and connections go on.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn replacing_leaves_no_gap() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox).await;
    let firewall = table(&sandbox);
    let ruleset = |number: u16| -> Ruleset {
        let one: PortForward = forward(Protocol::Tcp, None, number, "10.0.1.2:80");
        Ruleset { networks: tenants().to_vec(), forwards: vec![one], ..Ruleset::default() }
    };
    firewall.apply(&ruleset(8000)).unwrap();
    let b = inside(&world.pin("b"), || UdpSocket::bind("10.0.2.2:0").unwrap());
    let (to, outside) = (b.local_addr().unwrap(), world.pin("outside"));
    let listener = inside(&outside, || TcpListener::bind("192.0.2.2:0").unwrap());
    let served = listener.local_addr().unwrap();
    let stream = inside(&world.pin("a"), || TcpStream::connect_timeout(&served, ARRIVES).unwrap());
    let (answer, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(ARRIVES)).unwrap();
    let stop = AtomicBool::new(false);
    let pin = world.pin("a");
    let sent = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            inside(&pin, || {
                let mut sent = 0;
                while !stop.load(Ordering::Relaxed) {
                    // A new socket is a new connection for the tracker.
                    let socket = UdpSocket::bind("10.0.1.2:0").unwrap();
                    sent += usize::from(socket.send_to(b"x", to).is_ok());
                    thread::sleep(Duration::from_micros(200));
                }
                sent
            })
        });
        for number in 8001..8031 {
            assert!(firewall.apply(&ruleset(number)).unwrap());
            std::io::Write::write_all(&mut &answer, b"x").unwrap();
            std::io::Read::read_exact(&mut &stream, &mut [0]).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap()
    });
    assert!(sent > 30, "{sent}");
    b.set_nonblocking(true).unwrap();
    assert_eq!(b.recv_from(&mut [0; 16]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // A socket keeps its namespace.
    drop((b, listener, stream, answer));
    firewall.remove().unwrap();
    world.end().await;
}
