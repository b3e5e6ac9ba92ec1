//! Who reaches whom: isolation, published ports, and networks that change under their containers.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::time::Duration;

use docklet::Error;
use docklet::error::Chain;
use docklet::host::{Attachment, ContainerSpec, Forward, Inventory, NetworkSpec};
use docklet::lxc::Exec;
use docklet::name::{ContainerName, LinkName};
use docklet::net::{Mtu, NetworkNamespace, Port, Protocol, TunnelTopology, Vni};

use super::fixture::{Fixture, eth0, network, spec};
use super::interfaces::{addresses, dmz, inside, interfaces, link};
use crate::kernel;

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn forward(host_port: u16) -> Forward {
    Forward { protocol: Protocol::Tcp, host_address: None, host_port: port(host_port), port: port(80) }
}

fn published(name: &str, forwards: Vec<Forward>) -> ContainerSpec {
    ContainerSpec {
        interfaces: eth0(Attachment { forwards, ..Attachment::new(network().name) }),
        ..spec(name)
    }
}

/// What the host has, but for the processes that containers begin and end themselves.
async fn objects(fixture: &Fixture) -> Inventory {
    Inventory { processes: BTreeSet::new(), ..fixture.host.inventory().await.unwrap() }
}

/// Whether a ping from inside is answered.
async fn pings(fixture: &Fixture, name: &ContainerName, address: &str) -> bool {
    let exec = Exec {
        timeout: Some(Duration::from_secs(60)),
        ..Exec::new(["/bin/ping", "-c", "1", "-w", "2", address])
    };
    fixture.host.exec(name, exec).await.unwrap().status.success()
}

/// What a container says that listens on its port 80.
async fn listen(fixture: &Fixture, name: &ContainerName, word: &str) {
    let script = format!("(while true; do echo {word} | nc -l -p 80; done) > /dev/null 2>&1 &");
    fixture.sh(name, &script).await;
}

/// What is said at an address. `None` if nobody answers.
fn said(address: &str) -> Option<String> {
    for _ in 0..100 {
        let stream = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_millis(500));
        if let Ok(mut stream) = stream {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut text = String::new();
            if stream.read_to_string(&mut text).is_ok() && !text.is_empty() {
                return Some(text);
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// A port leads to the container from its launch to its removal, whatever happens in between; nobody else gets it.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_port_is_published_for_a_life() {
    let fixture = Fixture::new().await;
    let spec = published("one", vec![forward(8080)]);
    let name = spec.name.clone();
    fixture.host.launch(spec).await.unwrap();
    listen(&fixture, &name, "one").await;
    assert_eq!(said("10.99.0.1:8080").as_deref(), Some("one\n"));

    for (forwards, words) in [
        (vec![forward(8080)], "is published already by container `one`: tcp port 8080 to 10.99.0.2:"),
        (vec![forward(8081), forward(8081)], "is published already"),
        (
            vec![Forward { host_address: Some("10.99.0.1".parse().unwrap()), ..forward(8080) }],
            "is published already",
        ),
        (
            vec![Forward { host_address: Some("fd00::1".parse().unwrap()), ..forward(8081) }],
            "no address of its family",
        ),
        (vec![Forward { host_address: Some("127.0.0.1".parse().unwrap()), ..forward(8081) }], "loopback"),
    ] {
        let before = objects(&fixture).await;
        let error = fixture.host.launch(published("two", forwards)).await.unwrap_err();
        assert!(
            matches!(error, Error::Invalid { .. }) && error.to_string().contains(words),
            "{}",
            Chain(&error)
        );
        assert_eq!(before.diff(&objects(&fixture).await).to_string(), "");
    }
    let listener = TcpListener::bind("0.0.0.0:8082").unwrap();
    let error = fixture.host.launch(published("two", vec![forward(8082)])).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }) && error.to_string().contains("8082"), "{error}");
    drop(listener);
    kernel::wait_closed(8082);
    fixture.host.launch(published("two", vec![forward(8082)])).await.unwrap();

    // It goes with the interface, and comes with another one.
    fixture.host.apply_interfaces(&name, published("one", vec![forward(9090)]).interfaces).await.unwrap();
    assert_eq!(said("10.99.0.1:9090").as_deref(), Some("one\n"));
    let rules = fixture.host.inventory().await.unwrap().nft;
    assert!(!rules.iter().any(|rule| rule.contains("8080")), "{rules:?}");
    fixture.host.stop(&name, Duration::ZERO).await.unwrap();
    assert_eq!(fixture.host.inventory().await.unwrap().nft, rules);
    fixture.host.start(&name).await.unwrap();
    listen(&fixture, &name, "again").await;
    assert_eq!(said("10.99.0.1:9090").as_deref(), Some("again\n"));
    for name in [name, "two".parse().unwrap()] {
        fixture.host.remove(&name).await.unwrap();
    }
    fixture.end().await;
}

