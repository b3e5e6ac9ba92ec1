//! Tenants that are root in their namespaces, against the firewall: real packets that should not get through.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use docklet::net::{PortForward, Protocol, Ruleset};
use serde_json::Value;

use crate::firewall::{forward, table};
use crate::firewall_traffic::{ARRIVES, World, soon, tenants, with_and_without_br_netfilter};
use crate::kernel;
use crate::netns::{inside, ip_inside};
use crate::packet::PacketSocket;
use crate::sandbox::Sandbox;

fn bound(world: &World, place: &str, address: &str) -> UdpSocket {
    let socket = inside(&world.pin(place), || soon(|| UdpSocket::bind(address)));
    socket.set_read_timeout(Some(ARRIVES)).unwrap();
    socket
}

/// What arrives next: how much, and from where. A signal is no answer.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// What arrives at `socket` before "last": which bytes, and from where.
fn before_last(socket: &UdpSocket) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut buffer = [0; 64];
    loop {
        let (length, from) = receive(socket, &mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if text == "last" {
            return found;
        }
        found.push((text, from.to_string()));
    }
}

/// A published port is asked from VXLAN's own port, which is another host's of the same tunnels (where the tenant has an
/// accomplice whose address is masqueraded). The answer would be a frame in whichever network it names.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn an_answer_is_no_frame_of_a_tunnel() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox).await;
    let firewall = table(&sandbox);
    let forwards: Vec<PortForward> =
        ["10.0.1.2:80", "[fd00:1::2]:80"].map(|to| forward(Protocol::Udp, None, 8000, to)).to_vec();
    let tunnel_ports = [8472.try_into().unwrap()].into();
    let ruleset = Ruleset { networks: tenants().to_vec(), forwards, tunnel_ports, ..Ruleset::default() };
    firewall.apply(&ruleset).unwrap();
    with_and_without_br_netfilter(|| {
        for (outside, published, server) in [
            ("192.0.2.2", "192.0.2.1:8000", "10.0.1.2:80"),
            ("[2001:db8::2]", "[2001:db8::1]:8000", "[fd00:1::2]:80"),
        ] {
            let server = bound(&world, "a", server);
            let [tunnel, second, other] =
                [4789, 8472, 4788].map(|number| bound(&world, "outside", &format!("{outside}:{number}")));
            for client in [&tunnel, &second, &other] {
                client.send_to(b"question", published).unwrap();
                let (_, from) = receive(&server, &mut [0; 16]).unwrap();
                assert_eq!(from, client.local_addr().unwrap());
                server.send_to(b"frame", from).unwrap();
            }
            // The answer to the last was sent after the others.
            let (_, from) = receive(&other, &mut [0; 16]).unwrap();
            assert_eq!(from.to_string(), published);
            for tunnel in [tunnel, second] {
                tunnel.set_nonblocking(true).unwrap();
                assert!(receive(&tunnel, &mut [0; 16]).is_err(), "a frame that bears the host's address");
            }
        }
    });
    firewall.remove().unwrap();
    world.end().await;
}

