//! Bridges, as `ip` sees them.

use std::process::Command;
use std::thread;

use docklet::Error;
use docklet::name::LinkName;
use docklet::net::{Bridge, BridgeSpec, LinkOwner, MacAddress, Mtu, Netlink, VlanFiltering};
use serde_json::Value;

use crate::kernel;
use crate::sandbox::Sandbox;

/// A bridge `br0` of an owner of the test's own.
pub(crate) fn spec(addresses: &[&str]) -> BridgeSpec {
    BridgeSpec {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ..BridgeSpec::new(LinkName::new("br0").unwrap(), LinkOwner::new("docklet-test/bridge").unwrap())
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

    // One that a script has made is nobody's, until the script says whose it is.
    Bridge::remove(&net, &spec.name, &spec.owner).await.unwrap();
    kernel::run("ip", ["link", "add", "br0", "type", "bridge"]);
    Bridge::ensure(&net, &spec).await.unwrap_err();
    kernel::run("ip", ["link", "set", "br0", "alias", spec.owner.as_str()]);
    Bridge::ensure(&net, &spec).await.unwrap();
    assert_eq!(show("br0")["address"], mac);
    assert_eq!(addresses(&show("br0")), ["10.0.0.1/24", "10.1.0.1/24"]);

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

/// What the bridge does is as asked, and again so after other hands were at it; the addresses, the MTU and the rest, too.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn what_has_drifted_is_put_right() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let plain = BridgeSpec { mtu: Some(Mtu::new(1400).unwrap()), ..spec(&["10.0.0.1/24", "fd00::1/64"]) };
    let ring = BridgeSpec { stp: true, ageing_seconds: Some(7), ..plain.clone() };
    let told = || {
        let mut link = show("br0");
        let data = link["linkinfo"]["info_data"].take();
        ["stp_state", "forward_delay", "ageing_time"].map(|name| data[name].as_u64().unwrap())
    };

    Bridge::ensure(&net, &ring).await.unwrap();
    assert_eq!(told(), [1, 1500, 700]);
    assert!(!Bridge::ensure(&net, &ring).await.unwrap().changed());

    // Other hands, one thing at a time: each is seen, and nothing else is done.
    let mac = MacAddress::derive(&ring.owner, "br0").to_string();
    for drift in [
        &["link", "set", "br0", "type", "bridge", "stp_state", "0"][..],
        &["link", "set", "br0", "type", "bridge", "ageing_time", "30000"],
        &["link", "set", "br0", "mtu", "1300"],
        &["link", "set", "br0", "address", "02:00:00:00:00:01"],
        &["link", "set", "br0", "down"],
        &["address", "delete", "10.0.0.1/24", "dev", "br0"],
        &["address", "delete", "fd00::1/64", "dev", "br0"],
        &["link", "set", "br0", "alias", ""],
    ] {
        kernel::run("ip", drift);
        assert!(Bridge::ensure(&net, &ring).await.unwrap().changed(), "{drift:?}");
        let link = show("br0");
        assert_eq!(told(), [1, 1500, 700], "{drift:?}");
        assert_eq!((&link["mtu"], &link["address"]), (&1400.into(), &mac.as_str().into()), "{drift:?}");
        assert_eq!(link["ifalias"], ring.owner.as_str());
        assert!(is_up(&link));
        assert_eq!(addresses(&link), ["10.0.0.1/24", "fd00::1/64"], "{drift:?}");
        assert!(!Bridge::ensure(&net, &ring).await.unwrap().changed(), "{drift:?}");
    }

    // Without the protocol again: what was not asked for stays as it is.
    assert!(Bridge::ensure(&net, &plain).await.unwrap().changed());
    assert_eq!(told(), [0, 0, 700]);
    kernel::run("ip", ["link", "set", "br0", "type", "bridge", "forward_delay", "200"]);
    assert!(Bridge::ensure(&net, &plain).await.unwrap().changed());
    assert_eq!(told(), [0, 0, 700]);
    assert!(!Bridge::ensure(&net, &plain).await.unwrap().changed());

    // Addresses that the kernel makes of an advertisement are nobody's wish: who sends one does not break the bridge.
    let lifetimes = ["valid_lft", "1000", "preferred_lft", "1000"];
    kernel::run("ip", [&["address", "add", "fd00:2::5/64", "dev", "br0"][..], &lifetimes].concat());
    assert!(!Bridge::ensure(&net, &plain).await.unwrap().changed());
    Bridge::remove(&net, &plain.name, &plain.owner).await.unwrap();
}

/// Where the kernel filters VLANs it does so, elsewhere nothing is made; and only who asks is refused.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn vlan_filtering_is_made_or_unsupported() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let plain = spec(&["10.0.0.1/24"]);
    let filtering = BridgeSpec { vlan_filtering: Some(VlanFiltering::default()), ..plain.clone() };
    let able = Command::new("ip")
        .args(["link", "add", "probe", "type", "bridge", "vlan_filtering", "1"])
        .output()
        .unwrap()
        .status
        .success();
    if able {
        kernel::run("ip", ["link", "delete", "probe"]);
        Bridge::ensure(&net, &filtering).await.unwrap();
        assert_eq!(show("br0")["linkinfo"]["info_data"]["vlan_filtering"], 1);
    } else {
        let before = kernel::run("ip", ["-j", "address"]);
        let refused = |result: docklet::Result<Bridge>| {
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
            assert_eq!(
                error.to_string(),
                "VLAN filtering on bridge `br0` is not possible here: it takes a kernel with \
                 CONFIG_BRIDGE_VLAN_FILTERING; leave `vlan_filtering` out to have a bridge without"
            );
        };
        refused(Bridge::ensure(&net, &filtering).await);
        assert_eq!(kernel::run("ip", ["-j", "address"]), before);
        // One that is there, and lacks more than this, is left as it is.
        Bridge::ensure(&net, &plain).await.unwrap();
        kernel::run("ip", ["link", "set", "br0", "down"]);
        let before = kernel::run("ip", ["-j", "address"]);
        refused(Bridge::ensure(&net, &filtering).await);
        assert_eq!(kernel::run("ip", ["-j", "address"]), before);
    }
    Bridge::remove(&net, &plain.name, &plain.owner).await.unwrap();
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
        "bridge `br0` exists but differs: it has the address 10.0.0.1/24; asked for: 10.0.1.1/24; take it \
         away by hand, or remove the bridge"
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
    let forgetful = BridgeSpec { ageing_seconds: Some(1_000_001), ..spec(&[]) };
    for (bad, rule) in [
        (small, "at least 1280"),
        (spec(&["10.0.0.1/24", "10.0.0.1/16"]), "twice"),
        (forgetful, "at most 1000000 seconds"),
    ] {
        let error = Bridge::ensure(&net, &bad).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains(rule), "{error}");
    }
    // A name is checked before it can be in a specification, read from a file or not.
    let error = LinkName::new("sixteen-bytes-xx").unwrap_err();
    assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains("1 to 15"), "{error}");
    let mut read = serde_json::to_value(spec(&[])).unwrap();
    read["name"] = "sixteen-bytes-xx".into();
    serde_json::from_value::<BridgeSpec>(read.clone()).unwrap_err();
    read["name"] = "br0".into();
    read["priority"] = 1.into();
    serde_json::from_value::<BridgeSpec>(read).unwrap_err();
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

