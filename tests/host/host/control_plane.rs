//! What holds for all networks of a host: what is denied to tenants, and where other hosts' tenants are.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use docklet::Error;
use docklet::error::Chain;
use docklet::host::{Attachment, ContainerSpec, Forward, Host, IsolationSpec, NetworkSpec, Span};
use docklet::lxc::Exec;
use docklet::name::ContainerName;
use docklet::net::{Denied, Port, Protocol, TunnelTopology, Vni};

use super::far::Far;
use super::fixture::{Fixture, eth0, network, spec};
use crate::kernel;
use crate::netns::inside;

fn port(number: u16) -> Port {
    Port { protocol: Protocol::Tcp, number: number.try_into().unwrap() }
}

fn denied(net: &str, number: Option<u16>) -> Denied {
    Denied { net: net.parse().unwrap(), port: number.map(port) }
}

fn denying<const N: usize>(denied: [Denied; N]) -> IsolationSpec {
    IsolationSpec { denied: denied.into(), ..IsolationSpec::default() }
}

/// Whether a connection from inside comes about.
async fn connects(fixture: &Fixture, name: &ContainerName, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    let exec = Exec {
        timeout: Some(Duration::from_secs(60)),
        ..Exec::new(["/bin/nc", "-w", "2", &to.ip().to_string(), &to.port().to_string(), "-e", "/bin/true"])
    };
    fixture.host.exec(name, exec).await.unwrap().status.success()
}

/// Asserts who is reached from inside.
async fn check(fixture: &Fixture, name: &ContainerName, rows: &[(&str, bool)]) {
    for (to, expected) in rows {
        assert_eq!(
            connects(fixture, name, to).await,
            *expected,
            "{to}\n{}",
            kernel::run("nft", ["list", "ruleset"])
        );
    }
}

/// What the table has of `sets`.
async fn entries(host: &Host, sets: &[&str]) -> Vec<String> {
    let rules = host.inventory().await.unwrap().nft;
    let texts = rules.iter().filter_map(|rule| rule.splitn(3, ' ').nth(2).map(str::to_owned));
    texts.filter(|text| sets.iter().any(|set| text.starts_with(set))).collect()
}

/// Services of the host and of a machine beside it: reached, denied, and reached again; also after a recovery, by another
/// process, and by a port that somebody publishes.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn the_control_plane_is_denied() {
    let fixture = Fixture::new().await;
    let far = Far::new(&fixture);
    let host = &fixture.host;
    let open = NetworkSpec { host_ports: vec![port(7070), port(7071)], ..network() };
    host.apply_network(&open).await.unwrap();
    let one = spec("one");
    host.launch(one.clone()).await.unwrap();
    let here = [7070, 7071].map(|number| TcpListener::bind(("0.0.0.0", number)).unwrap());
    let there =
        inside(&far.pin, || [2379, 2380].map(|number| TcpListener::bind(("0.0.0.0", number)).unwrap()));
    let all = |one: bool, other: bool| {
        [
            ("10.99.0.1:7070", one),
            ("192.0.2.1:7070", one),
            ("10.99.0.1:7071", true),
            ("192.0.2.2:2379", one),
            ("192.0.2.2:2380", true),
            ("192.0.2.9:2380", other),
        ]
    };
    assert_eq!(host.isolation().unwrap(), IsolationSpec::default());
    check(&fixture, &one.name, &all(true, true)).await;

    let plane = denying([
        denied("10.99.0.1/32", Some(7070)),
        denied("192.0.2.1/32", Some(7070)),
        denied("192.0.2.2/32", Some(2379)),
        denied("192.0.2.9/32", None),
    ]);
    assert!(host.apply_isolation(&plane).await.unwrap());
    assert!(!host.apply_isolation(&plane).await.unwrap());
    assert_eq!(host.isolation().unwrap(), plane);
    check(&fixture, &one.name, &all(false, false)).await;
    let report = host.recover().await.unwrap();
    assert!(!report.changed() && report.complete(), "{report:?}");

    // After somebody's flush, by another process.
    let rules = host.inventory().await.unwrap().nft;
    kernel::run("nft", ["flush", "ruleset"]);
    let other = Host::open(fixture.sandbox.paths.clone()).await.unwrap();
    assert_eq!(other.isolation().unwrap(), plane);
    assert!(other.recover().await.unwrap().complete());
    assert_eq!(host.inventory().await.unwrap().nft, rules);
    check(&fixture, &one.name, &all(false, false)).await;
    // It says it again, too.
    kernel::run("nft", ["flush", "ruleset"]);
    assert!(other.apply_isolation(&plane).await.unwrap());
    assert_eq!(host.inventory().await.unwrap().nft, rules);

    let less = denying([denied("192.0.2.9/32", None)]);
    assert!(other.apply_isolation(&less).await.unwrap());
    check(&fixture, &one.name, &all(true, false)).await;
    assert!(host.apply_isolation(&IsolationSpec::default()).await.unwrap());
    assert!(!host.apply_isolation(&IsolationSpec::default()).await.unwrap());
    check(&fixture, &one.name, &all(true, true)).await;
    assert!(!fixture.sandbox.paths.isolation().exists());

    host.remove(&one.name).await.unwrap();
    host.apply_network(&network()).await.unwrap();
    drop((here, there, other));
    far.end().await;
    fixture.end().await;
}

