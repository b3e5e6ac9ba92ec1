//! Bridges, as `ip` sees them.

use std::thread;

use docklet::Error;
use docklet::name::LinkName;
use docklet::net::{Bridge, BridgeSpec, LinkOwner, MacAddress, Mtu, Netlink};
use serde_json::Value;

use crate::kernel;
use crate::sandbox::Sandbox;

/// A bridge `br0` of an owner of the test's own.
pub(crate) fn spec(addresses: &[&str]) -> BridgeSpec {
    BridgeSpec {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ..BridgeSpec::new(
            LinkName::new("br0").unwrap(),
            LinkOwner::new("docklet-test/bridge").unwrap(),
        )
    }
}

/// `ip -j -d addr show NAME`.
pub(crate) fn show(name: &str) -> Value {
    kernel::json("ip", ["-j", "-d", "addr", "show", name])[0].take()
}

/// The addresses of a link but IPv6's link-local: "10.0.0.1/24".
pub(crate) fn addresses(link: &Value) -> Vec<String> {
    let all = link["addr_info"].as_array().unwrap().iter();
    all.filter(|a| a["scope"] != "link")
        .map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]))
        .collect()
}

pub(crate) fn is_up(link: &Value) -> bool {
    link["flags"].as_array().unwrap().contains(&"UP".into())
}

/// Ensuring twice is one bridge: a restarted worker repeats it.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn ensure_is_repeatable() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let spec = spec(&["10.0.0.1/24", "fd00::1/64"]);

    let bridge = Bridge::ensure(&net, &spec).await.unwrap();
    let first = show("br0");
    assert_eq!(first["linkinfo"]["info_kind"], "bridge");
    assert_eq!(first["linkinfo"]["info_data"]["stp_state"], 0);
    assert_eq!(first["linkinfo"]["info_data"]["forward_delay"], 0);
    assert_eq!(first["ifalias"], "docklet-test/bridge");
    assert_eq!(first["ifindex"], bridge.index());
    assert_eq!(first["mtu"], bridge.mtu_bytes());
    assert_eq!(first["address"], MacAddress::derive(&spec.owner, "br0").to_string().as_str());
    assert_eq!(addresses(&first), ["10.0.0.1/24", "fd00::1/64"]);
    assert_eq!(first["addr_info"][0]["broadcast"], "10.0.0.255");
    assert!(is_up(&first));

    assert!(bridge.changed());
    let again = Bridge::ensure(&net, &spec).await.unwrap();
    assert_eq!((again.index(), again.changed()), (bridge.index(), false));
    assert_eq!(Bridge::open(&net, &spec.name, &spec.owner).await.unwrap(), again);
    assert_eq!(addresses(&show("br0")), ["10.0.0.1/24", "fd00::1/64"]);
    assert_eq!(net.links_owned("docklet-test/").await.unwrap(), [(spec.name.clone(), spec.owner.clone())]);
    assert_eq!(net.links_owned("docklet-test/other").await.unwrap(), []);

    for _ in 0..2 {
        Bridge::remove(&net, &spec.name, &spec.owner).await.unwrap();
        assert!(!kernel::links().contains(&"br0".to_owned()));
    }
    assert!(matches!(Bridge::open(&net, &spec.name, &spec.owner).await, Err(Error::NotFound { .. })));
}

/// A kill between any two messages: no alias yet, no address yet, not up; and drift by other hands.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn what_is_half_made_is_completed_or_removed() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let mut spec = spec(&["10.0.0.1/24", "10.1.0.1/24"]);
    spec.mtu = Some(Mtu::new(1400).unwrap());
    let mac = MacAddress::derive(&spec.owner, "br0").to_string();
    let half = ["link", "add", "br0", "address", &mac, "type", "bridge"];

    kernel::run("ip", half);
    Bridge::ensure(&net, &spec).await.unwrap();
    let whole = show("br0");
    assert_eq!(whole["ifalias"], "docklet-test/bridge");
    assert_eq!(whole["mtu"], 1400);
    assert_eq!(addresses(&whole), ["10.0.0.1/24", "10.1.0.1/24"]);
    assert!(is_up(&whole));

    kernel::run("ip", ["addr", "del", "10.0.0.1/24", "dev", "br0"]);
    kernel::run("ip", ["link", "set", "br0", "down"]);
    Bridge::ensure(&net, &spec).await.unwrap();
    let mut again = addresses(&show("br0"));
    again.sort();
    assert_eq!(again, ["10.0.0.1/24", "10.1.0.1/24"]);
    assert!(is_up(&show("br0")));

    // The MTU is the bridge's own: neither a port nor its going changes it.
    kernel::run("ip", ["link", "add", "p0", "mtu", "1300", "type", "veth", "peer", "name", "p1"]);
    kernel::run("ip", ["link", "set", "p0", "master", "br0"]);
    assert_eq!(show("br0")["mtu"], 1400);
    kernel::run("ip", ["link", "del", "p0"]);
    assert_eq!(show("br0")["mtu"], 1400);
    Bridge::remove(&net, &spec.name, &spec.owner).await.unwrap();

    kernel::run("ip", half);
    Bridge::remove(&net, &spec.name, &spec.owner).await.unwrap();
    assert!(!kernel::links().contains(&"br0".to_owned()));
}