/// Networks are kept apart, and the host from them, until one is told otherwise; that changes at once, and back.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn networks_are_apart_until_they_are_told() {
    let fixture = Fixture::new().await;
    fixture.host.ensure_network(&dmz()).await.unwrap();
    let (one, two) =
        (spec("one"), ContainerSpec { interfaces: interfaces(&[("eth0", &dmz())]), ..spec("two") });
    for spec in [&one, &two] {
        fixture.host.launch(spec.clone()).await.unwrap();
    }
    assert!(pings(&fixture, &one.name, "10.99.0.1").await);
    assert!(!pings(&fixture, &one.name, "10.97.0.2").await);
    assert!(!pings(&fixture, &one.name, "10.97.0.1").await, "nor the host's address there");
    let reaching = NetworkSpec { reach: [dmz().name].into(), ..network() };
    fixture.host.apply_network(&reaching).await.unwrap();
    assert!(pings(&fixture, &one.name, "10.97.0.2").await);
    assert!(!pings(&fixture, &two.name, "10.99.0.2").await);
    assert_eq!(
        fixture.host.networks().unwrap().iter().find(|spec| spec.name == network().name),
        Some(&reaching)
    );
    fixture.host.apply_network(&network()).await.unwrap();
    assert!(!pings(&fixture, &one.name, "10.97.0.2").await);

    let listener = TcpListener::bind("0.0.0.0:7070").unwrap();
    let connects = async || {
        let exec = Exec {
            timeout: Some(Duration::from_secs(60)),
            ..Exec::new(["/bin/nc", "-w", "2", "10.99.0.1", "7070", "-e", "/bin/true"])
        };
        fixture.host.exec(&one.name, exec).await.unwrap().status.success()
    };
    assert!(!connects().await);
    let open = Port { protocol: Protocol::Tcp, number: port(7070) };
    fixture.host.apply_network(&NetworkSpec { host_ports: vec![open], ..network() }).await.unwrap();
    assert!(connects().await);
    drop(listener);
    fixture.host.apply_network(&network()).await.unwrap();

    for name in [&one.name, &two.name] {
        fixture.host.remove(name).await.unwrap();
    }
    fixture.host.remove_network(&dmz().name).await.unwrap();
    fixture.end().await;
}

/// The MTU of a network changes with that of its containers; what does not fit is refused, and what cannot be is taken back.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_network_changes_under_its_containers() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    let name = spec.name.clone();
    fixture.host.launch(spec).await.unwrap();
    let large = |mtu: u32| NetworkSpec { mtu: Some(Mtu::new(mtu).unwrap()), ..network() };
    let bridge = || {
        let list = kernel::json("ip", ["-j", "link", "show", "type", "bridge"]);
        list.as_array().unwrap().iter().map(|link| link["mtu"].as_u64().unwrap()).max().unwrap()
    };
    let mtu = || inside(&fixture, &name, &["link", "show", "dev", "eth0"])[0]["mtu"].as_u64().unwrap();
    for size in [1400, 9000, 1280] {
        fixture.host.apply_network(&large(size)).await.unwrap();
        assert_eq!((bridge(), mtu()), (size.into(), size.into()));
        fixture.sh(&name, "ping -c 1 -w 5 10.99.0.1").await;
        let report = fixture.host.recover().await.unwrap();
        assert!(!report.changed() && report.complete(), "{report:?}");
    }
    fixture.host.apply_network(&network()).await.unwrap();
    assert_eq!((bridge(), mtu()), (1500, 1500));

    let place = Attachment { mtu: Some(Mtu::new(1450).unwrap()), ..Attachment::new(network().name) };
    fixture.host.apply_interfaces(&name, eth0(place)).await.unwrap();
    let before = objects(&fixture).await;
    let peers = ["192.0.2.1", "192.0.2.2"].map(|host| host.parse().unwrap());
    let topology = TunnelTopology::VxlanMesh { vni: Vni::new(7).unwrap(), port: 4789, hosts: peers.into() };
    let span = docklet::host::Span { local: peers[0], topology };
    for (changed, words) in [
        (large(1400), "must be at most 1400"),
        (
            NetworkSpec { gateways: vec!["10.98.0.1/24".parse().unwrap()], ..network() },
            "a network's gateways stay",
        ),
        (NetworkSpec { name: "absent".parse().unwrap(), ..network() }, "does not exist"),
        (NetworkSpec { span: Some(span), ..network() }, "192.0.2.1"),
        (NetworkSpec { gateways: vec![], ..network() }, "one of each family"),
    ] {
        let message = Chain(&fixture.host.apply_network(&changed).await.unwrap_err()).to_string();
        assert!(message.contains(words), "{message}");
        assert_eq!(before.diff(&objects(&fixture).await).to_string(), "", "{message}");
    }
    fixture.host.remove(&name).await.unwrap();
    fixture.end().await;
}

