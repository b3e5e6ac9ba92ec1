//! VLANs of bridges and their ports, as `bridge vlan` sees them and as frames meet them. Build machines' kernels may lack
//! this: it runs in the VM tier.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::path::Path;
use std::thread;
use std::time::Duration;

use docklet::name::LinkName;
use docklet::net::{
    Bridge, BridgeSpec, LinkOwner, Netlink, NetworkNamespace, PortSettings, PortVlans, Veth, VethSpec,
    VlanFiltering, VlanId,
};

use crate::bridge::{show, spec};
use crate::kernel;
use crate::netns::inside;
use crate::sandbox::Sandbox;

fn vlan(number: u16) -> VlanId {
    VlanId::new(number).unwrap()
}

fn filtering(default_pvid: Option<u16>) -> BridgeSpec {
    BridgeSpec {
        vlan_filtering: Some(VlanFiltering { default_pvid: default_pvid.map(vlan) }),
        ..spec(&["10.0.0.1/24"])
    }
}

/// The VLANs of a link: "1 PVID Egress Untagged", "10".
fn vlans(link: &str) -> Vec<String> {
    let all = kernel::json("bridge", ["-j", "vlan", "show", "dev", link]);
    let mut found = Vec::new();
    for entry in all[0]["vlans"].as_array().map(Vec::as_slice).unwrap_or_default() {
        let first = entry["vlan"].as_u64().unwrap();
        let flags: Vec<_> = entry["flags"].as_array().map(Vec::as_slice).unwrap_or_default().to_vec();
        for number in first..=entry["vlanEnd"].as_u64().unwrap_or(first) {
            let words = flags.iter().map(|flag| format!(" {}", flag.as_str().unwrap())).collect::<String>();
            found.push(format!("{number}{words}"));
        }
    }
    found
}

/// Filtering and its default are made, put right, and taken away again.
#[tokio::test]
#[ignore = "needs root and VLAN filtering: network namespace"]
async fn filtering_is_made_and_put_right() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let told = || {
        let mut link = show("br0");
        let data = link["linkinfo"]["info_data"].take();
        ["vlan_filtering", "vlan_default_pvid"].map(|name| data[name].as_u64().unwrap())
    };
    for (asked, expected) in [(Some(1), [1, 1]), (Some(20), [1, 20]), (None, [1, 0])] {
        let spec = filtering(asked);
        assert!(Bridge::ensure(&net, &spec).await.unwrap().changed());
        assert!(!Bridge::ensure(&net, &spec).await.unwrap().changed());
        assert_eq!(told(), expected);
        kernel::run("ip", ["link", "set", "br0", "type", "bridge", "vlan_filtering", "0"]);
        assert!(Bridge::ensure(&net, &spec).await.unwrap().changed());
        assert_eq!(told(), expected);
    }
    let plain = BridgeSpec { vlan_filtering: None, ..filtering(None) };
    assert!(Bridge::ensure(&net, &plain).await.unwrap().changed());
    assert_eq!(told(), [0, 0]);
    Bridge::remove(&net, &plain.name, &plain.owner).await.unwrap();
}

