//! Networks over several hosts: two of them, each with a prefix and a network namespace of its own, and a wire between.

use std::path::PathBuf;
use std::process::Command;

use docklet::host::{Attachment, ContainerSpec, Host, NetworkSpec, Recovered, Span};
use docklet::name::LinkName;
use docklet::net::{NetworkNamespace, TunnelTopology};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use super::fixture::{eth0, spec};
use crate::netns::{inside, ip_inside};
use crate::sandbox::Sandbox;
use crate::{busybox, kernel};

/// How many tries a first packet gets: a port forwards when the kernel has seen its carrier, which it looks for once a second.
const TRIES: usize = 20;

/// A host, with one container.
struct Site {
    /// Its number, which its addresses end with.
    n: u8,
    /// Its network namespace. All threads of its runtime are in it.
    pin: PathBuf,
    runtime: Runtime,
    host: Host,
    sandbox: Sandbox,
}

impl Site {
    fn new(n: u8) -> Self {
        let sandbox = Sandbox::beside();
        let pin = sandbox.dir("site").join("netns");
        NetworkNamespace::ensure(&pin).unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let paths = sandbox.paths.clone();
        let host = inside(&pin, || runtime.block_on(Host::open(paths)).unwrap());
        busybox::ensure(host.images(), &"busybox".parse().unwrap()).unwrap();
        Self { n, pin, runtime, host, sandbox }
    }

    fn on<T: Send>(&self, work: impl AsyncFnOnce(&Host) -> T + Send) -> T {
        let (runtime, host) = (&self.runtime, &self.host);
        inside(&self.pin, || runtime.block_on(work(host)))
    }

    fn run(&self, command: &[&str]) -> String {
        let namespace = format!("--net={}", self.pin.display());
        kernel::run("nsenter", [&[&*namespace], command].concat())
    }

    /// Its part of the network, over IPv6 if that is what the hosts' addresses are.
    fn network(&self, topology: &TunnelTopology) -> NetworkSpec {
        let v6 = serde_json::to_string(topology).unwrap().contains("2001:db8");
        let local = if v6 { format!("2001:db8::{}", self.n) } else { format!("192.0.2.{}", self.n) };
        let span = Span { local: local.parse().unwrap(), topology: topology.clone() };
        NetworkSpec { span: Some(span), ..self.alone() }
    }

    /// The same network without the other host. Its gateway is its own, too.
    fn alone(&self) -> NetworkSpec {
        NetworkSpec::new("wide".parse().unwrap(), format!("10.96.0.{}/24", self.n).parse().unwrap())
    }

    fn container(&self) -> ContainerSpec {
        let addresses = vec![self.address().parse().unwrap()];
        let place = Attachment { addresses, ..Attachment::new(self.alone().name) };
        ContainerSpec { interfaces: eth0(place), ..spec(&format!("c{}", self.n)) }
    }

    /// Its container's, which the other host does not know of.
    fn address(&self) -> String {
        format!("10.96.0.{}", 10 + self.n)
    }

    fn container_pin(&self) -> PathBuf {
        let id = self.host.get(&self.container().name).unwrap().id;
        self.sandbox.paths.containers().join(id.as_str()).join("netns")
    }

    fn mtu(&self) -> Value {
        ip_inside(&self.container_pin(), &["link", "show", "dev", "eth0"])[0]["mtu"].take()
    }

    /// Whether one packet of `bytes` comes back from the other's container, whole.
    fn ping(&self, to: &Self, bytes: u64) -> bool {
        let namespace = format!("--net={}", self.container_pin().display());
        let (size, to) = ((bytes - 28).to_string(), to.address());
        let args = [&*namespace, "ping", "-c1", "-W1", "-M", "do", "-s", &size, &to];
        Command::new("nsenter").args(args).output().unwrap().status.success()
    }

    /// Packets go both ways, as large as they should, and no larger.
    fn meet(&self, other: &Self, mtu: u64) {
        for (from, to) in [(self, other), (other, self)] {
            assert!((0..TRIES).any(|_| from.ping(to, mtu)), "host {} does not reach host {}", from.n, to.n);
            assert!(!from.ping(to, mtu + 1));
            assert_eq!(from.mtu(), mtu);
        }
    }

    /// The names of its links that bear docklet's mark, and are `of` one type.
    fn links(&self, of: &[&str]) -> Vec<String> {
        let links = ip_inside(&self.pin, &[&["link", "show"], of].concat());
        let links = links.as_array().cloned().unwrap_or_default();
        let ours =
            |link: &&Value| link["ifalias"].as_str().is_some_and(|alias| alias.starts_with("docklet:"));
        links.iter().filter(ours).map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
    }

    fn recover(&self) -> Recovered {
        self.on(async |host| host.recover().await.unwrap())
    }

