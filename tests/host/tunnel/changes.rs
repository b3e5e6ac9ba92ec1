//! Hosts that come and go while others talk.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use docklet::net::Tunnel;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourFlags};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::fixture::{Host, Underlay, broadcast, owner, socket};
use super::traffic::mesh;
use crate::netns::inside;
use crate::sandbox::Sandbox;

/// `RTMGRP_LINK` and `RTMGRP_NEIGH`.
const GROUPS: u32 = 1 | 4;

/// Listens to what the kernel announces of one link.
pub(super) struct Watch {
    socket: Socket,
    index: u32,
}

impl Watch {
    pub(super) fn new(host: &Host, name: &str) -> Self {
        let index = u32::try_from(host.show(name)["ifindex"].as_u64().unwrap()).unwrap();
        let socket = inside(&host.pin, || {
            let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
            socket.bind(&SocketAddr::new(0, GROUPS)).unwrap();
            socket.set_non_blocking(true).unwrap();
            socket
        });
        Self { socket, index }
    }

    /// The changes since the last call: of the link itself, and of whom it floods to.
    pub(super) fn changes(&self) -> Vec<String> {
        let mut found = Vec::new();
        while let Ok((bytes, _)) = self.socket.recv_from_full() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes).unwrap();
            let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
            match message {
                RouteNetlinkMessage::NewLink(link) if link.header.index == self.index => {
                    found.push("link changed".to_owned());
                }
                RouteNetlinkMessage::DelLink(link) if link.header.index == self.index => {
                    found.push("link gone".to_owned());
                }
                RouteNetlinkMessage::NewNeighbour(entry) | RouteNetlinkMessage::DelNeighbour(entry)
                    if entry.header.ifindex == self.index
                        && entry.header.flags.contains(NeighbourFlags::Own)
                        && entry.attributes.contains(&NeighbourAttribute::LinkLayerAddress(vec![0; 6])) =>
                {
                    let mut attributes = entry.attributes.iter();
                    let host = attributes.find(|a| matches!(a, NeighbourAttribute::Destination(_)));
                    // Older kernels (6.1) announce each once more, without a host.
                    found.extend(host.map(|host| format!("{host:?}")));
                }
                _ => {}
            }
        }
        found
    }
}

/// While a third host comes and goes the other two lose no packet, and the kernel announces nothing but that host.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn other_peers_are_not_touched() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 3).await;
    let [one, two, three] = &underlay.hosts[..] else { panic!("three hosts") };
    for host in [one, two] {
        host.raise(&host.spec(&mesh(&[1, 2]))).await;
    }
    one.reach(two);
    let arm = one.arms().await.remove(0);
    let index = one.show(&arm)["ifindex"].clone();
    let watch = Watch::new(one, &arm);

    let receiver = socket(&two.container, 7001);
    let sender = socket(&one.container, 0);
    receiver.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let done = AtomicBool::new(false);
    let (sent, heard) = thread::scope(|scope| {
        // All the time: a socket keeps some 270 of them.
        let hearing = scope.spawn(|| {
            let mut heard = 0_usize;
            loop {
                match receiver.recv(&mut [0; 1]) {
                    Ok(bytes) => heard += bytes,
                    Err(_) if done.load(Ordering::Relaxed) => break heard,
                    Err(_) => {}
                }
            }
        });
        let talking = scope.spawn(|| {
            let mut sent = 0_usize;
            while !done.load(Ordering::Relaxed) {
                sent += sender.send_to(b"x", "10.0.0.2:7001").unwrap();
                thread::sleep(Duration::from_millis(2));
            }
            sent
        });
        // A runtime of its own: this thread waits for the other.
        let changing = scope.spawn(|| {
            inside(&one.pin, || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let net = docklet::net::Netlink::connect().await.unwrap();
                    for hosts in [&[1, 2, 3][..], &[1, 2], &[1, 2, 3]] {
                        let tunnel = Tunnel::ensure(&net, &one.spec(&mesh(hosts))).await.unwrap();
                        assert!(tunnel.changed());
                    }
                });
            });
        });
        changing.join().unwrap();
        done.store(true, Ordering::Relaxed);
        (talking.join().unwrap(), hearing.join().unwrap())
    });
    assert_eq!(heard, sent);
    let changes = watch.changes();
    assert_eq!(changes.len(), 3, "{changes:?}");
    assert!(changes.iter().all(|change| change.contains("[192, 0, 2, 3]")), "{changes:?}");
    assert_eq!(one.show(&arm)["ifindex"], index);

    three.raise(&three.spec(&mesh(&[1, 2, 3]))).await;
    Tunnel::ensure(&two.net, &two.spec(&mesh(&[1, 2, 3]))).await.unwrap();
    three.reach(one);
    three.reach(two);
    assert_eq!(one.flooded(&arm).len(), 2);
    underlay.end().await;
}

