//! Input ten thousand entries long.

use std::time::Instant;

use docklet::Error;
use docklet::net::{
    Bridge, BridgeSpec, Denied, Netlink, NetworkNamespace, Protocol, Ruleset, Tunnel, TunnelSpec, Veth,
    VethSpec,
};
use docklet::name::LinkName;

use crate::firewall::{forward, network, port, table};
use crate::sandbox::Sandbox;
use crate::{bridge, kernel, veth};

const MANY: u16 = 10_000;

fn tick<T>(what: &str, f: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let r = f();
    eprintln!("PROBE {what}: {:?}", start.elapsed());
    r
}

#[test]
#[ignore = "needs root: probe"]
fn probe_forwards() {
    let sandbox = Sandbox::new();
    let firewall = table(&sandbox);
    let mut rules = Ruleset {
        networks: vec![network("dk0", &["10.1.0.0/16"])],
        forwards: (0..MANY)
            .map(|n| forward(Protocol::Tcp, None, 1 + n, &format!("10.1.{}.{}:80", n / 200, 2 + n % 200)))
            .collect(),
        ..Ruleset::default()
    };
    tick("forwards apply", || firewall.apply(&rules).unwrap());
    tick("forwards again", || assert!(!firewall.apply(&rules).unwrap()));
    let last = rules.forwards.pop().unwrap();
    tick("one less", || firewall.apply(&rules).unwrap());
    rules.forwards.push(last);
    tick("one more", || firewall.apply(&rules).unwrap());
    tick("check unused", || docklet::net::PortForward::check_unused(&rules.forwards).unwrap());
    for f in &mut rules.forwards { f.host_port = (20000 + f.host_port.get()).try_into().unwrap(); }
    tick("all other", || firewall.apply(&rules).unwrap());
    rules.forwards.clear();
    tick("none", || firewall.apply(&rules).unwrap());
    firewall.remove().unwrap();
}

#[test]
#[ignore = "needs root: probe"]
fn probe_subnets() {
    let sandbox = Sandbox::new();
    let firewall = table(&sandbox);
    let nets = |a: u8| (0..MANY).map(move |n| format!("10.{}.{}.{}/30", a + (n / 64 / 256) as u8, (n / 64) % 256, n % 64 * 4));
    for which in 0..5 {
        let mut rules = Ruleset { networks: vec![network("dk0", &["192.168.0.0/16"])], ..Ruleset::default() };
        match which {
            0 => rules.networks[0].reach = nets(2).map(|n| n.parse().unwrap()).collect(),
            1 => rules.pool = nets(2).map(|n| n.parse().unwrap()).collect(),
            2 => rules.denied = nets(2).map(|n| Denied { net: n.parse().unwrap(), port: None }).collect(),
            3 => rules.denied = nets(2).map(|n| Denied { net: n.parse().unwrap(), port: Some(port(Protocol::Tcp, 80)) }).collect(),
            _ => rules.networks[0].admit = nets(2).map(|n| n.parse().unwrap()).collect(),
        }
        tick(&format!("subnets {which} apply"), || firewall.apply(&rules).unwrap());
        tick("again", || assert!(!firewall.apply(&rules).unwrap()));
        firewall.remove().unwrap();
    }
    let rules = Ruleset {
        networks: (0..MANY).map(|n| network(&format!("dk{n}"), &[&nets(2).nth(n.into()).unwrap()])).collect(),
        forwards: (0..MANY)
            .map(|n| forward(Protocol::Tcp, None, 1 + n, &format!("{}:80", nets(2).nth(n.into()).unwrap().replace("/30", "").parse::<std::net::Ipv4Addr>().map(|ip| std::net::Ipv4Addr::from(u32::from(ip) + 2)).unwrap())))
            .collect(),
        denied: nets(100).map(|n| Denied { net: n.parse().unwrap(), port: None }).collect(),
        ..Ruleset::default()
    };
    tick("check all", || rules.check().unwrap());
    tick("apply all", || firewall.apply(&rules).unwrap());
    tick("again", || assert!(!firewall.apply(&rules).unwrap()));
    firewall.remove().unwrap();
}

