//! Rates of ports, measured by who receives: TCP between a container and the host, for a second and more.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use docklet::Error;
use docklet::net::{NetworkNamespace, Rate, RateLimits, Veth, VethSpec};

use crate::kernel;
use crate::netns::inside;
use crate::sandbox::Sandbox;
use crate::veth::{Network, spec};

/// What passes before it is measured: a burst, and the beginning of the connection.
const BEGINNING: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_millis(1500);
/// What the receiver gets of a frame, and the frame, in bytes: the headers of IPv4 and of TCP with time stamps.
const PAYLOAD: (u64, u64) = (1448, 1514);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    ToContainer,
    FromContainer,
}

/// Bits per second on the link, by the receiver's clock.
fn measure(pin: &Path, direction: Direction) -> u64 {
    let listener = TcpListener::bind("10.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let done = AtomicBool::new(false);
    let send = |mut stream: TcpStream| {
        stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        while !done.load(Ordering::Relaxed) {
            if stream.write_all(&[0; 16384]).is_err() {
                break;
            }
        }
    };
    let receive = |mut stream: TcpStream| {
        let mut buffer = vec![0; 65536];
        let begun = Instant::now();
        while begun.elapsed() < BEGINNING {
            assert_ne!(stream.read(&mut buffer).unwrap(), 0);
        }
        let (begun, mut bytes) = (Instant::now(), 0);
        while begun.elapsed() < MEASURED {
            bytes += u64::try_from(stream.read(&mut buffer).unwrap()).unwrap();
        }
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap();
        done.store(true, Ordering::Relaxed);
        bytes * PAYLOAD.1 / PAYLOAD.0 * 8_000_000 / micros
    };
    thread::scope(|scope| {
        let container = scope.spawn(|| {
            inside(pin, || {
                let stream = TcpStream::connect(address).unwrap();
                match direction {
                    Direction::ToContainer => receive(stream),
                    Direction::FromContainer => {
                        send(stream);
                        0
                    }
                }
            })
        });
        let (stream, _) = listener.accept().unwrap();
        let here = match direction {
            Direction::ToContainer => {
                send(stream);
                0
            }
            Direction::FromContainer => receive(stream),
        };
        here + container.join().unwrap()
    })
}

/// Within a tenth of what was asked for. The machine is shared, and whoever does not run for longer than a burst lasts (10 ms)
/// has lost what could have passed: ten attempts.
fn assert_rate(pin: &Path, direction: Direction, asked: u64) {
    let mut seen = Vec::new();
    for _ in 0..10 {
        let measured = measure(pin, direction);
        seen.push(measured);
        if measured.abs_diff(asked) <= asked / 10 {
            eprintln!("{direction:?}: {asked} bit/s asked, {measured} measured");
            return;
        }
    }
    panic!("{direction:?}: {seen:?}, not {asked} bit/s");
}

/// What waits, and where.
fn queues() -> String {
    kernel::run("tc", ["-s", "qdisc", "show"]) + &kernel::run("ip", ["-s", "link", "show"])
}

/// In bits per second.
fn limited(to_container: Option<u64>, from_container: Option<u64>) -> VethSpec {
    let rate = |bits: Option<u64>| bits.map(|bits| Rate::new(bits).unwrap());
    let rates = RateLimits { to_container: rate(to_container), from_container: rate(from_container) };
    VethSpec { rates, ..spec(1) }
}

/// Both directions at their own rates, changed while the port is up, by `ensure`; gone when they are no longer asked for.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn both_directions_keep_to_their_rates() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    let net = network.net.clone();
    let pin = network.pin(1);
    let namespace = NetworkNamespace::ensure(&pin).unwrap();
    let ensure = async |spec: &VethSpec| Veth::ensure(&net, &namespace, spec).await.unwrap();
    let index = ensure(&spec(1)).await.index();
    let free = [Direction::ToContainer, Direction::FromContainer].map(|direction| measure(&pin, direction));
    // An emulated processor carries less than is asked of others.
    let part = |megabits: u64| (megabits * 1_000_000).min(free[0].min(free[1]) * megabits / 250);
    assert_eq!(ensure(&limited(Some(part(20)), Some(part(40)))).await.index(), index);
    let [link, shaper] = Veth::links(&spec(1).name, &spec(1).owner);
    let owned = net.links_owned("docklet-test/veth/").await.unwrap();
    assert_eq!(owned.len(), 2, "{owned:?}");
    assert!(owned.iter().all(|(name, owner)| [&link, &shaper].contains(&name) && *owner == spec(1).owner));

    assert_rate(&pin, Direction::ToContainer, part(20));
    assert_rate(&pin, Direction::FromContainer, part(40));
    assert_eq!(ensure(&limited(Some(part(100)), Some(part(8)))).await.index(), index);
    assert_rate(&pin, Direction::ToContainer, part(100));
    assert_rate(&pin, Direction::FromContainer, part(8));

    ensure(&limited(None, Some(part(30)))).await;
    assert_rate(&pin, Direction::FromContainer, part(30));
    ensure(&spec(1)).await;
    assert_eq!(net.links_owned("docklet-test/veth/").await.unwrap().len(), 1);
    let free = [Direction::ToContainer, Direction::FromContainer].map(|direction| measure(&pin, direction));
    assert!(free.iter().all(|rate| *rate > 2 * part(100)), "no limit: {free:?}");

    ensure(&limited(None, Some(part(30)))).await;
    Veth::remove(&net, &spec(1).name, &spec(1).owner).await.unwrap();
    assert_eq!(net.links_owned("docklet-test/").await.unwrap().len(), 1, "the bridge");
    NetworkNamespace::remove(&pin).unwrap();
    network.end().await;
}