/// A host that was taken out hears nothing any more, neither broadcasts nor what was known to be behind it.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn a_removed_peer_gets_nothing_and_the_others_everything() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 3).await;
    underlay.raise(&mesh(&[1, 2, 3])).await;
    let [one, two, three] = &underlay.hosts[..] else { panic!("three hosts") };
    let arm = one.arms().await.remove(0);
    let learned = |host: &Host| {
        let entries = host.fdb(&arm);
        entries.iter().filter(|e| e["dst"] == "192.0.2.3" && e["mac"] != "00:00:00:00:00:00").count()
    };
    assert!(learned(one) > 0, "the ping has taught it: {:?}", one.fdb(&arm));

    // The host that leaves lets go first, as it would when its part is removed.
    Tunnel::remove(&three.net, &owner("tenant")).await.unwrap();
    for host in [one, two] {
        Tunnel::ensure(&host.net, &host.spec(&mesh(&[1, 2]))).await.unwrap();
    }
    assert_eq!(learned(one), 0, "{:?}", one.fdb(&arm));
    assert_eq!(one.flooded(&arm), ["192.0.2.2".to_owned()].into());
    assert_eq!(broadcast(one, &[two, three]), [(0..10).collect::<Vec<u8>>(), Vec::new()]);
    assert!(one.ping(two, 1450));
    assert!(!one.ping(three, 84));

    // And it can come back.
    for host in &underlay.hosts {
        Tunnel::ensure(&host.net, &host.spec(&mesh(&[1, 2, 3]))).await.unwrap();
    }
    one.reach(three);
    underlay.end().await;
}

/// A spoke that comes gets an arm at the hub, one that goes takes its own along, and no other is made anew.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn spokes_come_and_go() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 3).await;
    let star = |spokes: serde_json::Value| {
        serde_json::from_value(serde_json::json!({"vxlan_star": {"hub": "192.0.2.1", "spokes": spokes}}))
            .unwrap()
    };
    let both = star(serde_json::json!({"192.0.2.2": 7, "192.0.2.3": 8}));
    underlay.raise(&both).await;
    let [hub, two, three] = &underlay.hosts[..] else { panic!("three hosts") };
    let arms = |host: &Host| -> Vec<String> {
        let text = host.run(&["ip", "-j", "-d", "link", "show", "type", "vxlan"]);
        let links: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        links.iter().map(|l| format!("{} {}", l["ifindex"], l["linkinfo"]["info_data"]["id"])).collect()
    };
    let before = arms(hub);
    assert_eq!(before.len(), 2);
    let one = star(serde_json::json!({"192.0.2.2": 7}));
    Tunnel::ensure(&hub.net, &hub.spec(&one)).await.unwrap();
    let kept: Vec<_> = before.iter().filter(|arm| arm.ends_with(" 7")).cloned().collect();
    assert_eq!(arms(hub), kept);
    assert!(hub.ping(two, 1450) && !hub.ping(three, 84));
    Tunnel::ensure(&hub.net, &hub.spec(&both)).await.unwrap();
    assert_eq!(arms(hub).len(), 2);
    assert!(arms(hub).contains(&kept[0]));
    two.reach(three);
    underlay.end().await;
}