/// A port is in the VLANs that were asked for and in no others, new or not.
#[tokio::test]
#[ignore = "needs root and VLAN filtering: network namespace"]
async fn ports_are_in_their_vlans_only() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let bridge = Bridge::ensure(&net, &filtering(Some(1))).await.unwrap();
    let (name, owner) = (LinkName::new("p0").unwrap(), LinkOwner::new("docklet-test/port").unwrap());
    kernel::run("ip", ["link", "add", "p0", "type", "veth", "peer", "name", "p1"]);
    kernel::run("ip", ["link", "set", "p0", "alias", owner.as_str()]);
    let settings = |vlans| PortSettings { vlans, ..PortSettings::default() };

    bridge.attach(&net, &name, &owner, &settings(None)).await.unwrap();
    assert_eq!(vlans("p0"), ["1 PVID Egress Untagged"]);
    let trunk = PortVlans { pvid: Some(vlan(1)), ..PortVlans::trunk([1, 10, 11, 12, 4094].map(vlan)) };
    let wide = PortVlans::trunk((1..=4094).map(vlan));
    for (asked, expected) in [
        (PortVlans::access(vlan(10)), vec!["10 PVID Egress Untagged"]),
        (trunk, vec!["1 PVID", "10", "11", "12", "4094"]),
        (PortVlans::access(vlan(11)), vec!["11 PVID Egress Untagged"]),
        (PortVlans::default(), vec![]),
        (PortVlans::trunk([7].map(vlan)), vec!["7"]),
    ] {
        let asked = settings(Some(asked));
        assert!(bridge.attach(&net, &name, &owner, &asked).await.unwrap());
        assert_eq!(vlans("p0"), expected);
        assert!(!bridge.attach(&net, &name, &owner, &asked).await.unwrap());
        assert_eq!(bridge.ports(&net).await.unwrap()[0].settings, asked);
        assert!(!bridge.attach(&net, &name, &owner, &settings(None)).await.unwrap(), "left as they are");
    }
    // Other hands add one and take one.
    kernel::run("bridge", ["vlan", "add", "dev", "p0", "vid", "8"]);
    kernel::run("bridge", ["vlan", "delete", "dev", "p0", "vid", "7"]);
    let asked = settings(Some(PortVlans::trunk([vlan(7)])));
    assert!(bridge.attach(&net, &name, &owner, &asked).await.unwrap());
    assert_eq!(vlans("p0"), ["7"]);

    // A new port is not left in the default one; and all there are fit into one message.
    bridge.detach(&net, &name).await.unwrap();
    assert!(bridge.attach(&net, &name, &owner, &settings(Some(wide.clone()))).await.unwrap());
    assert_eq!(vlans("p0").len(), 4094);
    assert!(!bridge.attach(&net, &name, &owner, &settings(Some(wide))).await.unwrap());
    bridge.detach(&net, &name).await.unwrap();
    assert!(bridge.attach(&net, &name, &owner, &asked).await.unwrap());
    assert_eq!(vlans("p0"), ["7"]);
    Bridge::remove(&net, bridge.name(), &spec(&[]).owner).await.unwrap();
    kernel::run("ip", ["link", "delete", "p0"]);
}

/// Sends from one place to an address, and says whether it came.
fn arrives(from: &Path, to: &Path, address: &str) -> bool {
    let receiver = inside(to, || UdpSocket::bind((address, 4000)).unwrap());
    receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let sender = inside(from, || UdpSocket::bind("0.0.0.0:0").unwrap());
    // Addresses are looked up first, which a busy guest takes its time for.
    for _ in 0..10 {
        sender.send_to(b"here", (address, 4000)).ok();
        match receiver.recv(&mut [0; 4]) {
            Ok(_) => return true,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Frames stay in their VLAN: two of three containers hear each other.
#[tokio::test]
#[ignore = "needs root and VLAN filtering: network namespaces"]
async fn frames_stay_in_their_vlan() {
    let sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let bridge = Bridge::ensure(&net, &filtering(None)).await.unwrap();
    let pins = [1, 2, 3].map(|number| sandbox.dir("netns").join(number.to_string()));
    for (number, pin) in (1_u16..).zip(&pins) {
        let veth = VethSpec {
            addresses: vec![format!("10.0.0.{}/24", number + 1).parse().unwrap()],
            ..VethSpec::new(
                LinkName::new(format!("w{number}")).unwrap(),
                LinkOwner::new(format!("docklet-test/{number}")).unwrap(),
                bridge.name().clone(),
                LinkName::new("eth0").unwrap(),
            )
        };
        Veth::ensure(&net, &NetworkNamespace::ensure(pin).unwrap(), &veth).await.unwrap();
        let vlans = PortVlans::access(vlan(if number == 3 { 20 } else { 10 }));
        let settings = PortSettings { vlans: Some(vlans), ..PortSettings::default() };
        bridge.attach(&net, &veth.name, &veth.owner, &settings).await.unwrap();
    }
    assert!(arrives(&pins[0], &pins[1], "10.0.0.3"));
    assert!(arrives(&pins[1], &pins[0], "10.0.0.2"));
    assert!(!arrives(&pins[0], &pins[2], "10.0.0.4"));
    for (number, pin) in (1..).zip(&pins) {
        NetworkNamespace::remove(pin).unwrap();
        let wire = LinkName::new(format!("w{number}")).unwrap();
        net.wait_gone(&wire, Duration::from_secs(10)).await.unwrap();
    }
    Bridge::remove(&net, bridge.name(), &spec(&[]).owner).await.unwrap();
}