/// One tenant sends under the address of another, into a connection of that one's.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn nobody_speaks_in_anothers_connection() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox).await;
    let firewall = table(&sandbox);
    for filter in ["all", "bra", "default"] {
        fs::write(format!("/proc/sys/net/ipv4/conf/{filter}/rp_filter"), "0").unwrap();
    }
    firewall.apply(&Ruleset { networks: tenants().to_vec(), ..Ruleset::default() }).unwrap();
    with_and_without_br_netfilter(|| {
        for (own, to) in [("10.0.2.2", "192.0.2.2:0"), ("fd00:2::2", "[2001:db8::2]:0")] {
            let outside = bound(&world, "outside", to);
            let to = outside.local_addr().unwrap();
            let b = bound(
                &world,
                "b",
                &if own.contains(':') { format!("[{own}]:0") } else { format!("{own}:0") },
            );
            b.send_to(b"from b", to).unwrap();
            let (_, seen) = receive(&outside, &mut [0; 16]).unwrap();
            outside.send_to(b"answer", seen).unwrap();
            receive(&b, &mut [0; 16]).unwrap();
            let address = b.local_addr().unwrap();
            let length = if address.is_ipv4() { 32 } else { 128 };
            inside(&world.pin("a"), || {
                let borrowed = format!("{own}/{length}");
                kernel::run("ip", ["address", "replace", &borrowed, "dev", "lo", "nodad"]);
                UdpSocket::bind(address).unwrap().send_to(b"from a", to).unwrap();
                // Its own is on its way behind that one.
                kernel::run("ip", ["address", "delete", &borrowed, "dev", "lo"]);
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                UdpSocket::bind(any).unwrap().send_to(b"last", to).unwrap();
            });
            assert_eq!(before_last(&outside), Vec::new());
            b.send_to(b"b again", to).unwrap();
            b.send_to(b"last", to).unwrap();
            assert_eq!(before_last(&outside), [("b again".to_owned(), seen.to_string())]);
        }
    });
    firewall.remove().unwrap();
    world.end().await;
}

/// The checksum of the internet protocols (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum();
    (!u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()).to_be_bytes()
}

/// An IPv4 header of 20 bytes, for `length` bytes.
fn ipv4_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, length: u8) -> Vec<u8> {
    let start = [0x45, 0, 0, 20 + length, 0, 0, 0, 0, 64, protocol, 0, 0];
    let mut header = [&start[..], &source.octets(), &destination.octets()].concat();
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    header
}

/// "Port unreachable", about a connection of another tenant's, where the host would translate it and lead it, or of the
/// host's. About a connection of the own network it is heard.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn nobody_refuses_anothers_connection() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox).await;
    let firewall = table(&sandbox);
    firewall.apply(&Ruleset { networks: tenants().to_vec(), ..Ruleset::default() }).unwrap();
    let hardware = |link: &Value| -> Vec<u8> {
        let text = link[0]["address"].as_str().unwrap();
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    };
    let to = hardware(&kernel::json("ip", ["-j", "link", "show", "bra"]));
    let from = hardware(&ip_inside(&world.pin("a"), &["link", "show", "eth0"]));
    let outside = bound(&world, "outside", "192.0.2.2:0");
    with_and_without_br_netfilter(|| {
        let mut wrong = Vec::new();
        for (victim, own, heard) in
            [("b", "10.0.2.2:0", false), ("host", "192.0.2.1:0", false), ("a2", "10.0.1.3:0", true)]
        {
            let client = bound(&world, victim, own);
            client.connect(outside.local_addr().unwrap()).unwrap();
            client.send(b"question").unwrap();
            let (_, seen) = receive(&outside, &mut [0; 16]).unwrap();
            let (SocketAddr::V4(seen), SocketAddr::V4(server)) = (seen, outside.local_addr().unwrap()) else {
                panic!("{seen}");
            };
            let ports = [seen.port().to_be_bytes(), server.port().to_be_bytes(), [0, 8], [0, 0]].concat();
            let about = [ipv4_header(*seen.ip(), *server.ip(), 17, 8), ports].concat();
            let mut error = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &about].concat();
            let sum = checksum(&error);
            error[2..4].copy_from_slice(&sum);
            let outer = ipv4_header("10.0.1.2".parse().unwrap(), *seen.ip(), 1, 36);
            let frame = [&to[..], &from, &[8, 0], &outer, &error].concat();
            inside(&world.pin("a"), || PacketSocket::open("eth0")).send(&frame);
            outside.send_to(b"answer", seen).unwrap();
            // The error is told before what came after it.
            let refused =
                receive(&client, &mut [0; 16]).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
            wrong.extend((refused != heard).then_some(victim));
        }
        assert_eq!(wrong, Vec::<&str>::new());
    });
    drop(outside);
    firewall.remove().unwrap();
    world.end().await;
}