/// Interfaces that cannot be are refused before the host is touched.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn wrong_interfaces_are_refused() {
    let fixture = Fixture::new().await;
    fixture.host.ensure_network(&dmz()).await.unwrap();
    let before = objects(&fixture).await;
    let place = |network: &NetworkSpec, addresses: &[&str]| Attachment {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ..Attachment::new(network.name.clone())
    };
    let small = Attachment { mtu: Some(Mtu::new(1279).unwrap()), ..place(&dmz(), &[]) };
    let large = Attachment { mtu: Some(Mtu::new(1501).unwrap()), ..place(&network(), &[]) };
    for (wanted, words) in [
        (interfaces(&[("eth0", &network()), ("eth1", &network())]), "is a second one in network `lan`"),
        (eth0(small), "at least 1280"),
        (eth0(large), "at most 1500"),
        (eth0(place(&network(), &["fd00:97::9"])), "has no subnet of its family"),
        (eth0(place(&dmz(), &["10.97.0.8", "10.97.0.9"])), "second one of its family"),
        (eth0(place(&dmz(), &["fd00:98::9"])), "must be"),
        (eth0(place(&dmz(), &["fd00:97::1"])), "gateway"),
    ] {
        let error =
            fixture.host.launch(ContainerSpec { interfaces: wanted, ..spec("bad") }).await.unwrap_err();
        assert!(
            matches!(error, Error::Invalid { .. }) && error.to_string().contains(words),
            "{}",
            Chain(&error)
        );
        assert_eq!(before.diff(&objects(&fixture).await).to_string(), "");
    }
    for (bad, words) in [("lo", "reserved"), ("sixteen-bytes-xx", "1 to 15 bytes"), ("a/b", "only letters")] {
        let text =
            format!(r#"{{"name": "a", "image": "b", "interfaces": {{"{bad}": {{"network": "lan"}}}}}}"#);
        let message = serde_json::from_str::<ContainerSpec>(&text).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
        LinkName::new(bad).unwrap_err();
    }
    fixture.host.remove_network(&dmz().name).await.unwrap();
    fixture.end().await;
}

/// A network that spans two hosts. The other one is a namespace with a VXLAN link that the kernel's own tools made.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_network_spans_hosts() {
    let fixture = Fixture::new().await;
    let pin = fixture.sandbox.dir("far").join("netns");
    drop(NetworkNamespace::ensure(&pin).unwrap());
    let pinned = pin.to_str().unwrap();
    kernel::run("ip", ["link", "add", "under", "type", "veth", "peer", "name", "far"]);
    kernel::run("ip", ["link", "set", "far", "netns", pinned]);
    kernel::run("ip", ["address", "add", "192.0.2.1/24", "dev", "under"]);
    kernel::run("ip", ["link", "set", "under", "up"]);
    let far = |args: &str| drop(kernel::run("nsenter", format!("--net={pinned} ip {args}").split(' ')));
    far("address add 192.0.2.2/24 dev far");
    far("link set far up");
    far("link add vx type vxlan id 7 dstport 4789 local 192.0.2.2 remote 192.0.2.1");
    far("link set vx up mtu 1450");
    far("address add 10.96.0.77/24 dev vx");

    let [here, there] = ["192.0.2.1", "192.0.2.2"].map(|host| host.parse().unwrap());
    let topology =
        TunnelTopology::VxlanMesh { vni: Vni::new(7).unwrap(), port: 4789, hosts: [here, there].into() };
    let alone = NetworkSpec::new("wide".parse().unwrap(), "10.96.0.1/24".parse().unwrap());
    let wide = NetworkSpec { span: Some(docklet::host::Span { local: here, topology }), ..alone.clone() };
    fixture.host.ensure_network(&wide).await.unwrap();
    let spec = ContainerSpec { interfaces: interfaces(&[("eth0", &wide)]), ..spec("one") };
    fixture.host.launch(spec.clone()).await.unwrap();
    assert_eq!(addresses(&fixture, &spec.name, "eth0"), ["10.96.0.2/24"]);
    let mtu = || inside(&fixture, &spec.name, &["link", "show", "dev", "eth0"])[0]["mtu"].as_u64().unwrap();
    assert_eq!(mtu(), 1450);
    assert!(pings(&fixture, &spec.name, "10.96.0.77").await);

    // Taken away and given back, and after somebody's deletion.
    fixture.host.apply_network(&alone).await.unwrap();
    assert!(!pings(&fixture, &spec.name, "10.96.0.77").await);
    assert_eq!(mtu(), 1500);
    fixture.host.apply_network(&wide).await.unwrap();
    assert!(pings(&fixture, &spec.name, "10.96.0.77").await);
    let links = kernel::json("ip", ["-j", "link", "show", "type", "vxlan"]);
    kernel::run("ip", ["link", "delete", links[0]["ifname"].as_str().unwrap()]);
    let report = fixture.host.recover().await.unwrap();
    assert_eq!(
        (report.networks.as_slice(), report.complete()),
        (&["wide".to_owned()][..], true),
        "{report:?}"
    );
    assert!(pings(&fixture, &spec.name, "10.96.0.77").await);
    let report = fixture.host.recover().await.unwrap();
    assert!(!report.changed() && report.complete(), "{report:?}");

    fixture.host.remove(&spec.name).await.unwrap();
    fixture.host.remove_network(&wide.name).await.unwrap();
    NetworkNamespace::remove(&pin).unwrap();
    while kernel::links().contains(&"under".to_owned()) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fixture.end().await;
}