/// Somebody else's link of our name stays as it is to the byte, whatever is asked.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn foreign_links_are_never_touched() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let spec = spec(&["10.0.0.1/24"]);
    let state = || kernel::run("ip", ["-j", "-d", "addr", "show", "br0"]);
    for (make, reason) in [
        (&["type", "bridge"][..], "it bears no owner's mark"),
        (&["type", "veth", "peer", "name", "p1"], "kind is veth, not bridge"),
        (&["alias"], "its owner is \"somebody\""),
    ] {
        let alias = make == ["alias"];
        let kind = if alias { &["type", "bridge"] } else { make };
        kernel::run("ip", [&["link", "add", "br0"], kind].concat());
        if alias {
            kernel::run("ip", ["link", "set", "br0", "alias", "somebody"]);
        }
        let before = state();
        for result in [
            Bridge::ensure(&net, &spec).await.map(drop),
            Bridge::open(&net, &spec.name, &spec.owner).await.map(drop),
            Bridge::remove(&net, &spec.name, &spec.owner).await,
        ] {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Differs { .. }), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
        assert_eq!(state(), before);
        assert_eq!(net.links_owned("docklet-test/").await.unwrap(), []);
        kernel::run("ip", ["link", "del", "br0"]);
    }
}

/// Every difference is told, and none is made less by half a repair.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn another_address_is_a_difference() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    Bridge::ensure(&net, &spec(&["10.0.0.1/24"])).await.unwrap();
    let before = addresses(&show("br0"));
    let error = Bridge::ensure(&net, &spec(&["10.0.1.1/24"])).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "bridge `br0` exists but differs: it has the address 10.0.0.1/24; asked for: 10.0.1.1/24"
    );
    let error = Bridge::ensure(&net, &spec(&["10.0.0.1/16"])).await.unwrap_err();
    assert!(matches!(error, Error::Differs { .. }), "{error}");
    assert_eq!(addresses(&show("br0")), before);
    Bridge::remove(&net, &spec(&[]).name, &spec(&[]).owner).await.unwrap();
}

/// Bad input is refused before anything is made.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn bad_specs_make_nothing() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let before = kernel::links();
    let mut small = spec(&["fd00::1/64"]);
    small.mtu = Some(Mtu::new(1000).unwrap());
    for (bad, rule) in [(small, "at least 1280"), (spec(&["10.0.0.1/24", "10.0.0.1/16"]), "twice")] {
        let error = Bridge::ensure(&net, &bad).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains(rule), "{error}");
    }
    assert_eq!(kernel::links(), before);
}

/// An IPv6 address where IPv6 is switched off is told with the remedy.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn ipv6_switched_off_is_unsupported() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    let error = Bridge::ensure(&net, &spec(&["fd00::1/64"])).await.unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    assert!(error.to_string().contains("disable_ipv6=0"), "{error}");
    Bridge::remove(&net, &spec(&[]).name, &spec(&[]).owner).await.unwrap();
}

/// Sixteen threads, each with a connection of its own, end with one bridge; while others remove it, nobody fails.
#[test]
#[ignore = "needs root: network namespace"]
fn sixteen_at_once_make_one_bridge() {
    let _sandbox = Sandbox::new();
    let spec = spec(&["10.0.0.1/24", "fd00::1/64"]);
    let each = |number: usize, removing: bool| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let net = Netlink::connect().await.unwrap();
            if removing && number.is_multiple_of(4) {
                Bridge::remove(&net, &spec.name, &spec.owner).await.unwrap();
            } else {
                Bridge::ensure(&net, &spec).await.unwrap();
            }
        });
    };
    for removing in [true, false] {
        thread::scope(|scope| {
            for number in 0..16 {
                scope.spawn(move || each(number, removing));
            }
        });
    }
    assert_eq!(addresses(&show("br0")), ["10.0.0.1/24", "fd00::1/64"]);
    assert_eq!(show("br0")["ifalias"], "docklet-test/bridge");
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let net = Netlink::connect().await.unwrap();
        Bridge::remove(&net, &spec.name, &spec.owner).await.unwrap();
    });
}