    /// Nothing but the network is made again, and the ports that are named; then there is nothing to do.
    fn recovers(&self, ports: &[&str]) {
        let report = self.recover();
        let name = self.container().name;
        let ports: Vec<_> = ports.iter().map(|port| (name.clone(), LinkName::new(*port).unwrap())).collect();
        assert!(report.complete() && report.orphans.is_empty(), "{report:?}");
        assert_eq!((&report.networks, &report.ports), (&vec!["wide".to_owned()], &ports));
        let report = self.recover();
        assert!(report.complete() && !report.changed(), "{report:?}");
    }

    fn end(self) {
        let (container, network) = (self.container().name, self.alone().name);
        self.on(async |host| {
            host.remove(&container).await.unwrap();
            host.remove_network(&network).await.unwrap();
        });
        assert_eq!(self.links(&[]), Vec::<String>::new());
        assert_eq!(self.run(&["nft", "list", "tables"]), "");
        NetworkNamespace::remove(&self.pin).unwrap();
    }
}

/// Two hosts with a wire between them.
fn sites() -> (Site, Site) {
    let (one, two) = (Site::new(1), Site::new(2));
    kernel::run("ip", ["link", "add", "under1", "type", "veth", "peer", "name", "under2"]);
    for site in [&one, &two] {
        let link = format!("under{}", site.n);
        kernel::run("ip", ["link", "set", &link, "netns", site.pin.to_str().unwrap()]);
        site.run(&["ip", "address", "add", &format!("192.0.2.{}/24", site.n), "dev", &link]);
        site.run(&["ip", "address", "add", &format!("2001:db8::{}/64", site.n), "dev", &link, "nodad"]);
        site.run(&["ip", "link", "set", &link, "up"]);
    }
    (one, two)
}

/// Containers of two hosts meet over the first tunnel, whatever of it is deleted and recovered; and then over the second.
/// Each is told with the largest packet that it carries.
fn check_hosts(kind: &str, tunnels: [(Value, u64); 2]) {
    let _sandbox = Sandbox::new();
    let (one, two) = sites();
    let [(first, mtu), (second, other_mtu)] =
        tunnels.map(|(topology, mtu)| (serde_json::from_value(topology).unwrap(), mtu));
    for site in [&one, &two] {
        let (network, container) = (site.network(&first), site.container());
        site.on(async |host| {
            host.ensure_network(&network).await.unwrap();
            host.launch(container).await.unwrap();
        });
    }
    one.meet(&two, mtu);

    // On one host the tunnel's link is deleted, on the other the bridge, which takes no port along.
    let [tunnel] = &one.links(&["type", kind])[..] else { panic!("one tunnel") };
    one.run(&["ip", "link", "delete", tunnel]);
    assert!(!one.ping(&two, 84));
    one.recovers(&[]);
    one.meet(&two, mtu);
    let [bridge] = &two.links(&["type", "bridge"])[..] else { panic!("one bridge") };
    two.run(&["ip", "link", "delete", bridge]);
    assert!(!one.ping(&two, 84));
    two.recovers(&["eth0"]);
    one.meet(&two, mtu);
    // Both, and all others: what is left is made again, in one go.
    for link in ["bridge", kind, "veth"].iter().flat_map(|kind| two.links(&["type", kind])) {
        two.run(&["ip", "link", "delete", &link]);
    }
    two.run(&["nft", "flush", "ruleset"]);
    two.recovers(&["eth0"]);
    one.meet(&two, mtu);

    // Without the other host packets are of the usual size; then a tunnel of another kind comes.
    for site in [&one, &two] {
        let network = site.alone();
        site.on(async |host| host.apply_network(&network).await.unwrap());
        assert_eq!((site.links(&["type", kind]), site.mtu()), (Vec::new(), 1500.into()));
    }
    assert!(!one.ping(&two, 84));
    for site in [&one, &two] {
        let network = site.network(&second);
        site.on(async |host| host.apply_network(&network).await.unwrap());
    }
    one.meet(&two, other_mtu);
    one.end();
    two.end();
}

#[test]
#[ignore = "needs root: namespaces, mounts, LXC"]
fn two_hosts_share_a_network_over_vxlan() {
    let mesh = json!({"vxlan_mesh": {"vni": 7, "hosts": ["192.0.2.1", "192.0.2.2"]}});
    let star = json!({"vxlan_star": {"hub": "2001:db8::1", "spokes": {"2001:db8::2": 8}}});
    check_hosts("vxlan", [(mesh, 1450), (star, 1430)]);
}

#[test]
#[ignore = "needs root and GRE: namespaces, mounts, LXC"]
fn gre_two_hosts_share_a_network() {
    let mesh = json!({"gre_mesh": {"key": 7, "hosts": ["192.0.2.1", "192.0.2.2"]}});
    let star = json!({"gre_star": {"key": 8, "hub": "2001:db8::1", "spokes": ["2001:db8::2"]}});
    check_hosts("gretap", [(mesh, 1458), (star, 1438)]);
}
