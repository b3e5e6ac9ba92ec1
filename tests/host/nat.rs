//! Address translation: what `nft` has, and what arrives outside.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use docklet::Error;
use docklet::name::LinkName;
use docklet::net::{
    Bridge, BridgeSpec, LinkOwner, Nat, NatNetwork, Netlink, NetworkNamespace, Veth, VethSpec,
};

use crate::kernel;
use crate::netns::inside;
use crate::sandbox::Sandbox;

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

fn network(subnet: &str, bridge: &str) -> NatNetwork {
    NatNetwork { subnet: subnet.parse().unwrap(), bridge: LinkName::new(bridge).unwrap() }
}

fn table(sandbox: &Sandbox) -> Nat {
    Nat::new(format!("docklet-{}", sandbox.paths.tag())).unwrap()
}

/// A bridge with the address GATEWAY/24 and one namespace behind it with ADDRESS/24, which knows no route if it is
/// `outside`.
async fn place(net: &Netlink, pin: &Path, bridge: &str, gateway: &str, address: &str, outside: bool) {
    let owner = |what: &str| LinkOwner::new(format!("docklet-test/{bridge}/{what}")).unwrap();
    let name = LinkName::new(bridge).unwrap();
    let spec = BridgeSpec {
        name: name.clone(),
        owner: owner("bridge"),
        addresses: vec![format!("{gateway}/24").parse().unwrap()],
        mtu: None,
    };
    Bridge::ensure(net, &spec).await.unwrap();
    let spec = VethSpec {
        addresses: vec![format!("{address}/24").parse().unwrap()],
        gateways: if outside { vec![] } else { vec![gateway.parse().unwrap()] },
        ..VethSpec::new(
            LinkName::new(format!("v-{bridge}")).unwrap(),
            owner("veth"),
            name,
            LinkName::new("eth0").unwrap(),
        )
    };
    Veth::ensure(net, &NetworkNamespace::ensure(pin).unwrap(), &spec).await.unwrap();
}

async fn clear(net: &Netlink, pin: &Path, bridge: &str) {
    NetworkNamespace::remove(pin).unwrap();
    net.wait_gone(&LinkName::new(format!("v-{bridge}")).unwrap(), Duration::from_secs(10)).await.unwrap();
    let owner = LinkOwner::new(format!("docklet-test/{bridge}/bridge")).unwrap();
    Bridge::remove(net, &LinkName::new(bridge).unwrap(), &owner).await.unwrap();
}

/// Sends a datagram from one namespace to `to` in another. Returns whose address it bears on arrival, and whether the
/// answer came back.
fn exchange(from: &Path, at: &Path, to: &str) -> (IpAddr, bool) {
    let (ready, is_ready) = mpsc::channel();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| {
            inside(at, move || {
                let socket = UdpSocket::bind(format!("{to}:0")).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                ready.send(socket.local_addr().unwrap()).unwrap();
                let mut buffer = [0; 16];
                let (_, source) = socket.recv_from(&mut buffer).unwrap();
                // Without a route back this is refused, which is what is to be seen.
                drop(socket.send_to(b"pong", source));
                source.ip()
            })
        });
        let answered = inside(from, move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            socket.send_to(b"ping", is_ready.recv().unwrap()).unwrap();
            match socket.recv_from(&mut [0; 16]) {
                Ok(_) => true,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
                Err(error) => panic!("{error}"),
            }
        });
        (server.join().unwrap(), answered)
    })
}

