//! Ports of bridges, as `ip` and `bridge` see them.

use std::ffi::OsStr;

use docklet::Error;
use docklet::name::LinkName;
use docklet::net::{Bridge, BridgeSpec, LinkOwner, Netlink, PortSettings, PortVlans, VlanId};
use serde_json::Value;

use crate::bridge::{is_up, show, spec};
use crate::kernel;
use crate::sandbox::Sandbox;

fn name(text: &str) -> LinkName {
    LinkName::new(text).unwrap()
}

fn owner() -> LinkOwner {
    LinkOwner::new("docklet-test/port").unwrap()
}

/// A veth pair whose first end, `name`, is the test's own.
fn pair(name: &str) {
    kernel::run("ip", ["link", "add", name, "type", "veth", "peer", "name", &format!("{name}-peer")]);
    kernel::run("ip", ["link", "set", name, "alias", owner().as_str(), "up"]);
}

fn delete(links: &[&str]) {
    for link in links {
        kernel::run("ip", ["link", "delete", link]);
    }
}

/// The bridge that a link is a port of, and what it does with it: `[master, hairpin, isolated, learning]`.
fn port(link: &str) -> [Value; 4] {
    let mut link = show(link);
    let mut port = link["linkinfo"]["info_slave_data"].take();
    [link["master"].take(), port["hairpin"].take(), port["isolated"].take(), port["learning"].take()]
}

/// Attached twice is attached; settings are put right; detached twice is detached; the link stays.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn ports_come_and_go() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let bridge = Bridge::ensure(&net, &spec(&["10.0.0.1/24"])).await.unwrap();
    pair("p0");
    pair("p1");
    assert_eq!(bridge.ports(&net).await.unwrap(), []);

    let default = PortSettings::default();
    assert!(bridge.attach(&net, &name("p0"), &owner(), &default).await.unwrap());
    assert!(!bridge.attach(&net, &name("p0"), &owner(), &default).await.unwrap());
    assert_eq!(port("p0"), [Value::from("br0"), false.into(), false.into(), true.into()]);

    let settings = PortSettings { hairpin: true, isolated: true, learning: false, vlans: None };
    for _ in 0..2 {
        assert!(bridge.attach(&net, &name("p1"), &owner(), &settings).await.unwrap());
        assert!(!bridge.attach(&net, &name("p1"), &owner(), &settings).await.unwrap());
        assert_eq!(port("p1"), [Value::from("br0"), true.into(), true.into(), false.into()]);
        kernel::run("ip", ["link", "set", "p1", "type", "bridge_slave", "isolated", "off", "learning", "on"]);
    }
    assert!(bridge.attach(&net, &name("p1"), &owner(), &settings).await.unwrap());

    let ports = bridge.ports(&net).await.unwrap();
    let names: Vec<_> = ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["p0", "p1"]);
    assert_eq!((&ports[0].settings, &ports[1].settings), (&default, &settings));
    assert!(ports.iter().all(|port| port.owner == Some(owner()) && port.up));

    for _ in 0..2 {
        bridge.detach(&net, &name("p1")).await.unwrap();
        assert_eq!(port("p1")[0], Value::Null);
    }
    bridge.detach(&net, &name("nothing")).await.unwrap();
    assert_eq!(port("p0")[0], "br0");
    assert_eq!(bridge.ports(&net).await.unwrap().len(), 1);

    Bridge::remove(&net, bridge.name(), &spec(&[]).owner).await.unwrap();
    for result in [
        bridge.ports(&net).await.map(drop),
        bridge.attach(&net, &name("p0"), &owner(), &default).await.map(drop),
    ] {
        assert!(matches!(result, Err(Error::NotFound { .. })), "{result:?}");
    }
    bridge.detach(&net, &name("p0")).await.unwrap();
    delete(&["p0", "p1"]);
}

/// What is somebody else's, or somewhere else, or cannot be a port, is refused and left as it is to the byte.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn what_must_not_become_a_port_is_left_as_it_is() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let bridge = Bridge::ensure(&net, &spec(&["10.0.0.1/24"])).await.unwrap();
    let other_spec = BridgeSpec::new(name("br1"), owner());
    let other = Bridge::ensure(&net, &other_spec).await.unwrap();
    pair("mine");
    kernel::run("ip", ["link", "add", "theirs", "type", "veth", "peer", "name", "peer"]);
    kernel::run("ip", ["link", "set", "theirs", "alias", "somebody"]);
    kernel::run("ip", ["link", "add", "plain", "type", "veth", "peer", "name", "plain-peer"]);
    other.attach(&net, &name("mine"), &owner(), &PortSettings::default()).await.unwrap();

    let state = || kernel::run("ip", ["-j", "address"]);
    let before = state();
    let vlans =
        PortSettings { vlans: Some(PortVlans::access(VlanId::new(7).unwrap())), ..PortSettings::default() };
    let plain = PortSettings::default();
    for (link, settings, reason) in [
        ("mine", &plain, "it is a port of `br1`, not of `br0`"),
        ("theirs", &plain, "its owner is \"somebody\", not \"docklet-test/port\""),
        ("plain", &plain, "it bears no owner's mark"),
        ("br1", &plain, "it is a bridge, which cannot be a port of one"),
    ] {
        let error = bridge.attach(&net, &name(link), &owner(), settings).await.unwrap_err();
        assert!(matches!(error, Error::Differs { .. }) && error.to_string().contains(reason), "{error}");
    }
    let error = bridge.attach_foreign(&net, &name("plain"), &vlans).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "bridge `br0` exists but differs: it does not filter VLANs, which link `plain` was to be given"
    );
    let error = bridge.attach(&net, &name("absent"), &owner(), &plain).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let bad = PortSettings {
        vlans: Some(PortVlans { pvid: Some(VlanId::new(7).unwrap()), ..PortVlans::default() }),
        ..plain.clone()
    };
    let error = bridge.attach(&net, &name("plain"), &owner(), &bad).await.unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    // A port of another bridge is not this one's to detach.
    bridge.detach(&net, &name("mine")).await.unwrap();
    assert_eq!(state(), before);

    delete(&["mine", "theirs", "plain"]);
    Bridge::remove(&net, &other_spec.name, &other_spec.owner).await.unwrap();
    Bridge::remove(&net, bridge.name(), &spec(&[]).owner).await.unwrap();
}

