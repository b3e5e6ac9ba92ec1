//! GRE taps. The kernel must have `ip_gre` and `ip6_gre`: these run in the VM tier.

use docklet::net::{Mtu, Tunnel, TunnelTopology};
use serde_json::json;

use super::fixture::{Host, Underlay, broadcast, owner};
use super::traffic::check_traffic;
use crate::netns::ip_inside;
use crate::sandbox::Sandbox;

fn mesh(hosts: &[u8]) -> TunnelTopology {
    let hosts: Vec<_> = hosts.iter().map(|n| format!("192.0.2.{n}")).collect();
    serde_json::from_value(json!({"gre_mesh": {"key": 4_294_967_295_u32, "hosts": hosts}})).unwrap()
}

/// Of the taps: number, remote address, whether it is isolated and up.
fn taps(host: &Host) -> Vec<(u64, String, bool, bool)> {
    let links = ip_inside(&host.pin, &["-d", "link", "show", "master", "br0"]);
    let taps = links.as_array().unwrap().iter().filter(|l| l["linkinfo"]["info_kind"] == "gretap");
    let mut found: Vec<_> = taps
        .map(|tap| {
            let info = &tap["linkinfo"];
            (
                tap["ifindex"].as_u64().unwrap(),
                info["info_data"]["remote"].as_str().unwrap().to_owned(),
                info["info_slave_data"]["isolated"].as_bool().unwrap(),
                tap["flags"].as_array().unwrap().contains(&"UP".into()),
            )
        })
        .collect();
    found.sort();
    found
}

/// Three hosts, each with a tap to each other one; what came from a tap goes to no tap.
#[tokio::test]
#[ignore = "needs root and GRE: network namespaces"]
async fn gre_mesh_is_one_network() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 3).await;
    underlay.raise(&mesh(&[1, 2, 3])).await;
    for host in &underlay.hosts {
        let taps = taps(host);
        assert_eq!(taps.len(), 2);
        assert!(taps.iter().all(|(_, _, isolated, up)| *isolated && *up), "{taps:?}");
        let arms = host.arms().await;
        let shown = host.show(&arms[0]);
        let data = &shown["linkinfo"]["info_data"];
        assert_eq!((&shown["mtu"], &shown["ifalias"]), (&1458.into(), &"docklet-test/tenant".into()));
        assert_eq!(data["local"], format!("192.0.2.{}", host.n));
        assert_eq!((&data["ikey"], &data["okey"]), (&"255.255.255.255".into(), &"255.255.255.255".into()));
        assert_eq!((&data["ttl"], &data["pmtudisc"]), (&64.into(), &true.into()), "{data}");
        assert!(!Tunnel::ensure(&host.net, &host.spec(&mesh(&[1, 2, 3]))).await.unwrap().changed());
    }
    check_traffic(&underlay.hosts, 1458);
    for host in &underlay.hosts {
        Tunnel::remove(&host.net, &owner("tenant")).await.unwrap();
        assert_eq!(taps(host), []);
    }
    underlay.end().await;
}

#[tokio::test]
#[ignore = "needs root and GRE: network namespaces"]
async fn gre_star_goes_through_its_hub() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 3).await;
    let star = json!({"gre_star": {"key": 7, "hub": "192.0.2.1", "spokes": ["192.0.2.2", "192.0.2.3"]}});
    underlay.raise(&serde_json::from_value(star).unwrap()).await;
    for (host, count) in underlay.hosts.iter().zip([2, 1, 1]) {
        let taps = taps(host);
        assert_eq!(taps.len(), count);
        assert!(taps.iter().all(|(_, _, isolated, up)| !isolated && *up), "{taps:?}");
    }
    check_traffic(&underlay.hosts, 1458);
    Tunnel::remove(&underlay.hosts[0].net, &owner("tenant")).await.unwrap();
    assert!(!underlay.hosts[1].ping(&underlay.hosts[2], 84));
    underlay.end().await;
}

#[tokio::test]
#[ignore = "needs root and GRE: network namespaces"]
async fn gre_mesh_goes_over_ipv6() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 2).await;
    let mesh = json!({"gre_mesh": {"key": 1, "hosts": ["2001:db8::1", "2001:db8::2"]}});
    underlay.raise(&serde_json::from_value(mesh).unwrap()).await;
    check_traffic(&underlay.hosts, 1438);
    underlay.end().await;
}

