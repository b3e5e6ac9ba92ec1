//! What is refused, with the host left as it is.

use docklet::Error;
use docklet::net::{Mtu, Tunnel, TunnelSpec};
use serde_json::json;

use super::fixture::{Host, Underlay, link, owner};
use super::traffic::mesh;
use crate::kernel;
use crate::netns::inside;
use crate::sandbox::Sandbox;

/// Asks for `spec`, and expects an error of that kind and text, and nothing changed.
async fn refuse(host: &Host, spec: &TunnelSpec, kind: fn(&Error) -> bool, text: &str) {
    let before = host.state();
    let error = Tunnel::ensure(&host.net, spec).await.unwrap_err();
    assert!(kind(&error) && error.to_string().contains(text), "{text}: {error:?}");
    assert_eq!(host.state(), before, "{text}");
}

fn differs(error: &Error) -> bool {
    matches!(error, Error::Differs { .. })
}

fn invalid(error: &Error) -> bool {
    matches!(error, Error::Invalid { .. })
}

fn not_found(error: &Error) -> bool {
    matches!(error, Error::NotFound { .. })
}

/// Before anything is there: bad input, nothing to be a port of, an address that is not this host's.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn bad_specs_make_nothing() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 1).await;
    let host = &underlay.hosts[0];
    let good = host.spec(&mesh(&[1, 2]));
    refuse(host, &good, not_found, "bridge `br0` does not exist").await;
    host.bridge(Mtu::new(1450).unwrap()).await;

    let with = |topology: serde_json::Value| TunnelSpec {
        topology: serde_json::from_value(topology).unwrap(),
        ..good.clone()
    };
    for (topology, text) in [
        (json!({"vxlan_mesh": {"vni": 5, "hosts": ["192.0.2.2"]}}), "one of the hosts"),
        (json!({"vxlan_mesh": {"vni": 5, "hosts": ["192.0.2.1", "fd00::1"]}}), "family"),
        (json!({"vxlan_star": {"hub": "192.0.2.1", "spokes": {"192.0.2.1": 5}}}), "one of the spokes"),
        (json!({"vxlan_mesh": {"vni": 5, "port": 0, "hosts": ["192.0.2.1"]}}), "1 to 65535"),
    ] {
        refuse(host, &with(topology), invalid, text).await;
    }
    refuse(host, &TunnelSpec { local: "192.0.2.2".parse().unwrap(), ..good.clone() }, not_found, "192.0.2.2")
        .await;
    let larger = TunnelSpec { mtu: Some(Mtu::new(1451).unwrap()), ..good.clone() };
    refuse(host, &larger, invalid, "at most 1450: the underlay's 1500").await;
    let smaller = TunnelSpec { mtu: Some(Mtu::new(1400).unwrap()), ..good.clone() };
    refuse(host, &smaller, differs, "its MTU is 1450, and 1400 fit").await;
    refuse(host, &TunnelSpec { bridge: link("eth0"), ..good.clone() }, differs, "no bridge").await;
    host.run(&["ip", "addr", "add", "192.0.2.77/24", "dev", "eth0"]);
    let twice = json!({"vxlan_mesh": {"vni": 5, "hosts": ["192.0.2.1", "192.0.2.77"]}});
    refuse(host, &with(twice), invalid, "an address of this host, too").await;
    // A tunnel to what is behind its own bridge.
    let inside = json!({"vxlan_mesh": {"vni": 5, "hosts": ["192.0.2.1", "198.51.100.2"]}});
    host.run(&["ip", "addr", "add", "198.51.100.1/24", "dev", "br0"]);
    refuse(host, &with(inside), differs, "leads into it").await;
    underlay.end().await;
}

