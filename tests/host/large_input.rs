//! Input ten thousand entries long: carried out, or refused before anything is touched.

use std::net::{Ipv4Addr, TcpListener};

use docklet::Error;
use docklet::name::LinkName;
use docklet::net::{
    Bridge, Denied, Netlink, NetworkNamespace, PortForward, Protocol, Ruleset, Tunnel, TunnelSpec, Veth,
    VethSpec,
};
use serde_json::json;

use crate::firewall::{forward, network, table};
use crate::sandbox::Sandbox;
use crate::{bridge, kernel, veth};

const MANY: u32 = 10_000;

/// The nth network of four addresses above `10.FIRST.0.0`.
fn net(first: u8, n: u32) -> String {
    format!("{}/30", Ipv4Addr::from(u32::from(Ipv4Addr::new(10, first, 0, 0)) + 4 * n))
}

/// The kernel has all of them, by its own word; one that is wrong among them changes nothing.
#[test]
#[ignore = "needs root: network namespace, nftables"]
fn ten_thousand_forwards_are_published_or_none() {
    let sandbox = Sandbox::new();
    let firewall = table(&sandbox);
    let mut rules = Ruleset {
        networks: (0..MANY).map(|n| network(&format!("dk{n}"), &[&net(2, n)])).collect(),
        forwards: (0..MANY)
            .map(|n| {
                let target = u32::from(Ipv4Addr::new(10, 2, 0, 2)) + 4 * n;
                let port = u16::try_from(1 + n).unwrap();
                forward(Protocol::Tcp, None, port, &format!("{}:80", Ipv4Addr::from(target)))
            })
            .collect(),
        denied: (0..MANY).map(|n| Denied { net: net(100, n).parse().unwrap(), port: None }).collect(),
        ..Ruleset::default()
    };
    PortForward::check_unused(&rules.forwards).unwrap();
    let listener = TcpListener::bind("0.0.0.0:9999").unwrap();
    let error = PortForward::check_unused(&rules.forwards).unwrap_err();
    assert!(matches!(error, Error::Busy { .. }) && error.to_string().contains("port 9999"), "{error}");
    drop(listener);
    kernel::wait_closed(9999);
    assert!(firewall.apply(&rules).unwrap());
    let listed = || kernel::run("nft", ["list", "table", "inet", firewall.table()]);
    let before = listed();
    assert_eq!(before.matches(" : 10.").count(), 10_000);

    let reached = Denied { net: net(2, 9_998).parse().unwrap(), port: None };
    rules.denied.push(reached);
    let error = firewall.apply(&rules).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains("is denied"), "{error}");
    rules.denied.pop();
    rules.forwards.push(forward(Protocol::Tcp, None, 20_000, "10.90.0.1:80"));
    let error = firewall.apply(&rules).unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains("none of"), "{error}");
    assert!(listed() == before, "the table has changed");
    firewall.remove().unwrap();
}

/// A bridge has room for 1,023 ports. Who asks for more at once is told so, and none is made.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn more_ports_than_a_bridge_takes_are_refused() {
    let sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let made = Bridge::ensure(&net, &bridge::spec(&["10.0.0.1/8"])).await.unwrap();
    let pin = sandbox.dir("netns").join("1");
    let namespace = NetworkNamespace::ensure(&pin).unwrap();
    let port = |n: u32| VethSpec {
        name: LinkName::new(format!("dkl{n}")).unwrap(),
        inner_name: LinkName::new(format!("eth{n}")).unwrap(),
        addresses: Vec::new(),
        gateways: Vec::new(),
        ..veth::spec(1)
    };
    let specs: Vec<VethSpec> = (0..MANY).map(port).collect();
    let pairs: Vec<_> = specs.iter().map(|spec| (&namespace, spec)).collect();
    let error = Veth::ensure_all(&net, &pairs).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }) && error.to_string().contains("1023"), "{error}");
    assert_eq!(kernel::links(), ["lo", "br0"]);

    let links = (0..1023).map(|n| format!("link add full{n} master br0 type ifb\n"));
    let batch = sandbox.dir("ip").join("batch");
    std::fs::write(&batch, links.collect::<String>()).unwrap();
    kernel::run("ip", ["-batch", batch.to_str().unwrap()]);
    for result in [
        Veth::ensure(&net, &namespace, &specs[0]).await.map(drop),
        Veth::ensure_all(&net, &pairs[..1]).await.map(drop),
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Busy { .. }) && error.to_string().contains("1023"), "{error}");
    }
    kernel::run("ip", ["link", "add", "other", "type", "ifb"]);
    let other = LinkName::new("other").unwrap();
    let error = made.attach_foreign(&net, &other, &docklet::net::PortSettings::default()).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }) && error.to_string().contains("1023"), "{error}");
    assert_eq!(kernel::links().len(), 1026);
    let links = (0..1023).map(|n| format!("link del full{n}\n"));
    std::fs::write(&batch, links.chain(["link del other\n".to_owned()]).collect::<String>()).unwrap();
    Bridge::remove(&net, made.name(), &bridge::spec(&[]).owner).await.unwrap();
    kernel::run("ip", ["-batch", batch.to_str().unwrap()]);
    drop(namespace);
    NetworkNamespace::remove(&pin).unwrap();
}

/// A mesh of ten thousand hosts is one link with as many peers; a star of as many would be as many links.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn ten_thousand_hosts_are_a_mesh_and_no_star() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    kernel::run("ip", ["link", "add", "under", "type", "ifb"]);
    kernel::run("ip", ["address", "add", "10.9.0.1/16", "dev", "under"]);
    kernel::run("ip", ["link", "set", "under", "up"]);
    let mtu = Some(docklet::net::Mtu::new(1400).unwrap());
    let spec = docklet::net::BridgeSpec { mtu, ..bridge::spec(&[]) };
    Bridge::ensure(&net, &spec).await.unwrap();
    let hosts: Vec<_> =
        (1..=MANY).map(|n| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 9, 0, 0)) + n)).collect();
    let tunnel = |topology: serde_json::Value| -> TunnelSpec {
        let spec =
            json!({ "owner": "docklet-test/t", "bridge": "br0", "local": "10.9.0.1", "topology": topology });
        serde_json::from_value(spec).unwrap()
    };
    let spokes: serde_json::Map<_, _> =
        (1_u32..).zip(&hosts[1..]).map(|(vni, host)| (host.to_string(), json!(vni))).collect();
    let star = tunnel(json!({ "vxlan_star": { "hub": "10.9.0.1", "spokes": spokes } }));
    let error = Tunnel::ensure(&net, &star).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains("1023"), "{error}");
    assert_eq!(kernel::links(), ["lo", "under", "br0"]);

    let mesh = tunnel(json!({ "vxlan_mesh": { "vni": 5, "hosts": hosts } }));
    assert!(Tunnel::ensure(&net, &mesh).await.unwrap().changed());
    assert!(!Tunnel::ensure(&net, &mesh).await.unwrap().changed());
    let flooded = kernel::run("bridge", ["fdb", "show", "br", "br0"]);
    assert_eq!(flooded.matches("00:00:00:00:00:00").count(), 9_999);
    Tunnel::remove(&net, &mesh.owner).await.unwrap();
    Bridge::remove(&net, &spec.name, &spec.owner).await.unwrap();
    kernel::run("ip", ["link", "del", "under"]);
}
