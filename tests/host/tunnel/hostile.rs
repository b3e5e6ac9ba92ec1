//! What the underlay can do to a tunnel. These are the kernel's ways, stated so that nobody relies on others.

use std::net::UdpSocket;

use super::fixture::{Underlay, received, socket};
use super::traffic::mesh;
use crate::netns::inside;
use crate::sandbox::Sandbox;

/// A datagram to 10.0.0.255:7000 from 10.0.0.66, as a frame, in VXLAN 5.
fn forged() -> Vec<u8> {
    let mut packet = vec![0x08, 0, 0, 0, 0, 0, 5, 0];
    packet.extend([0xff; 6]);
    packet.extend([0x02, 0, 0, 0, 0, 0x66]);
    packet.extend([0x08, 0x00]);
    let mut header = [0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 66, 10, 0, 0, 255];
    let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(header);
    // From port 7 to 7000, without a checksum.
    packet.extend([0, 7, 0x1b, 0x58, 0, 9, 0, 0]);
    packet.push(42);
    packet
}

/// Whoever can send to the UDP port writes into the network, be it a peer or not: the kernel does not look at the sender.
/// A rule that lets only the peers in is the host's.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn vxlan_takes_frames_from_anybody() {
    let sandbox = Sandbox::new();
    let underlay = Underlay::new(&sandbox, 3).await;
    let [one, two, stranger] = &underlay.hosts[..] else { panic!("three hosts") };
    for host in [one, two] {
        host.raise(&host.spec(&mesh(&[1, 2]))).await;
    }
    one.reach(two);
    let victim = socket(&one.container, 7000);
    let send = || {
        inside(&stranger.pin, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(&forged(), "192.0.2.1:4789").unwrap();
        });
    };
    send();
    assert_eq!(received(&victim), [42]);
    // What the kernel learned of it goes with the next look, and the network is as it was.
    let arm = one.arms().await.remove(0);
    let learned = || one.fdb(&arm).iter().any(|entry| entry["dst"] == "192.0.2.3");
    assert!(learned());
    docklet::net::Tunnel::ensure(&one.net, &one.spec(&mesh(&[1, 2]))).await.unwrap();
    assert!(!learned());
    // With a rule for the peers it is not heard.
    one.run(&["nft", "add", "table", "inet", "guard"]);
    one.run(&["nft", "add", "chain", "inet", "guard", "in", "{ type filter hook input priority 0; }"]);
    one.run(&["nft", "add", "rule", "inet", "guard", "in", "udp dport 4789 ip saddr != 192.0.2.2 drop"]);
    send();
    assert!(received(&victim).is_empty());
    one.reach(two);
    underlay.end().await;
}