/// What is said to be other hosts' networks is not reached, and this host's own lie in it. It holds for networks that come
/// later, and stays when the last one goes.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn networks_of_other_hosts_are_not_reached() {
    let mut fixture = Fixture::new().await;
    let far = Far::new(&fixture);
    let host = fixture.host.clone();
    let host = &host;
    let beside = NetworkSpec::new("beside".parse().unwrap(), "10.97.0.1/24".parse().unwrap());
    let pool = ["10.0.0.0/8", "192.0.2.8/29"].map(|net| net.parse().unwrap());
    let spec_of_all = IsolationSpec { pool: pool.into(), ..IsolationSpec::default() };
    host.remove_network(&network().name).await.unwrap();
    assert!(host.apply_isolation(&spec_of_all).await.unwrap());
    assert!(!host.apply_isolation(&spec_of_all).await.unwrap());
    assert_eq!(host.inventory().await.unwrap().nft, BTreeSet::new(), "without a network it has no effect");
    let reaching = NetworkSpec { reach: [beside.name.clone()].into(), ..network() };
    for network in [&reaching, &beside] {
        host.ensure_network(network).await.unwrap();
    }
    let one = spec("one");
    let two = ContainerSpec { interfaces: eth0(Attachment::new(beside.name.clone())), ..spec("two") };
    for spec in [&one, &two] {
        host.launch(spec.clone()).await.unwrap();
    }
    let there = inside(&far.pin, || TcpListener::bind("0.0.0.0:80").unwrap());
    fixture.sh(&two.name, "(while true; do nc -l -p 80; done) > /dev/null 2>&1 &").await;
    let rows = |beyond: bool| [("192.0.2.2:80", true), ("192.0.2.9:80", beyond), ("10.97.0.2:80", true)];
    check(&fixture, &one.name, &rows(false)).await;
    assert_eq!(entries(host, &["pool4"]).await, ["pool4 10.0.0.0/8", "pool4 192.0.2.8/29"]);
    host.apply_isolation(&IsolationSpec::default()).await.unwrap();
    check(&fixture, &one.name, &rows(true)).await;
    for spec in [&one, &two] {
        host.remove(&spec.name).await.unwrap();
    }
    drop(there);
    host.remove_network(&beside.name).await.unwrap();
    host.apply_network(&network()).await.unwrap();
    far.end().await;
    // Its network is another one by now.
    assert!(host.networks().unwrap() == [network()]);
    fixture.before = host.inventory().await.unwrap();
    fixture.end().await;
}