/// A host comes and goes: the taps to the others stay what they are. A bridge that is removed and made anew works at once.
#[tokio::test]
#[ignore = "needs root and GRE: network namespaces"]
async fn gre_peers_and_bridges_come_and_go() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 3).await;
    underlay.raise(&mesh(&[1, 2, 3])).await;
    let [one, two, three] = &underlay.hosts[..] else { panic!("three hosts") };
    let before = taps(one);
    Tunnel::ensure(&one.net, &one.spec(&mesh(&[1, 2]))).await.unwrap();
    let kept: Vec<_> = before.iter().filter(|tap| tap.1 == "192.0.2.2").cloned().collect();
    assert_eq!(taps(one), kept);
    assert_eq!(broadcast(one, &[two, three]), [(0..10).collect::<Vec<u8>>(), Vec::new()]);
    // The other way the tap that is gone was the receiver, too.
    assert_eq!(broadcast(three, &[two, one]), [(0..10).collect::<Vec<u8>>(), Vec::new()]);
    Tunnel::ensure(&one.net, &one.spec(&mesh(&[1, 2, 3]))).await.unwrap();
    assert_eq!(taps(one).len(), 2);
    assert!(taps(one).contains(&kept[0]));
    one.reach(three);

    for _ in 0..2 {
        one.remove_bridge().await;
        one.raise(&one.spec(&mesh(&[1, 2, 3]))).await;
        let taps = taps(one);
        assert!(taps.len() == 2 && taps.iter().all(|(_, _, isolated, up)| *isolated && *up), "{taps:?}");
        one.reach(two);
        one.reach(three);
    }
    check_traffic(&underlay.hosts, 1458);
    underlay.end().await;
}

/// Killed at any message; drift; a key or a way that somebody else has.
#[tokio::test]
#[ignore = "needs root and GRE: network namespaces"]
async fn gre_taps_are_completed_or_refused() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 2).await;
    let [host, other] = &underlay.hosts[..] else { panic!("two hosts") };
    underlay.raise(&mesh(&[1, 2])).await;
    let spec = host.spec(&mesh(&[1, 2]));
    let arm = host.arms().await.remove(0);
    let hardware = host.show(&arm)["address"].as_str().unwrap().to_owned();
    let whole = ["local", "192.0.2.1", "remote", "192.0.2.2", "key", "4294967295"];
    let half = |name: &str, rest: &[&str]| {
        host.run(&[&["ip", "link", "add", name], rest, &["type", "gretap"], &whole].concat());
    };
    for broken in [
        &["ip", "link", "set", &arm, "down"][..],
        &["ip", "link", "set", &arm, "mtu", "1400"],
        &["ip", "link", "set", &arm, "nomaster"],
        &["ip", "link", "set", &arm, "type", "bridge_slave", "isolated", "off"],
        &["ip", "link", "set", &arm, "alias", ""],
    ] {
        host.run(broken);
        assert!(Tunnel::ensure(&host.net, &spec).await.unwrap().changed(), "{broken:?}");
        let shown = host.show(&arm);
        assert_eq!((&shown["mtu"], &shown["ifalias"]), (&1458.into(), &"docklet-test/tenant".into()));
        assert!(taps(host).iter().all(|(_, _, isolated, up)| *isolated && *up));
    }
    host.reach(other);
    // Right after the first message.
    host.run(&["ip", "link", "del", &arm]);
    half(&arm, &["address", &hardware, "master", "br0"]);
    let index = host.show(&arm)["ifindex"].clone();
    Tunnel::ensure(&host.net, &spec).await.unwrap();
    assert_eq!(host.show(&arm)["ifindex"], index);
    host.reach(other);
    // The same ends and key, but a stranger's.
    host.run(&["ip", "link", "del", &arm]);
    half("theirs", &[]);
    let before = host.state();
    let error = Tunnel::ensure(&host.net, &spec).await.unwrap_err();
    assert!(error.to_string().contains("link `theirs`, which bears no mark has it"), "{error}");
    assert_eq!(host.state(), before);
    host.run(&["ip", "link", "del", "theirs"]);
    let asked = docklet::net::TunnelSpec { mtu: Some(Mtu::new(1459).unwrap()), ..spec };
    let error = Tunnel::ensure(&host.net, &asked).await.unwrap_err().to_string();
    assert!(error.contains("at most 1458: the underlay's 1500 less 42"), "{error}");
    underlay.end().await;
}
