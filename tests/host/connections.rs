//! Tracked connections that end, with packets that never pause. (`/proc/net/nf_conntrack` is the kernel's own list.)

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use docklet::net::{Protocol, Ruleset, end_connections, settle_forwards};

use crate::firewall::{forward, table};
use crate::firewall_traffic::{ARRIVES, World, soon, tenants};
use crate::kernel;
use crate::netns::inside;
use crate::sandbox::Sandbox;

/// How long it is watched that nothing arrives, while it is sent all the time.
const NOTHING: Duration = Duration::from_millis(300);

fn bound(world: &World, place: &str, address: &str) -> UdpSocket {
    let socket = inside(&world.pin(place), || soon(|| UdpSocket::bind(address)));
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Sends again and again, without a pause that a tracker would notice, until it arrives at one of `at`, if ever.
fn arrives(client: &UdpSocket, to: &str, at: &[&UdpSocket], patience: Duration) -> Option<usize> {
    for socket in at {
        while socket.recv_from(&mut [0; 16]).is_ok() {}
    }
    let begun = Instant::now();
    while begun.elapsed() < patience {
        match client.send_to(b"x", to) {
            // The host said that nobody listens there.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
            sent => drop(sent.unwrap()),
        }
        std::thread::sleep(Duration::from_millis(1));
        if let Some(found) = at.iter().position(|socket| socket.recv_from(&mut [0; 16]).is_ok()) {
            return Some(found);
        }
    }
    None
}

/// The lines of the kernel's list with all of `words`.
fn tracked(words: &[&str]) -> usize {
    let text = fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap();
    text.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

/// A port is published, led elsewhere, withdrawn: what is sent all the time goes along. Other connections go on.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn what_never_pauses_goes_where_the_port_leads() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox).await;
    let firewall = table(&sandbox);
    for (client, published, one, two) in [
        ("192.0.2.2:0", "192.0.2.1:8000", "10.0.1.2:80", "10.0.2.2:80"),
        ("[2001:db8::2]:0", "[2001:db8::1]:8000", "[fd00:1::2]:80", "[fd00:2::2]:80"),
    ] {
        let lead = |to: Option<&str>| {
            let forwards: Vec<_> = to.map(|to| forward(Protocol::Udp, None, 8000, to)).into_iter().collect();
            let ruleset =
                Ruleset { networks: tenants().to_vec(), forwards: forwards.clone(), ..Ruleset::default() };
            firewall.apply(&ruleset).unwrap();
            forwards
        };
        let (client, a, b) =
            (bound(&world, "outside", client), bound(&world, "a", one), bound(&world, "b", two));
        let at = [&a, &b];
        let targets = [one, two].map(|to| to.parse::<std::net::SocketAddr>().unwrap().ip());
        // Something else between the same, which is none of this.
        let other =
            bound(&world, "outside", if one.starts_with('[') { "[2001:db8::2]:0" } else { "192.0.2.2:0" });
        let other = other.local_addr().unwrap().to_string();
        lead(None);
        assert_eq!(arrives(&a, &other, &[], Duration::from_millis(5)), None);
        assert_eq!(arrives(&client, published, &at, NOTHING), None, "not published");

        let forwards = lead(Some(one));
        assert_eq!(arrives(&client, published, &at, NOTHING), None, "it goes on to the host");
        assert_eq!(settle_forwards(&targets.into(), &forwards).unwrap(), 1);
        assert_eq!(arrives(&client, published, &at, ARRIVES), Some(0));
        assert_eq!(settle_forwards(&targets.into(), &forwards).unwrap(), 0);
        assert_eq!(arrives(&client, published, &at, ARRIVES), Some(0));

        let forwards = lead(Some(two));
        assert_eq!(arrives(&client, published, &at, ARRIVES), Some(0), "it goes on to the old one");
        assert_eq!(settle_forwards(&[].into(), &forwards).unwrap(), 1, "also if the old one is not named");
        assert_eq!(arrives(&client, published, &at, ARRIVES), Some(1));

        lead(None);
        assert_eq!(arrives(&client, published, &at, ARRIVES), Some(1), "it goes on");
        assert_eq!(settle_forwards(&targets.into(), &[]).unwrap(), 1);
        assert_eq!(arrives(&client, published, &at, NOTHING), None);
        // Many at once are looked for in another way.
        let mut forwards = lead(Some(one));
        forwards.extend((1..=20).map(|n| forward(Protocol::Udp, None, 9000 + n, one)));
        assert_eq!(settle_forwards(&[].into(), &forwards).unwrap(), 1);
        assert_eq!(arrives(&client, published, &at, ARRIVES), Some(0));
        let server = format!("dport={} ", other.rsplit(':').next().unwrap());
        assert_eq!(tracked(&["udp", &server]), 1, "others go on");
        lead(None);
    }
    firewall.remove().unwrap();
    world.end().await;
}

/// Whoever has an address next gets nothing of what is sent to its last owner: as an answer, by a published port, from its own
/// network.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn an_address_that_is_given_up_has_no_connections() {
    let sandbox = Sandbox::new();
    let world = World::new(&sandbox).await;
    let firewall = table(&sandbox);
    let forwards = vec![forward(Protocol::Tcp, None, 8000, "10.0.1.2:80")];
    let ruleset = Ruleset { networks: tenants().to_vec(), forwards, ..Ruleset::default() };
    firewall.apply(&ruleset).unwrap();
    for (from, to) in [("10.0.1.2:0", "192.0.2.2:0"), ("[fd00:1::2]:0", "[2001:db8::2]:0")] {
        let (a, b) = (
            bound(&world, "a", from),
            bound(&world, "b", &from.replace("0.1.2", "0.2.2").replace("fd00:1", "fd00:2")),
        );
        let outside = bound(&world, "outside", to);
        let address = outside.local_addr().unwrap().to_string();
        // As the outside sees them: under the host's address.
        let seen = |client: &UdpSocket| {
            client.send_to(b"x", &address).unwrap();
            let begun = Instant::now();
            loop {
                if let Ok((_, seen)) = outside.recv_from(&mut [0; 16]) {
                    return seen.to_string();
                }
                assert!(begun.elapsed() < ARRIVES);
            }
        };
        let (seen_a, seen_b) = (seen(&a), seen(&b));
        assert_eq!(arrives(&outside, &seen_a, &[&a], ARRIVES), Some(0));
        let of_a: IpAddr = a.local_addr().unwrap().ip();
        end_connections(&[of_a].into()).unwrap();
        assert_eq!(arrives(&outside, &seen_a, &[&a], NOTHING), None);
        assert_eq!(arrives(&outside, &seen_b, &[&b], ARRIVES), Some(0), "others go on");
        end_connections(&[of_a].into()).unwrap();
    }
    // A connection of TCP by a published port, begun at the outside: it is refused from then on.
    let listener = inside(&world.pin("a"), || std::net::TcpListener::bind("10.0.1.2:80").unwrap());
    let to = "192.0.2.1:8000".parse().unwrap();
    let mut stream =
        inside(&world.pin("outside"), || std::net::TcpStream::connect_timeout(&to, ARRIVES).unwrap());
    let (answer, _) = listener.accept().unwrap();
    firewall.apply(&Ruleset { forwards: vec![], ..ruleset }).unwrap();
    end_connections(&["10.0.1.2".parse().unwrap()].into()).unwrap();
    std::io::Write::write_all(&mut stream, b"x").unwrap();
    stream.set_read_timeout(Some(ARRIVES)).unwrap();
    let error = std::io::Read::read(&mut stream, &mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    drop((listener, answer, stream));
    firewall.remove().unwrap();
    world.end().await;
}

/// Without a tracked connection there is nothing to end, and nothing is asked.
#[test]
#[ignore = "needs root: network namespace"]
fn where_nothing_is_tracked_nothing_ends() {
    let _sandbox = Sandbox::new();
    assert_eq!(kernel::nft_tables(), Vec::<String>::new());
    end_connections(&["10.0.1.2".parse().unwrap()].into()).unwrap();
    assert_eq!(settle_forwards(&[].into(), &[forward(Protocol::Udp, None, 80, "10.0.1.2:80")]).unwrap(), 0);
}
