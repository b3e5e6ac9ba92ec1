//! Connections when containers, addresses and published ports come and go: with packets that never pause.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use docklet::host::{Attachment, ContainerSpec, Forward};
use docklet::name::ContainerName;
use docklet::net::Protocol;

use super::far::Far;
use super::fixture::{Fixture, eth0, network, spec};
use crate::kernel;
use crate::netns::inside;

const ARRIVES: Duration = Duration::from_secs(10);
const NOTHING: Duration = Duration::from_millis(500);

/// A container at an address, which publishes its UDP port 80 as 8000, or does not.
fn at(name: &str, address: &str, publishes: bool) -> ContainerSpec {
    let forward = Forward {
        protocol: Protocol::Udp,
        host_address: None,
        host_port: 8000.try_into().unwrap(),
        port: 80.try_into().unwrap(),
    };
    let forwards = if publishes { vec![forward] } else { vec![] };
    let addresses = vec![address.parse().unwrap()];
    let attachment = Attachment { forwards, addresses, ..Attachment::new(network().name) };
    ContainerSpec { interfaces: eth0(attachment), ..spec(name) }
}

/// A socket of a container's.
fn server(fixture: &Fixture, name: &ContainerName, number: u16) -> UdpSocket {
    let id = fixture.host.get(name).unwrap().id;
    let pin = fixture.sandbox.paths.containers().join(id.as_str()).join("netns");
    let socket = inside(&pin, || UdpSocket::bind(("0.0.0.0", number)).unwrap());
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Sends all the time, until something arrives at `socket`.
fn arrives(client: &UdpSocket, to: &str, socket: &UdpSocket, patience: Duration) -> bool {
    while socket.recv_from(&mut [0; 16]).is_ok() {}
    let begun = Instant::now();
    while begun.elapsed() < patience {
        client.send_to(b"x", to).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        if socket.recv_from(&mut [0; 16]).is_ok() {
            return true;
        }
    }
    false
}

/// What is sent all the time to a published port goes along with it: from one container to the next, after a flush of all
/// rules, and to nobody when it is withdrawn or its container is removed, whoever has the address then.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn what_is_sent_goes_along_with_the_port() {
    let fixture = Fixture::new().await;
    let far = Far::new(&fixture);
    let host = &fixture.host;
    let client = inside(&far.pin, || UdpSocket::bind("192.0.2.2:0").unwrap());
    let published = "192.0.2.1:8000";
    // From before anything was published.
    client.send_to(b"x", published).unwrap();
    let (one, two) = (at("one", "10.99.0.11", true), at("two", "10.99.0.12", false));
    for spec in [&one, &two] {
        host.launch(spec.clone()).await.unwrap();
    }
    let (first, second) = (server(&fixture, &one.name, 80), server(&fixture, &two.name, 80));
    assert!(arrives(&client, published, &first, ARRIVES));

    host.apply_interfaces(&one.name, at("one", "10.99.0.11", false).interfaces).await.unwrap();
    assert!(!arrives(&client, published, &first, NOTHING));
    host.apply_interfaces(&two.name, at("two", "10.99.0.12", true).interfaces).await.unwrap();
    assert!(arrives(&client, published, &second, ARRIVES));

    // To another address of the same container.
    host.apply_interfaces(&two.name, at("two", "10.99.0.13", true).interfaces).await.unwrap();
    assert!(arrives(&client, published, &second, ARRIVES));

    kernel::run("nft", ["flush", "ruleset"]);
    assert!(host.recover().await.unwrap().complete());
    assert!(arrives(&client, published, &second, ARRIVES));
    // The tracker has forgotten the translation meanwhile: what is sent goes to the host.
    kernel::run("nft", ["flush", "ruleset"]);
    let id = host.get(&two.name).unwrap().id;
    drop(second);
    host.remove(&two.name).await.unwrap();
    assert!(!fixture.sandbox.paths.containers().join(id.as_str()).exists());
    client.send_to(b"x", published).unwrap();
    assert!(host.recover().await.unwrap().complete());

    let next = at("next", "10.99.0.13", false);
    host.launch(next.clone()).await.unwrap();
    let third = server(&fixture, &next.name, 80);
    assert!(!arrives(&client, published, &third, NOTHING));
    drop((client, first, third));
    for spec in [&one, &next] {
        host.remove(&spec.name).await.unwrap();
    }
    far.end().await;
    fixture.end().await;
}

/// Who answers a container goes on to answer when it is gone. The next one at its address does not hear him; nor if the
/// address was given up without its container.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn an_address_comes_without_its_connections() {
    let fixture = Fixture::new().await;
    let far = Far::new(&fixture);
    let host = &fixture.host;
    let outside = inside(&far.pin, || UdpSocket::bind("192.0.2.2:0").unwrap());
    outside.set_read_timeout(Some(ARRIVES)).unwrap();
    let asks = |socket: &UdpSocket| {
        socket.send_to(b"question", outside.local_addr().unwrap()).unwrap();
        let (_, seen) = outside.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(seen.ip().to_string(), "192.0.2.1");
        seen.to_string()
    };
    let (one, next) = (at("one", "10.99.0.11", false), at("next", "10.99.0.11", false));
    host.launch(one.clone()).await.unwrap();
    let socket = server(&fixture, &one.name, 5000);
    let seen = asks(&socket);
    assert!(arrives(&outside, &seen, &socket, ARRIVES));
    // It stays its own while it is down.
    drop(socket);
    host.stop(&one.name, Duration::ZERO).await.unwrap();
    host.start(&one.name).await.unwrap();
    let socket = server(&fixture, &one.name, 5000);
    assert!(arrives(&outside, &seen, &socket, ARRIVES));
    drop(socket);
    host.remove(&one.name).await.unwrap();
    host.launch(next.clone()).await.unwrap();
    let socket = server(&fixture, &next.name, 5000);
    assert!(!arrives(&outside, &seen, &socket, NOTHING));

    let seen = asks(&socket);
    assert!(arrives(&outside, &seen, &socket, ARRIVES));
    host.apply_interfaces(&next.name, at("next", "10.99.0.12", false).interfaces).await.unwrap();
    host.launch(one.clone()).await.unwrap();
    let second = server(&fixture, &one.name, 5000);
    assert!(!arrives(&outside, &seen, &second, NOTHING));
    drop((outside, socket, second));
    for spec in [&one, &next] {
        host.remove(&spec.name).await.unwrap();
    }
    far.end().await;
    fixture.end().await;
}