/// What somebody deletes of a running container's network, piece by piece, is there again after one recovery, and a second
/// one changes nothing.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn each_lost_piece_is_made_again() {
    let fixture = Fixture::new().await;
    let mut spec = published("one", vec![forward(8080)]);
    let place = spec.interfaces.get_mut(&link("eth0")).unwrap();
    place.rates.to_container = Some(docklet::net::Rate::megabits(100).unwrap());
    place.rates.from_container = Some(docklet::net::Rate::megabits(100).unwrap());
    let name = spec.name.clone();
    fixture.host.launch(spec).await.unwrap();
    let beside = super::fixture::spec("beside");
    fixture.host.launch(beside.clone()).await.unwrap();
    listen(&fixture, &name, "here").await;
    assert_eq!(said("10.99.0.1:8080").as_deref(), Some("here\n"));
    let whole = objects(&fixture).await;
    let port = fixture.host.get(&name).unwrap().interfaces[&link("eth0")].link.to_string();
    let of_kind = |kind: &str| {
        let list = kernel::json("ip", ["-j", "link", "show", "type", kind]);
        list[0]["ifname"].as_str().unwrap().to_owned()
    };
    let (bridge, ifb) = (of_kind("bridge"), of_kind("ifb"));
    let pieces: [(&[&str], &[&str], bool); 8] = [
        (&["ip", "link", "delete", &bridge], &["lan"], true),
        (&["ip", "link", "delete", &port], &[], true),
        (&["ip", "link", "delete", &ifb], &[], true),
        (&["tc", "qdisc", "delete", "dev", &port, "root"], &[], true),
        (&["tc", "qdisc", "delete", "dev", &port, "ingress"], &[], true),
        (&["ip", "link", "set", &port, "nomaster"], &[], true),
        (&["nft", "flush", "ruleset"], &["lan"], false),
        (&["ip", "address", "flush", "dev", &bridge], &["lan"], false),
    ];
    for (command, networks, ports) in pieces {
        kernel::run(command[0], &command[1..]);
        let report = fixture.host.recover().await.unwrap();
        assert!(report.complete(), "{command:?}: {report:?}");
        assert_eq!(report.networks, networks, "{command:?}");
        assert_eq!(report.ports.contains(&(name.clone(), link("eth0"))), ports, "{command:?}: {report:?}");
        let report = fixture.host.recover().await.unwrap();
        assert!(!report.changed() && report.complete(), "{command:?}: {report:?}");
        assert_eq!(whole.diff(&objects(&fixture).await).to_string(), "", "{command:?}");
        fixture.sh(&name, "ping -c 1 -w 5 10.99.0.1").await;
        fixture.sh(&name, "ping -c 1 -w 5 beside").await;
        assert_eq!(said("10.99.0.1:8080").as_deref(), Some("here\n"), "{command:?}");
    }
    // What leaked, by its mark.
    let tag = fixture.sandbox.paths.tag();
    for (kind, mark) in [("ifb", "container"), ("bridge", "network")] {
        kernel::run("ip", ["link", "add", &format!("dk-{kind}"), "type", kind]);
        let alias = format!("docklet:{tag}:{mark}:0123456789abcdef");
        kernel::run("ip", ["link", "set", &format!("dk-{kind}"), "alias", &alias]);
    }
    kernel::run("ip", "link add dk-vxlan type vxlan id 9 dstport 4789".split(' '));
    let alias = format!("docklet:{tag}:network:0123456789abcdef");
    kernel::run("ip", ["link", "set", "dk-vxlan", "alias", &alias]);
    let report = fixture.host.recover().await.unwrap();
    assert_eq!((report.orphans.len(), report.complete()), (3, true), "{report:?}");
    assert_eq!(whole.diff(&objects(&fixture).await).to_string(), "");
    for name in [&name, &beside.name] {
        fixture.host.remove(name).await.unwrap();
    }
    fixture.end().await;
}
