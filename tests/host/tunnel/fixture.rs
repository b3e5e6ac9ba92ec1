//! Hosts, their underlay, and a container behind each.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use docklet::name::LinkName;
use docklet::net::{
    Bridge, BridgeSpec, LinkOwner, Mtu, Netlink, NetworkNamespace, Tunnel, TunnelSpec, TunnelTopology, Veth,
    VethSpec,
};
use serde_json::Value;

use crate::kernel;
use crate::netns::{inside, ip_inside};
use crate::sandbox::Sandbox;

/// How many tries a first packet gets: a port forwards when the kernel has seen its carrier, which it looks for once a second.
const TRIES: usize = 20;
/// How long after the last expected datagram one that is too many may come.
const LINGER: Duration = Duration::from_millis(300);

pub(crate) fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

pub(crate) fn owner(name: &str) -> LinkOwner {
    LinkOwner::new(format!("docklet-test/{name}")).unwrap()
}

/// The underlay: a bridge, and hosts on it.
pub(crate) struct Underlay {
    pub(crate) net: Netlink,
    dir: PathBuf,
    pub(crate) hosts: Vec<Host>,
}

impl Underlay {
    /// Hosts 1 to `count`, at 192.0.2.N and 2001:db8::N.
    pub(crate) async fn new(sandbox: &Sandbox, count: u8) -> Self {
        let net = Netlink::connect().await.unwrap();
        let under = BridgeSpec {
            mtu: Some(Mtu::new(1500).unwrap()),
            ..BridgeSpec::new(link("under"), owner("under"))
        };
        Bridge::ensure(&net, &under).await.unwrap();
        let dir = sandbox.dir("netns");
        let mut hosts = Vec::new();
        for n in 1..=count {
            let (pin, container) = (dir.join(format!("h{n}")), dir.join(format!("c{n}")));
            let namespace = NetworkNamespace::ensure(&pin).unwrap();
            let wire = VethSpec {
                guard: None,
                addresses: vec![
                    format!("192.0.2.{n}/24").parse().unwrap(),
                    format!("2001:db8::{n}/64").parse().unwrap(),
                ],
                ..VethSpec::new(link(&format!("u{n}")), owner(&format!("u{n}")), link("under"), link("eth0"))
            };
            Veth::ensure(&net, &namespace, &wire).await.unwrap();
            NetworkNamespace::ensure(&container).unwrap();
            hosts.push(Host { n, net: Netlink::connect_in(&namespace).await.unwrap(), pin, container });
        }
        Self { net, dir, hosts }
    }

    /// As [`Host::raise`], on every host, until each reaches each.
    pub(crate) async fn raise(&self, topology: &TunnelTopology) {
        for host in &self.hosts {
            host.raise(&host.spec(topology)).await;
        }
        for from in &self.hosts {
            for to in &self.hosts {
                from.reach(to);
            }
        }
    }

    pub(crate) async fn end(self) {
        for host in &self.hosts {
            kernel::run("ip", ["link", "del", &format!("u{}", host.n)]);
            NetworkNamespace::remove(&host.pin).unwrap();
            NetworkNamespace::remove(&host.container).unwrap();
        }
        Bridge::remove(&self.net, &link("under"), &owner("under")).await.unwrap();
        assert_eq!(std::fs::read_dir(&self.dir).unwrap().count(), 0);
    }
}

/// A host, and a container on it at 10.0.0.N.
pub(crate) struct Host {
    pub(crate) n: u8,
    pub(crate) net: Netlink,
    pub(crate) pin: PathBuf,
    pub(crate) container: PathBuf,
}

impl Host {
    /// This host's part of the tenant's network. All hosts have the same owner, as one store would give it.
    pub(crate) fn spec(&self, topology: &TunnelTopology) -> TunnelSpec {
        let v6 = serde_json::to_string(topology).unwrap().contains("2001:db8");
        let local = if v6 { format!("2001:db8::{}", self.n) } else { format!("192.0.2.{}", self.n) };
        TunnelSpec {
            owner: owner("tenant"),
            bridge: link("br0"),
            local: local.parse().unwrap(),
            topology: topology.clone(),
            mtu: None,
        }
    }

    pub(crate) async fn bridge(&self, mtu: Mtu) {
        let bridge = BridgeSpec::new(link("br0"), owner(&format!("br{}", self.n)));
        let spec = BridgeSpec { mtu: Some(mtu), ..bridge };
        Bridge::ensure(&self.net, &spec).await.unwrap();
    }

    pub(crate) async fn remove_bridge(&self) {
        Bridge::remove(&self.net, &link("br0"), &owner(&format!("br{}", self.n))).await.unwrap();
    }

    pub(crate) async fn plug_in(&self) {
        let wire = VethSpec {
            guard: None,
            addresses: vec![format!("10.0.0.{}/24", self.n).parse().unwrap()],
            ..VethSpec::new(link("c0"), owner(&format!("c{}", self.n)), link("br0"), link("eth0"))
        };
        Veth::ensure(&self.net, &NetworkNamespace::open(&self.container).unwrap(), &wire).await.unwrap();
    }