/// A link that somebody else made becomes a port if that is said, and nothing else of it is changed; one with addresses
/// does not.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn a_foreign_link_is_only_a_port() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let bridge = Bridge::ensure(&net, &spec(&["10.0.0.1/24"])).await.unwrap();
    kernel::run("ip", ["link", "add", "uplink", "type", "veth", "peer", "name", "world"]);
    kernel::run("ip", ["address", "add", "192.0.2.1/24", "dev", "uplink"]);
    let before = kernel::run("ip", ["-j", "address"]);
    let settings = PortSettings::default();
    let error = bridge.attach_foreign(&net, &name("uplink"), &settings).await.unwrap_err();
    assert!(matches!(error, Error::Differs { .. }) && error.to_string().contains("192.0.2.1/24"), "{error}");
    assert_eq!(kernel::run("ip", ["-j", "address"]), before);

    kernel::run("ip", ["address", "delete", "192.0.2.1/24", "dev", "uplink"]);
    let mac = show("uplink")["address"].take();
    assert!(bridge.attach_foreign(&net, &name("uplink"), &settings).await.unwrap());
    assert!(!bridge.attach_foreign(&net, &name("uplink"), &settings).await.unwrap());
    let link = show("uplink");
    assert_eq!((&link["master"], &link["address"]), (&"br0".into(), &mac));
    assert!(link.get("ifalias").is_none() && !is_up(&link), "{link}");
    assert_eq!(bridge.ports(&net).await.unwrap()[0].owner, None);

    bridge.detach(&net, &name("uplink")).await.unwrap();
    assert_eq!(show("uplink").get("master"), None);
    Bridge::remove(&net, bridge.name(), &spec(&[]).owner).await.unwrap();
    delete(&["uplink"]);
}

/// A bridge with a tunnel and a wire is removed and made again at once, as often as one likes: they stay, and are its
/// ports again once they are attached.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn a_bridge_is_made_again_under_its_ports() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let spec = spec(&["10.0.0.1/24", "fd00::1/64"]);
    kernel::run("ip", ["link", "add", "tunnel", "type", "vxlan", "id", "7", "dstport", "4789", "dev", "lo"]);
    kernel::run("ip", ["link", "set", "tunnel", "alias", owner().as_str(), "up"]);
    pair("wire");
    let numbers = ["tunnel", "wire"].map(|link| show(link)["ifindex"].take());
    for _ in 0..5 {
        let bridge = Bridge::ensure(&net, &spec).await.unwrap();
        assert!(bridge.changed());
        for link in ["tunnel", "wire"] {
            assert!(bridge.attach(&net, &name(link), &owner(), &PortSettings::default()).await.unwrap());
            assert_eq!(port(link)[0], "br0");
            assert!(is_up(&show(link)));
        }
        assert_eq!(bridge.ports(&net).await.unwrap().len(), 2);
        Bridge::remove(&net, &spec.name, &spec.owner).await.unwrap();
        assert_eq!(["tunnel", "wire"].map(|link| port(link)[0].take()), [Value::Null, Value::Null]);
        assert_eq!(["tunnel", "wire"].map(|link| show(link)["ifindex"].take()), numbers);
    }
    delete(&["tunnel", "wire"]);
}

/// Two hundred ports are one list; attaching and detaching them leaves nothing.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn two_hundred_ports_are_listed() {
    let sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let bridge = Bridge::ensure(&net, &spec(&[])).await.unwrap();
    let names: Vec<String> = (0..200).map(|number| format!("w{number}")).collect();
    let lines: String = names
        .iter()
        .map(|link| {
            let alias = owner();
            format!(
                "link add {link} group 77 type veth peer name {link}-peer\nlink set {link} alias {alias}\n"
            )
        })
        .collect();
    let batch = sandbox.dir("ip").join("batch");
    std::fs::write(&batch, lines).unwrap();
    kernel::run("ip", [OsStr::new("-batch"), batch.as_os_str()]);
    for link in &names {
        bridge.attach(&net, &name(link), &owner(), &PortSettings::default()).await.unwrap();
    }
    let ports = bridge.ports(&net).await.unwrap();
    assert_eq!(ports.iter().map(|port| &port.name).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    for link in &names {
        bridge.detach(&net, &name(link)).await.unwrap();
    }
    assert_eq!(bridge.ports(&net).await.unwrap(), []);
    Bridge::remove(&net, bridge.name(), &spec(&[]).owner).await.unwrap();
    // All at once: one at a time they take 20 ms each.
    kernel::run("ip", ["link", "delete", "group", "77"]);
}
