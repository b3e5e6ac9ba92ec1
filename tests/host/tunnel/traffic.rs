//! Frames between containers of several hosts.

use std::collections::BTreeSet;

use docklet::net::{Mtu, Tunnel, TunnelSpec, TunnelTopology};

use super::fixture::{Host, Underlay, broadcast, owner};
use crate::sandbox::Sandbox;

/// `{"vxlan_mesh": …}` of these hosts.
pub(super) fn mesh(hosts: &[u8]) -> TunnelTopology {
    let hosts: Vec<_> = hosts.iter().map(|n| format!("192.0.2.{n}")).collect();
    serde_json::from_value(serde_json::json!({"vxlan_mesh": {"vni": 5, "hosts": hosts}})).unwrap()
}

/// Each reaches each with the largest packet, in one piece, and hears each broadcast once.
pub(super) fn check_traffic(hosts: &[Host], mtu: u32) {
    for from in hosts {
        let others: Vec<_> = hosts.iter().filter(|host| host.n != from.n).collect();
        for to in &others {
            assert!(from.ping(to, mtu), "{mtu} bytes from {} to {}", from.n, to.n);
            assert!(!from.ping(to, mtu + 1), "the containers know the size");
        }
        let heard = broadcast(from, &others);
        assert!(heard.iter().all(|heard| *heard == (0..10).collect::<Vec<u8>>()), "{heard:?}");
    }
    for host in hosts {
        // The last column: how many fragments were made.
        let counters = host.run(&["cat", "/proc/net/snmp"]);
        let ip = counters.lines().filter(|line| line.starts_with("Ip: ")).nth(1).unwrap();
        assert_eq!(ip.split(' ').nth(19), Some("0"), "{ip}");
    }
}

/// Three hosts, each with a link for the two others.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn a_vxlan_mesh_is_one_network() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 3).await;
    underlay.raise(&mesh(&[1, 2, 3])).await;
    let mut hardware = BTreeSet::new();
    for host in &underlay.hosts {
        let arms = host.arms().await;
        assert_eq!(arms.len(), 1);
        let shown = host.show(&arms[0]);
        let data = &shown["linkinfo"]["info_data"];
        assert_eq!(shown["linkinfo"]["info_kind"], "vxlan");
        assert_eq!((&data["id"], &data["port"]), (&5.into(), &4789.into()));
        assert_eq!(data["local"], format!("192.0.2.{}", host.n));
        assert_eq!((&data["learning"], &data["udp_csum"]), (&true.into(), &true.into()), "{data}");
        assert_eq!((&shown["mtu"], &shown["master"]), (&1450.into(), &"br0".into()));
        assert_eq!(shown["ifalias"], "docklet-test/tenant");
        hardware.insert(shown["address"].to_string());
        let others = [1, 2, 3].into_iter().filter(|n| *n != host.n).map(|n| format!("192.0.2.{n}"));
        assert_eq!(host.flooded(&arms[0]), others.collect());
    }
    assert_eq!(hardware.len(), 3, "one owner on three hosts: {hardware:?}");
    check_traffic(&underlay.hosts, 1450);
    for host in &underlay.hosts {
        Tunnel::remove(&host.net, &owner("tenant")).await.unwrap();
        Tunnel::remove(&host.net, &owner("tenant")).await.unwrap();
        assert!(!host.run(&["ip", "-d", "link"]).contains("vxlan"));
    }
    assert!(!underlay.hosts[0].ping(&underlay.hosts[1], 84));
    underlay.end().await;
}

/// Two spokes reach each other through the hub.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn a_vxlan_star_goes_through_its_hub() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 3).await;
    let star = serde_json::json!({"vxlan_star": {
        "port": 8472, "hub": "192.0.2.1", "spokes": {"192.0.2.2": 7, "192.0.2.3": 8}
    }});
    underlay.raise(&serde_json::from_value(star).unwrap()).await;
    for (host, arms) in underlay.hosts.iter().zip([2, 1, 1]) {
        assert_eq!(host.arms().await.len(), arms);
    }
    check_traffic(&underlay.hosts, 1450);
    Tunnel::remove(&underlay.hosts[0].net, &owner("tenant")).await.unwrap();
    assert!(!underlay.hosts[1].ping(&underlay.hosts[2], 84), "there is no way but through the hub");
    underlay.end().await;
}

#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn a_vxlan_mesh_goes_over_ipv6() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 2).await;
    let hosts = ["2001:db8::1", "2001:db8::2"];
    let mesh = serde_json::json!({"vxlan_mesh": {"vni": 16_777_215, "hosts": hosts}});
    underlay.raise(&serde_json::from_value(mesh).unwrap()).await;
    check_traffic(&underlay.hosts, 1430);
    underlay.end().await;
}

async fn mtu(host: &Host, spec: &TunnelSpec) -> docklet::Result<u32> {
    Tunnel::mtu(&host.net, spec).await.map(Mtu::bytes)
}

/// The narrowest of the local link and the routes counts; no more can be asked.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn the_mtu_is_that_of_the_underlay() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 3).await;
    let host = &underlay.hosts[0];
    let mut spec = host.spec(&mesh(&[1, 2, 3]));
    assert_eq!(mtu(host, &spec).await.unwrap(), 1450);
    assert_eq!(mtu(host, &host.spec(&mesh(&[1]))).await.unwrap(), 1450, "the link counts without a peer");
    host.run(&["ip", "route", "add", "192.0.2.3/32", "dev", "eth0", "mtu", "1400"]);
    assert_eq!(mtu(host, &spec).await.unwrap(), 1350, "a route of its own");
    assert_eq!(mtu(host, &host.spec(&mesh(&[1, 2]))).await.unwrap(), 1450);
    host.run(&["ip", "route", "add", "unreachable", "198.51.100.1/32"]);
    spec.topology = serde_json::from_value(
        serde_json::json!({"vxlan_mesh": {"vni": 5, "hosts": ["192.0.2.1", "198.51.100.1", "203.0.113.1"]}}),
    )
    .unwrap();
    assert_eq!(mtu(host, &spec).await.unwrap(), 1450, "hosts that are out of reach do not count");
    host.run(&["ip", "link", "set", "eth0", "mtu", "1300"]);
    assert_eq!(mtu(host, &spec).await.unwrap(), 1250);
    spec.mtu = Some(Mtu::new(1251).unwrap());
    let error = mtu(host, &spec).await.unwrap_err().to_string();
    assert!(error.contains("at most 1250: the underlay's 1300 less 50"), "{error}");
    underlay.end().await;
}