/// Sixteen tasks on one connection end with one bridge, which one of them has made or more have completed.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn sixteen_tasks_make_one_bridge() {
    let _sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let spec = spec(&["10.0.0.1/24", "fd00::1/64"]);
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let (net, spec) = (net.clone(), spec.clone());
            tokio::spawn(async move { Bridge::ensure(&net, &spec).await })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap().unwrap().index());
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 1);
    assert_eq!(show("br0")["ifindex"], numbers[0]);
    assert_eq!(addresses(&show("br0")), ["10.0.0.1/24", "fd00::1/64"]);
    Bridge::remove(&net, &spec.name, &spec.owner).await.unwrap();
}

/// Eight processes at once end with one bridge.
#[test]
#[ignore = "needs root: network namespace"]
fn eight_processes_make_one_bridge() {
    let _sandbox = Sandbox::new();
    let others: Vec<_> = (0..8)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "bridge::one_of_eight_processes", "--include-ignored", "--quiet"])
                .env(ONE_OF_EIGHT, "1")
                .spawn()
                .unwrap()
        })
        .collect();
    for mut other in others {
        assert!(other.wait().unwrap().success());
    }
    let spec = spec(&["10.0.0.1/24", "fd00::1/64"]);
    assert_eq!(addresses(&show("br0")), ["10.0.0.1/24", "fd00::1/64"]);
    assert_eq!(show("br0")["ifalias"], spec.owner.as_str());
    kernel::run("ip", ["link", "delete", "br0"]);
}

/// Set in the processes of the test above, which are in its network namespace.
const ONE_OF_EIGHT: &str = "DOCKLET_TEST_ONE_OF_EIGHT";

/// What each process of the test above does; alone, it does it in a namespace of its own.
#[tokio::test]
#[ignore = "needs root: network namespace"]
async fn one_of_eight_processes() {
    let sandbox = std::env::var_os(ONE_OF_EIGHT).is_none().then(Sandbox::new);
    let net = Netlink::connect().await.unwrap();
    let spec = spec(&["10.0.0.1/24", "fd00::1/64"]);
    let mut numbers = Vec::new();
    for _ in 0..20 {
        numbers.push(Bridge::ensure(&net, &spec).await.unwrap().index());
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 1);
    assert_eq!(show("br0")["ifindex"], numbers[0]);
    if sandbox.is_some() {
        Bridge::remove(&net, &spec.name, &spec.owner).await.unwrap();
    }
}