/// The proof by traffic: a namespace behind the bridge reaches an outside that knows only this host.
#[tokio::test]
#[ignore = "needs root: network namespaces, nftables"]
async fn what_leaves_bears_the_hosts_address() {
    let sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let dir = sandbox.dir("netns");
    let [a, b, outside] = ["a", "b", "outside"].map(|name| dir.join(name));
    place(&net, &a, "bra", "10.0.1.1", "10.0.1.2", false).await;
    place(&net, &b, "brb", "10.0.2.1", "10.0.2.2", false).await;
    place(&net, &outside, "up", "192.0.2.1", "192.0.2.2", true).await;
    let [host, container]: [IpAddr; 2] = ["192.0.2.1", "10.0.1.2"].map(|ip| ip.parse().unwrap());
    let nat = table(&sandbox);

    nat.apply(&[network("10.0.2.0/24", "brb")]).unwrap();
    assert_eq!(exchange(&a, &outside, "192.0.2.2"), (container, false), "the other network only");
    nat.apply(&[network("10.0.1.0/24", "bra"), network("10.0.2.0/24", "brb")]).unwrap();
    assert_eq!(exchange(&a, &outside, "192.0.2.2"), (host, true));
    assert_eq!(exchange(&b, &outside, "192.0.2.2"), (host, true));
    // What goes to the host itself does not leave.
    let here = PathBuf::from(format!("/proc/self/task/{}/ns/net", nix::unistd::gettid()));
    assert_eq!(exchange(&a, &here, "10.0.1.1"), (container, true));
    nat.remove().unwrap();
    assert_eq!(exchange(&a, &outside, "192.0.2.2"), (container, false));

    for (pin, bridge) in [(&a, "bra"), (&b, "brb"), (&outside, "up")] {
        clear(&net, pin, bridge).await;
    }
}

/// The table is exactly what was asked for, however often, and nobody else's changes.
#[test]
#[ignore = "needs root: network namespace, nftables"]
fn the_table_is_replaced_and_removed_alone() {
    let sandbox = Sandbox::new();
    let nat = table(&sandbox);
    let foreign = "table inet somebody {\nchain c {\ntype filter hook forward priority 0; policy drop;\n\
                   counter accept\n}\n}\n";
    fs::write(sandbox.dir("nft").join("foreign"), foreign).unwrap();
    kernel::run("nft", ["-f", sandbox.dir("nft").join("foreign").to_str().unwrap()]);
    let before = kernel::run("nft", ["-a", "list", "ruleset"]);
    fs::write(FORWARD, "0").unwrap();

    assert_eq!(nat.current().unwrap(), None);
    nat.remove().unwrap();
    let both = [network("10.0.1.0/24", "bra"), network("10.0.128.0/17", "brb")];
    for _ in 0..2 {
        nat.apply(&both).unwrap();
        assert_eq!(nat.current().unwrap().as_deref(), Some(&both[..]));
    }
    assert_eq!(fs::read_to_string(FORWARD).unwrap().trim(), "1");
    let text = kernel::run("nft", ["list", "table", "inet", nat.table()]);
    assert!(text.contains("type nat hook postrouting priority srcnat; policy accept;"), "{text}");
    let rule = "ip saddr 10.0.1.0/24 ip daddr != 10.0.1.0/24 oifname != \"bra\" masquerade";
    assert!(text.contains(rule), "{text}");
    assert_eq!(text.matches("masquerade").count(), 2, "{text}");

    nat.apply(&both[1..]).unwrap();
    assert_eq!(nat.current().unwrap().as_deref(), Some(&both[1..]));
    kernel::run("nft", ["add", "rule", "inet", nat.table(), "postrouting", "counter"]);
    let error = nat.current().unwrap_err();
    assert!(matches!(error, Error::Differs { .. }), "{error}");
    nat.apply(&[]).unwrap();
    assert_eq!(nat.current().unwrap(), None);
    nat.apply(&both).unwrap();
    nat.remove().unwrap();
    nat.remove().unwrap();
    assert_eq!(kernel::run("nft", ["-a", "list", "ruleset"]), before);
    assert_eq!(fs::read_to_string(FORWARD).unwrap().trim(), "1", "never taken back");
}

/// IPv6 forwarding changes what a host believes of its routers, so the host's owner decides.
#[test]
#[ignore = "needs root: network namespace, nftables"]
fn ipv6_needs_a_host_that_forwards() {
    let sandbox = Sandbox::new();
    let nat = table(&sandbox);
    let networks = [network("10.0.1.0/24", "bra"), network("fd00:1::/64", "bra")];
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "0").unwrap();
    fs::write(FORWARD, "0").unwrap();
    let error = nat.apply(&networks).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(error.to_string().contains("net.ipv6.conf.all.forwarding=1"), "{error}");
    assert_eq!(nat.current().unwrap(), None);
    assert_eq!(fs::read_to_string(FORWARD).unwrap().trim(), "0", "nothing was touched");
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    nat.apply(&networks).unwrap();
    assert_eq!(nat.current().unwrap().as_deref(), Some(&networks[..]));
    nat.remove().unwrap();
}
