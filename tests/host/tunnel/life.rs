//! Repeating, crashes, drift, and several at once.

use std::thread;

use docklet::Error;
use docklet::net::{Mtu, Netlink, Tunnel};

use super::changes::Watch;
use super::fixture::{Underlay, link, owner};
use super::traffic::mesh;
use crate::netns::inside;
use crate::sandbox::Sandbox;

/// Ensuring again tells the kernel nothing.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn ensure_is_repeatable() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 2).await;
    let host = &underlay.hosts[0];
    let spec = host.spec(&mesh(&[1, 2]));
    assert!(host.raise(&spec).await.changed());
    host.raise(&spec).await;
    let arm = host.arms().await.remove(0);
    let (before, watch) = (host.state(), Watch::new(host, &arm));
    let again = Tunnel::ensure(&host.net, &spec).await.unwrap();
    assert!(!again.changed());
    assert_eq!(again, Tunnel::open(&host.net, &spec.owner).await.unwrap());
    assert_eq!(Tunnel::list(&host.net, "docklet-test/").await.unwrap(), [again]);
    assert_eq!(Tunnel::list(&host.net, "docklet-test/x").await.unwrap(), []);
    assert_eq!(watch.changes(), Vec::<String>::new());
    assert_eq!(host.state(), before);
    // What the host lists by its marks has it, too.
    let marked = host.net.links_owned("docklet-test/tenant").await.unwrap();
    assert_eq!(marked, [(link(&arm), spec.owner.clone())]);
    Tunnel::remove(&host.net, &spec.owner).await.unwrap();
    assert!(matches!(Tunnel::open(&host.net, &spec.owner).await, Err(Error::NotFound { .. })));
    underlay.end().await;
}

/// Down, another MTU, a peer lost, one too many, isolated; and a bridge that was removed and made anew works at once.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn drift_is_put_right() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 3).await;
    underlay.raise(&mesh(&[1, 2, 3])).await;
    let [host, other, _] = &underlay.hosts[..] else { panic!("three hosts") };
    let spec = host.spec(&mesh(&[1, 2, 3]));
    let arm = host.arms().await.remove(0);
    let whole = host.state();
    let nobody = "00:00:00:00:00:00";
    for broken in [
        &["ip", "link", "set", &arm, "down"][..],
        &["ip", "link", "set", &arm, "mtu", "1400"],
        &["ip", "link", "set", &arm, "nomaster"],
        &["ip", "link", "set", &arm, "type", "bridge_slave", "isolated", "on"],
        &["bridge", "fdb", "del", nobody, "dev", &arm, "dst", "192.0.2.2", "self"],
        &["bridge", "fdb", "append", nobody, "dev", &arm, "dst", "192.0.2.99", "self"],
        &["bridge", "fdb", "append", nobody, "dev", &arm, "dst", "192.0.2.2", "port", "99", "self"],
    ] {
        host.run(broken);
        assert_ne!(host.state(), whole, "{broken:?}");
        assert!(Tunnel::ensure(&host.net, &spec).await.unwrap().changed(), "{broken:?}");
        assert_eq!(host.state(), whole, "{broken:?}");
        assert!(!Tunnel::ensure(&host.net, &spec).await.unwrap().changed(), "{broken:?}");
    }
    host.reach(other);
    let index = host.show(&arm)["ifindex"].clone();
    host.remove_bridge().await;
    host.raise(&spec).await;
    assert_eq!(host.show(&arm)["ifindex"], index, "the same link in the new bridge");
    host.reach(other);
    // An alias that somebody took away leaves the other mark.
    host.run(&["ip", "link", "set", &arm, "alias", ""]);
    Tunnel::ensure(&host.net, &spec).await.unwrap();
    assert_eq!(host.show(&arm)["ifalias"], "docklet-test/tenant");
    underlay.end().await;
}