/// What contradicts itself or a published port is refused with nothing changed, from either side.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn contradictions_are_refused() {
    let fixture = Fixture::new().await;
    let host = &fixture.host;
    let forward = Forward {
        protocol: Protocol::Tcp,
        host_address: None,
        host_port: 8080.try_into().unwrap(),
        port: 80.try_into().unwrap(),
    };
    let attachment = Attachment { forwards: vec![forward], ..Attachment::new(network().name) };
    let one = ContainerSpec { interfaces: eth0(attachment), ..spec("one") };
    host.launch(one.clone()).await.unwrap();
    host.apply_isolation(&denying([denied("10.99.0.0/24", Some(81))])).await.unwrap();
    let before = fixture.host.inventory().await.unwrap();
    for (bad, words) in [
        (denied("10.99.0.0/24", None), "to 10.99.0.2:80 of docklet:"),
        (denied("10.99.0.0/24", Some(80)), "leads to tcp port 80 of 10.99.0.0/24, which is denied"),
        (denied("192.0.2.9/24", None), "invalid denied addresses \"192.0.2.9/24\": has bits of a host"),
    ] {
        let error = host.apply_isolation(&denying([bad])).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(before.diff(&host.inventory().await.unwrap()).to_string(), "");
        assert_eq!(host.isolation().unwrap(), denying([denied("10.99.0.0/24", Some(81))]));
    }
    host.remove(&one.name).await.unwrap();
    host.apply_isolation(&denying([denied("10.99.0.0/24", Some(80))])).await.unwrap();
    let error = host.launch(one.clone()).await.unwrap_err();
    assert!(error.to_string().contains("which is denied"), "{}", Chain(&error));
    // Everything: a port is still published to who is outside.
    host.apply_isolation(&denying([denied("0.0.0.0/0", None), denied("::/0", None)])).await.unwrap();
    host.launch(one.clone()).await.unwrap();
    assert_eq!(entries(host, &["denied"]).await, ["denied4 0.0.0.0/0", "denied6 ::/0"]);
    host.remove(&one.name).await.unwrap();
    host.apply_isolation(&IsolationSpec::default()).await.unwrap();
    fixture.end().await;
}

/// A record that cannot be read takes nothing from the rules; when they are gone, too, nobody gets out.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn damage_opens_nothing() {
    let fixture = Fixture::new().await;
    let far = Far::new(&fixture);
    let host = &fixture.host;
    let (one, two) = (spec("one"), spec("two"));
    for spec in [&one, &two] {
        host.launch(spec.clone()).await.unwrap();
    }
    let there = inside(&far.pin, || TcpListener::bind("0.0.0.0:80").unwrap());
    let pool = ["192.0.2.8/29".parse().unwrap()].into();
    let plane = IsolationSpec {
        pool,
        tunnel_ports: [8472.try_into().unwrap()].into(),
        ..denying([denied("192.0.2.2/32", Some(81))])
    };
    host.apply_isolation(&plane).await.unwrap();
    let whole = host.inventory().await.unwrap();
    let path = fixture.sandbox.paths.isolation();
    let good = fs::read(&path).unwrap();
    let sets = ["pool4", "denied", "tunnel_ports"];
    let known = entries(host, &sets).await;
    let newer = String::from_utf8(good.clone()).unwrap().replace("\"format\": 1", "\"format\": 2");
    for bad in ["", "{\"format\": 1, \"spec\": {\"denied\": 1}}", &newer] {
        fs::write(&path, bad).unwrap();
        let report = host.recover().await.unwrap();
        assert!(!report.changed() && report.failures.len() == 1, "{report:?}");
        assert!(report.failures[0].contains("isolation.json"), "{report:?}");
        let error = host.isolation().unwrap_err();
        assert!(matches!(error, Error::Damaged { .. } | Error::Unsupported { .. }), "{error}");
        host.apply_isolation(&IsolationSpec::default()).await.unwrap_err();
        assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        assert_eq!(whole.diff(&host.inventory().await.unwrap()).to_string(), "");
        // Others come and go.
        let beside = NetworkSpec::new("beside".parse().unwrap(), "10.97.0.1/24".parse().unwrap());
        host.ensure_network(&beside).await.unwrap();
        host.remove_network(&beside.name).await.unwrap();
        assert_eq!(whole.diff(&host.inventory().await.unwrap()).to_string(), "");
    }
    check(&fixture, &one.name, &[("192.0.2.2:80", true), ("192.0.2.9:80", false)]).await;

    kernel::run("nft", ["flush", "ruleset"]);
    let report = host.recover().await.unwrap();
    assert_eq!(
        (report.networks.as_slice(), report.failures.len()),
        (&["lan".to_owned()][..], 1),
        "{report:?}"
    );
    let report = host.recover().await.unwrap();
    assert!(!report.changed() && report.failures.len() == 1, "{report:?}");
    check(&fixture, &one.name, &[("192.0.2.2:80", false), ("192.0.2.9:80", false)]).await;
    fixture.sh(&one.name, "ping -c 1 -w 5 two").await;

    fs::write(&path, good).unwrap();
    assert!(host.recover().await.unwrap().complete());
    assert_eq!(entries(host, &sets).await, known);
    check(&fixture, &one.name, &[("192.0.2.2:80", true), ("192.0.2.9:80", false)]).await;
    for spec in [&one, &two] {
        host.remove(&spec.name).await.unwrap();
    }
    host.apply_isolation(&IsolationSpec::default()).await.unwrap();
    drop(there);
    far.end().await;
    fixture.end().await;
}