/// The container sends as much as it can while its limits become much lower, again and again. What waits then may be larger
/// than all that may pass at once from now on; what comes after it must not wait for ever.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn a_lower_limit_lets_go_on() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    let net = network.net.clone();
    let pin = network.pin(1);
    let namespace = NetworkNamespace::ensure(&pin).unwrap();
    let [fast, slow] = [100_000_000, 8_000_000].map(|bits| limited(Some(bits), Some(bits)));
    Veth::ensure(&net, &namespace, &fast).await.unwrap();
    for _ in 0..5 {
        let listener = TcpListener::bind("10.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let sender = inside(&pin, || TcpStream::connect(to).unwrap());
        let (mut receiver, _) = listener.accept().unwrap();
        thread::spawn(move || {
            let mut sender = sender;
            while sender.write_all(&[0; 65536]).is_ok() {}
        });
        let mut buffer = vec![0; 65536];
        let begun = Instant::now();
        while begun.elapsed() < BEGINNING {
            assert_ne!(receiver.read(&mut buffer).unwrap(), 0);
        }
        Veth::ensure(&net, &namespace, &slow).await.unwrap();
        // Both directions still carry: a stream that hangs says nothing for longer than this, in which TCP sends what was lost
        // again eight times.
        receiver.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        for round in 0..20 {
            let read = receiver.read(&mut buffer);
            assert!(read.as_ref().is_ok_and(|bytes| *bytes > 0), "{round}: {read:?}\n{}", queues());
        }
        receiver.shutdown(std::net::Shutdown::Both).unwrap();
        Veth::ensure(&net, &namespace, &fast).await.unwrap();
    }
    Veth::remove(&net, &spec(1).name, &spec(1).owner).await.unwrap();
    NetworkNamespace::remove(&pin).unwrap();
    network.end().await;
}

/// What others have changed or taken away is put right, and a name that is somebody else's is left.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn limits_that_were_lost_are_set_again() {
    let sandbox = Sandbox::new();
    let network = Network::new(&sandbox).await;
    let net = network.net.clone();
    let pin = network.pin(1);
    let namespace = NetworkNamespace::ensure(&pin).unwrap();
    let wanted = limited(Some(20_000_000), Some(40_000_000));
    let [_, shaper] = Veth::links(&spec(1).name, &spec(1).owner);

    kernel::run("ip", ["link", "add", shaper.as_str(), "type", "ifb"]);
    let error = Veth::ensure(&net, &namespace, &wanted).await.unwrap_err();
    assert!(matches!(error, Error::Differs { .. }), "{error}");
    Veth::remove(&net, &wanted.name, &wanted.owner).await.unwrap_err();
    kernel::run("ip", ["link", "del", shaper.as_str()]);

    Veth::ensure(&net, &namespace, &wanted).await.unwrap();
    let state = || {
        let rules = |link: &str| {
            let qdiscs = kernel::json("tc", ["-j", "qdisc", "show", "dev", link]);
            let rates = qdiscs.as_array().unwrap().iter().filter(|qdisc| qdisc["kind"] == "tbf");
            rates.map(|qdisc| qdisc["options"]["rate"].clone()).collect::<Vec<_>>()
        };
        let filters = kernel::run("tc", ["filter", "show", "dev", "dkve1", "ingress"]);
        (rules("dkve1"), rules(shaper.as_str()), filters.contains("Redirect to device di"))
    };
    let whole = state();
    assert_eq!(whole, (vec![2_500_000.into()], vec![5_000_000.into()], true));
    for lost in [
        &["qdisc", "del", "dev", "dkve1", "root"][..],
        &["qdisc", "del", "dev", shaper.as_str(), "root"],
        &["qdisc", "del", "dev", "dkve1", "ingress"],
        &["filter", "del", "dev", "dkve1", "ingress", "prio", "2"],
        &[
            "qdisc", "change", "dev", "dkve1", "root", "tbf", "rate", "1mbit", "burst", "32k", "latency",
            "9ms",
        ],
    ] {
        kernel::run("tc", lost);
        assert_ne!(state(), whole);
        Veth::ensure(&net, &namespace, &wanted).await.unwrap();
        assert_eq!(state(), whole, "{lost:?}");
    }
    kernel::run("ip", ["link", "del", shaper.as_str()]);
    Veth::ensure(&net, &namespace, &wanted).await.unwrap();
    assert_eq!(state(), whole);

    // The namespace takes the pair along, and not the device; it is shown, and removed by either name.
    drop(namespace);
    NetworkNamespace::remove(&pin).unwrap();
    net.wait_gone(&wanted.name, Duration::from_secs(10)).await.unwrap();
    let owned = net.links_owned("docklet-test/veth/").await.unwrap();
    assert_eq!(owned, [(shaper.clone(), wanted.owner.clone())]);
    Veth::remove(&net, &shaper, &wanted.owner).await.unwrap();
    assert!(net.links_owned("docklet-test/veth/").await.unwrap().is_empty());
    network.end().await;
}