/// Killed right after the first message: there is a link without an alias, down, without peers.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn what_is_half_made_is_completed_or_removed() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 2).await;
    let host = &underlay.hosts[0];
    let spec = host.spec(&mesh(&[1, 2]));
    host.raise(&spec).await;
    let arm = host.arms().await.remove(0);
    let hardware = host.show(&arm)["address"].as_str().unwrap().to_owned();
    let make = || {
        host.run(&["ip", "link", "del", &arm]);
        let half = ["ip", "link", "add", &arm, "address", &hardware, "type", "vxlan"];
        host.run(&[&half[..], &["id", "5", "local", "192.0.2.1", "dstport", "4789"]].concat());
    };
    make();
    let index = host.show(&arm)["ifindex"].clone();
    Tunnel::ensure(&host.net, &spec).await.unwrap();
    let shown = host.show(&arm);
    assert_eq!((&shown["ifindex"], &shown["master"]), (&index, &"br0".into()));
    assert_eq!((&shown["ifalias"], &shown["mtu"]), (&"docklet-test/tenant".into(), &1450.into()));
    assert_eq!(host.flooded(&arm), ["192.0.2.2".to_owned()].into());
    make();
    Tunnel::remove(&host.net, &spec.owner).await.unwrap();
    assert!(!host.run(&["ip", "link"]).contains(&arm));
    underlay.end().await;
}

/// Sixteen threads, each with a connection of its own, end with one link; while others remove it, nobody fails.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn sixteen_at_once_make_one_tunnel() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 1).await;
    let host = &underlay.hosts[0];
    let spec = host.spec(&mesh(&[1, 2, 3]));
    host.bridge(Mtu::new(1450).unwrap()).await;
    for removing in [true, false] {
        thread::scope(|scope| {
            for number in 0..16_usize {
                let spec = &spec;
                scope.spawn(move || {
                    inside(&host.pin, || {
                        let runtime =
                            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                        runtime.block_on(async {
                            let net = Netlink::connect().await.unwrap();
                            if removing && number.is_multiple_of(4) {
                                Tunnel::remove(&net, &spec.owner).await.unwrap();
                            } else {
                                Tunnel::ensure(&net, spec).await.unwrap();
                            }
                        });
                    });
                });
            }
        });
    }
    let arms = host.arms().await;
    assert_eq!(arms.len(), 1);
    assert_eq!(host.flooded(&arms[0]).len(), 2);
    // Its futures can go to other threads.
    let (net, again) = (host.net.clone(), spec.clone());
    assert!(
        !tokio::spawn(async move { Tunnel::ensure(&net, &again).await }).await.unwrap().unwrap().changed()
    );
    underlay.end().await;
}

/// Of two owners who want one bridge at the same moment at most one gets it, and the other is told.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn two_at_once_do_not_share_a_bridge() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 1).await;
    let host = &underlay.hosts[0];
    host.bridge(Mtu::new(1450).unwrap()).await;
    for round in 0..5 {
        let made = thread::scope(|scope| {
            let workers: Vec<_> = (0..2_u32)
                .map(|number| {
                    scope.spawn(move || {
                        let mut spec = host.spec(&mesh(&[1, 2]));
                        spec.owner = owner(&format!("tenant/{number}"));
                        spec.topology = serde_json::from_value(serde_json::json!(
                            {"vxlan_mesh": {"vni": 5 + number, "hosts": ["192.0.2.1", "192.0.2.2"]}}
                        ))
                        .unwrap();
                        inside(&host.pin, || {
                            let runtime =
                                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                            runtime.block_on(async {
                                let net = Netlink::connect().await.unwrap();
                                Tunnel::ensure(&net, &spec).await
                            })
                        })
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
        });
        let ports = host.run(&["ip", "-o", "link", "show", "type", "vxlan"]).lines().count();
        let good = made.iter().filter(|result| result.is_ok()).count();
        assert_eq!(ports, good, "round {round}: {made:?}");
        assert!(good <= 1, "round {round}: {made:?}");
        for error in made.into_iter().filter_map(Result::err) {
            assert!(matches!(error, Error::Differs { .. }), "round {round}: {error}");
        }
        for number in 0..2 {
            Tunnel::remove(&host.net, &owner(&format!("tenant/{number}"))).await.unwrap();
        }
    }
    underlay.end().await;
}