#[tokio::test]
#[ignore = "needs root: probe"]
async fn probe_links() {
    let sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let spec = BridgeSpec {
        addresses: (0..MANY).map(|n| format!("10.{}.{}.1/24", n / 256, n % 256).parse().unwrap()).collect(),
        ..bridge::spec(&[])
    };
    for _ in 0..2 {
        let start = Instant::now();
        let r = Bridge::ensure(&net, &spec).await;
        eprintln!("PROBE bridge addresses {:?} {:?}", start.elapsed(), r.map(|b| b.changed()));
    }
    let start = Instant::now();
    Bridge::remove(&net, &spec.name, &spec.owner).await.unwrap();
    eprintln!("PROBE bridge remove {:?}", start.elapsed());

    Bridge::ensure(&net, &bridge::spec(&["10.0.0.1/8"])).await.unwrap();
    let pin = sandbox.dir("netns").join("1");
    let namespace = NetworkNamespace::ensure(&pin).unwrap();
    let specs: Vec<VethSpec> = (0..1024u16)
        .map(|n| VethSpec {
            inner_name: LinkName::new(format!("eth{n}")).unwrap(),
            name: LinkName::new(format!("dkl{n}")).unwrap(),
            gateways: Vec::new(), addresses: vec![format!("10.1.{}.{}/8", n / 200, 2 + n % 200).parse().unwrap()], ..veth::spec(1) })
        .collect();
    let pairs: Vec<_> = specs.iter().map(|spec| (&namespace, spec)).collect();
    let start = Instant::now();
    let r = Veth::ensure_all(&net, &pairs).await;
    eprintln!("PROBE veth {:?} {:?} links {}", start.elapsed(), r.map(|v| v.len()), kernel::links().len());
    for n in [256, 512, 768, 1023] {
        let start = Instant::now();
        let r = Veth::ensure_all(&net, &pairs[..n]).await;
        eprintln!("PROBE veth {n} {:?} {:?} links {}", start.elapsed(), r.map(|v| v.len()), kernel::links().len());
    }
    let r = Veth::ensure(&net, &namespace, &specs[1023]).await;
    eprintln!("PROBE one more {r:?}");
    drop(pairs); drop(namespace); NetworkNamespace::remove(&pin).unwrap();
    while kernel::links().len() > 2 { std::thread::sleep(std::time::Duration::from_millis(100)); }
    Bridge::remove(&net, &spec.name, &spec.owner).await.unwrap();
    let hosts: Vec<String> = (0..MANY).map(|n| format!("10.9.{}.{}", n / 200, 2 + n % 200)).collect();
    kernel::run("ip", ["link", "add", "under", "type", "ifb"]);
    kernel::run("ip", ["addr", "add", "10.9.0.2/16", "dev", "under"]);
    kernel::run("ip", ["link", "set", "under", "up"]);
    Bridge::ensure(&net, &BridgeSpec { mtu: Some(docklet::net::Mtu::new(1400).unwrap()), ..bridge::spec(&[]) }).await.unwrap();
    let tunnel: TunnelSpec = serde_json::from_value(serde_json::json!({"owner": "docklet-test/t", "bridge": "br0", "local": "10.9.0.2",
        "topology": {"vxlan_mesh": {"vni": 5, "hosts": hosts}}})).unwrap();
    for _ in 0..2 {
        let start = Instant::now();
        let r = Tunnel::ensure(&net, &tunnel).await;
        eprintln!("PROBE mesh {:?} {:?}", start.elapsed(), r.map(|t| t.changed()));
    }
    Tunnel::remove(&net, &tunnel.owner).await.unwrap();
    let spokes: std::collections::BTreeMap<_, _> = hosts[1..3000].iter().enumerate().map(|(n, h)| (h.clone(), n + 1)).collect();
    let tunnel: TunnelSpec = serde_json::from_value(serde_json::json!({"owner": "docklet-test/t", "bridge": "br0", "local": "10.9.0.2",
        "topology": {"vxlan_star": {"hub": "10.9.0.2", "spokes": spokes}}})).unwrap();
    let start = Instant::now();
    let r = Tunnel::ensure(&net, &tunnel).await;
    eprintln!("PROBE star {:?} {:?} links {}", start.elapsed(), r.map(|t| t.changed()).map_err(|e: Error| e.to_string()), kernel::links().len());
    Tunnel::remove(&net, &tunnel.owner).await.unwrap();
    Bridge::remove(&net, &spec.name, &spec.owner).await.unwrap();
    kernel::run("ip", ["link", "del", "under"]);
}