    /// The bridge, as large as the tunnel; the tunnel; the container.
    pub(crate) async fn raise(&self, spec: &TunnelSpec) -> Tunnel {
        self.bridge(Tunnel::mtu(&self.net, spec).await.unwrap()).await;
        let tunnel = Tunnel::ensure(&self.net, spec).await.unwrap();
        self.plug_in().await;
        tunnel
    }

    /// The names of the tunnel's links.
    pub(crate) async fn arms(&self) -> Vec<String> {
        let tunnel = Tunnel::open(&self.net, &owner("tenant")).await.unwrap();
        tunnel.links().iter().map(ToString::to_string).collect()
    }

    /// `ip -j -d link show NAME`.
    pub(crate) fn show(&self, name: &str) -> Value {
        ip_inside(&self.pin, &["-d", "link", "show", name])[0].take()
    }

    pub(crate) fn run(&self, command: &[&str]) -> String {
        let namespace = format!("--net={}", self.pin.display());
        kernel::run("nsenter", [&[&*namespace], command].concat())
    }

    /// Whether one packet of `bytes` comes back from the other host's container, whole.
    pub(crate) fn ping(&self, to: &Self, bytes: u32) -> bool {
        let namespace = format!("--net={}", self.container.display());
        let (size, to) = ((bytes - 28).to_string(), format!("10.0.0.{}", to.n));
        let args = [&*namespace, "ping", "-c1", "-W1", "-M", "do", "-s", &size, &to];
        Command::new("nsenter").args(args).output().unwrap().status.success()
    }

    pub(crate) fn reach(&self, to: &Self) {
        let reached = (0..TRIES).any(|_| self.ping(to, 84));
        assert!(reached, "host {} does not reach host {}", self.n, to.n);
    }

    /// Whom a VXLAN link floods to, by the kernel's word.
    pub(crate) fn flooded(&self, name: &str) -> BTreeSet<String> {
        let entries = self.fdb(name).into_iter().filter(|entry| entry["mac"] == "00:00:00:00:00:00");
        entries.map(|entry| entry["dst"].as_str().unwrap().to_owned()).collect()
    }

    /// The entries of the link itself, not those of its bridge.
    pub(crate) fn fdb(&self, name: &str) -> Vec<Value> {
        let text = self.run(&["bridge", "-j", "fdb", "show", "dev", name]);
        let entries: Vec<Value> = serde_json::from_str(&text).unwrap();
        let own =
            |entry: &Value| entry["flags"].as_array().is_some_and(|flags| flags.contains(&"self".into()));
        entries.into_iter().filter(own).collect()
    }

    /// Everything that a refusal must leave as it is.
    pub(crate) fn state(&self) -> (String, String) {
        let mut links = ip_inside(&self.pin, &["-d", "link", "show"]);
        for link in links.as_array_mut().unwrap() {
            // What the kernel finds out a moment later, and what it counts by itself.
            link["operstate"] = Value::Null;
            link["flags"].as_array_mut().unwrap().retain(|flag| flag != "NO-CARRIER");
            let timers = link.pointer_mut("/linkinfo/info_data").and_then(Value::as_object_mut);
            timers.into_iter().for_each(|data| data.retain(|name, _| !name.contains("timer")));
            let timers = link.pointer_mut("/linkinfo/info_slave_data").and_then(Value::as_object_mut);
            timers.into_iter().for_each(|data| data.retain(|name, _| !name.contains("timer")));
        }
        let mut fdb: Vec<_> = self
            .run(&["bridge", "fdb", "show"])
            .lines()
            .filter(|line| line.starts_with("00:00:00:00:00:00"))
            .map(str::to_owned)
            .collect();
        fdb.sort();
        (links.to_string(), fdb.join("\n"))
    }
}

/// A socket in the namespace of `container`.
pub(crate) fn socket(container: &Path, port: u16) -> UdpSocket {
    inside(container, || {
        let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
        socket.set_broadcast(true).unwrap();
        socket
    })
}

/// Sends ten broadcasts from one container. What each of the others got of them, sorted: the kernel's queues are one for
/// each processor, and a sender can move.
pub(crate) fn broadcast(from: &Host, others: &[&Host]) -> Vec<Vec<u8>> {
    let sockets: Vec<_> = others.iter().map(|host| socket(&host.container, 7000)).collect();
    let sender = socket(&from.container, 0);
    for number in 0..10_u8 {
        sender.send_to(&[number], "10.0.0.255:7000").unwrap();
    }
    let sorted = |mut heard: Vec<u8>| {
        heard.sort_unstable();
        heard
    };
    sockets.iter().map(received).map(sorted).collect()
}

/// What has come, and comes within a moment after the last that came.
pub(crate) fn received(socket: &UdpSocket) -> Vec<u8> {
    socket.set_read_timeout(Some(LINGER)).unwrap();
    let mut buffer = [0; 64];
    std::iter::from_fn(|| socket.recv(&mut buffer).ok().map(|_| buffer[0])).collect()
}