/// The ports of tunnels are closed for as long as there are such tunnels, also of a network whose record cannot be read.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn ports_of_tunnels_are_closed() {
    let fixture = Fixture::new().await;
    let far = Far::new(&fixture);
    let host = &fixture.host;
    let hosts = ["192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap()];
    let spanning = |name: &str, gateway: &str, vni: u32, port: u16| {
        let topology = TunnelTopology::VxlanMesh { vni: Vni::new(vni).unwrap(), port, hosts: hosts.into() };
        NetworkSpec {
            span: Some(Span { local: hosts[0], topology }),
            ..NetworkSpec::new(name.parse().unwrap(), gateway.parse().unwrap())
        }
    };
    let (a, b) = (spanning("a", "10.96.0.1/24", 7, 8472), spanning("b", "10.95.0.1/24", 8, 8472));
    let ports = async || entries(host, &["tunnel_ports"]).await;
    assert_eq!(ports().await, ["tunnel_ports 4789"]);
    for network in [&a, &b] {
        host.ensure_network(network).await.unwrap();
    }
    assert_eq!(ports().await, ["tunnel_ports 4789", "tunnel_ports 8472"]);
    let path = fixture.sandbox.paths.networks().join("b.json");
    let good = fs::read(&path).unwrap();
    fs::write(&path, "").unwrap();
    host.remove_network(&a.name).await.unwrap();
    assert_eq!(ports().await, ["tunnel_ports 4789", "tunnel_ports 8472"]);
    fs::write(&path, good).unwrap();
    host.apply_network(&NetworkSpec { span: None, ..b.clone() }).await.unwrap();
    assert_eq!(ports().await, ["tunnel_ports 4789"]);
    host.remove_network(&b.name).await.unwrap();
    far.end().await;
    fixture.end().await;
}

/// Several callers at once, some of them with a record and a table of others' between: in the end one of them is right, and
/// the table says what is written down.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn callers_take_turns() {
    let fixture = Fixture::new().await;
    let specs: Vec<_> = (1..=6).map(|n| denying([denied(&format!("192.0.2.{n}/32"), None)])).collect();
    let hosts: Vec<_> = {
        let mut hosts = Vec::new();
        for _ in &specs {
            hosts.push(Host::open(fixture.sandbox.paths.clone()).await.unwrap());
        }
        hosts
    };
    let calls = specs.iter().zip(&hosts).map(|(spec, host)| host.apply_isolation(spec));
    for changed in futures_util::future::join_all(calls).await {
        assert!(changed.unwrap());
    }
    let last = fixture.host.isolation().unwrap();
    assert!(specs.contains(&last), "{last:?}");
    let net = last.denied.first().unwrap().net;
    assert_eq!(entries(&fixture.host, &["denied"]).await, [format!("denied4 {}", net.addr())]);
    fixture.host.apply_isolation(&IsolationSpec::default()).await.unwrap();
    drop(hosts);
    fixture.end().await;
}