/// What makes a tunnel another one is told, field by field.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn another_tunnel_is_a_difference() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 1).await;
    let host = &underlay.hosts[0];
    let spec = host.spec(&mesh(&[1, 2]));
    host.raise(&spec).await;
    host.run(&["ip", "addr", "add", "192.0.2.77/24", "dev", "eth0"]);
    let other = TunnelSpec {
        local: "192.0.2.77".parse().unwrap(),
        topology: serde_json::from_value(
            json!({"vxlan_mesh": {"vni": 6, "port": 8472, "hosts": ["192.0.2.77"]}}),
        )
        .unwrap(),
        ..spec.clone()
    };
    let text =
        "its VNI is 5, not 6; its UDP port is 4789, not 8472; its local address is 192.0.2.1, not 192.0.2.77";
    refuse(host, &other, differs, text).await;
    let gre = json!({"gre_mesh": {"key": 5, "hosts": ["192.0.2.1"]}});
    let gre = TunnelSpec { topology: serde_json::from_value(gre).unwrap(), ..spec.clone() };
    refuse(host, &gre, differs, "its kind is VXLAN, not GRE").await;
    host.run(&["ip", "link", "add", "br9", "mtu", "1400", "type", "bridge"]);
    let elsewhere = TunnelSpec { bridge: link("br9"), ..spec.clone() };
    refuse(host, &elsewhere, differs, "a port of another bridge than `br9`").await;

    // Another owner: the VNI is taken, on whatever bridge, and the bridge is.
    let theirs = TunnelSpec { owner: owner("other"), ..elsewhere };
    refuse(host, &theirs, differs, "of \"docklet-test/tenant\" has it, not \"docklet-test/other\"").await;
    let second = json!({"vxlan_mesh": {"vni": 6, "hosts": ["192.0.2.1", "192.0.2.2"]}});
    let second = TunnelSpec {
        owner: owner("other"),
        topology: serde_json::from_value(second).unwrap(),
        ..spec.clone()
    };
    refuse(host, &second, differs, "with a second tunnel frames could go round").await;
    Tunnel::ensure(&host.net, &TunnelSpec { bridge: link("br9"), ..second }).await.unwrap();
    assert_eq!(Tunnel::list(&host.net, "docklet-test/").await.unwrap().len(), 2);
    underlay.end().await;
}

/// Somebody else's links stay: one that has our name, one that has our VNI, one that is in our bridge.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn foreign_links_are_never_touched() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 1).await;
    let host = &underlay.hosts[0];
    let spec = host.spec(&mesh(&[1, 2]));
    host.raise(&spec).await;
    let arm = host.arms().await.remove(0);
    Tunnel::remove(&host.net, &spec.owner).await.unwrap();
    let vxlan = ["type", "vxlan", "id"];
    for (name, rest, text) in [
        (&*arm, &["type", "veth", "peer", "name", "p1"][..], "kind is veth, not vxlan"),
        (
            &*arm,
            &[&vxlan[..], &["9", "local", "192.0.2.1", "dstport", "4789"]].concat(),
            "bears no owner's mark",
        ),
        ("theirs", &[&vxlan[..], &["5", "local", "192.0.2.1", "dstport", "4789"]].concat(), "`theirs`"),
        ("theirs", &[&["master", "br0"], &vxlan[..], &["9", "dstport", "1"]].concat(), "go round"),
    ] {
        host.run(&[&["ip", "link", "add", name], rest].concat());
        refuse(host, &spec, differs, text).await;
        let before = host.state();
        Tunnel::remove(&host.net, &spec.owner).await.unwrap();
        assert_eq!(host.state(), before);
        host.run(&["ip", "link", "del", name]);
    }
    // The port is another program's.
    let taken = super::fixture::socket(&host.pin, 4789);
    let error = Tunnel::ensure(&host.net, &spec).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }) && error.to_string().contains("UDP port 4789"), "{error:?}");
    assert!(!host.run(&["ip", "link"]).contains(&arm), "what was made for it is gone");
    drop(taken);
    inside(&host.pin, || kernel::wait_closed(4789));
    Tunnel::ensure(&host.net, &spec).await.unwrap();
    underlay.end().await;
}

/// Where the kernel has no GRE the error says which module is missing; where it has, the tunnel is made. By the kernel's
/// own word.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn without_the_module_it_is_unsupported() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 1).await;
    let host = &underlay.hosts[0];
    host.bridge(Mtu::new(1438).unwrap()).await;
    for (hosts, kind, module) in [
        (json!(["192.0.2.1", "192.0.2.2"]), "gretap", "ip_gre"),
        (json!(["2001:db8::1", "2001:db8::2"]), "ip6gretap", "ip6_gre"),
    ] {
        let topology = serde_json::from_value(json!({"gre_mesh": {"key": 5, "hosts": hosts}})).unwrap();
        let mut spec = host.spec(&topology);
        spec.mtu = Some(Mtu::new(1438).unwrap());
        let namespace = format!("--net={}", host.pin.display());
        let local = spec.local.to_string();
        let by_hand = ["ip", "link", "add", "try", "type", kind, "local", &local, "remote", &local];
        let made = std::process::Command::new("nsenter").arg(&namespace).args(by_hand).output().unwrap();
        if made.status.success() {
            host.run(&["ip", "link", "del", "try"]);
            Tunnel::ensure(&host.net, &spec).await.unwrap();
            Tunnel::remove(&host.net, &spec.owner).await.unwrap();
        } else {
            let unsupported = |error: &Error| matches!(error, Error::Unsupported { .. });
            refuse(host, &spec, unsupported, module).await;
        }
    }
    underlay.end().await;
}
