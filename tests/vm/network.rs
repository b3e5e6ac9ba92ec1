//! Networks of every kind, with containers in them, that must come through any reboot and any flush as they were.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use docklet::host::{
    Attachment, ContainerSpec, Forward, Host, Init, NetworkSpec, Outcome, Resolver, RootVolume, Span,
};
use docklet::lxc::State;
use docklet::name::LinkName;
use docklet::net::{GreKey, Port, Protocol, Rate, RateLimits, TunnelTopology, Vni};
use serde_json::Value;

use crate::{Result, busybox, sh};

const NETWORKS: [&str; 4] = ["deep", "dmz", "lan", "wide"];
/// A container's interfaces and the networks that those are in.
type Places = &'static [(&'static str, &'static str)];
/// Whether each runs, and where it is.
const CONTAINERS: [(&str, bool, Places); 4] = [
    ("app", true, &[("eth0", "dmz")]),
    ("db", true, &[("eth0", "lan"), ("eth1", "deep")]),
    ("idle", false, &[("eth0", "lan")]),
    ("web", true, &[("eth0", "lan"), ("eth1", "wide")]),
];
/// A port of the host that its own processes serve.
const HOST_PORT: u16 = 7070;

fn networks() -> Result<[NetworkSpec; 4]> {
    let network = |name: &str, gateways: &[&str]| -> Result<NetworkSpec> {
        let gateways =
            gateways.iter().map(|gateway| gateway.parse()).collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(NetworkSpec { gateways: gateways.clone(), ..NetworkSpec::new(name.parse()?, gateways[0]) })
    };
    let hosts = ["198.51.100.1".parse()?, "198.51.100.2".parse()?];
    let spans = |topology| Some(Span { local: hosts[0], topology });
    let vxlan = TunnelTopology::VxlanMesh { vni: Vni::new(7)?, port: 4789, hosts: hosts.into() };
    let gre = TunnelTopology::GreMesh { key: GreKey::new(9)?, hosts: hosts.into() };
    Ok([
        NetworkSpec {
            ageing_seconds: Some(60),
            admit: vec!["192.0.2.0/24".parse()?],
            ..network("dmz", &["10.78.0.1/24", "fd00:78::1/64"])?
        },
        NetworkSpec {
            nat: true,
            reach: ["dmz".parse()?].into(),
            host_ports: vec![Port { protocol: Protocol::Tcp, number: number(HOST_PORT)? }],
            resolver: Some(Resolver { servers: vec!["192.0.2.53".parse()?], search: vec!["lan".parse()?] }),
            ..network("lan", &["10.77.0.1/24", "fd00:77::1/64"])?
        },
        NetworkSpec { span: spans(vxlan), ..network("wide", &["10.79.0.1/24"])? },
        NetworkSpec { span: spans(gre), ..network("deep", &["10.80.0.1/24"])? },
    ])
}

fn number(port: u16) -> Result<NonZeroU16> {
    NonZeroU16::new(port).ok_or_else(|| "port 0".into())
}

/// A container that says its name to whoever connects to its port 80.
fn spec(host: &Host, name: &str, places: &[(&str, &str)]) -> Result<ContainerSpec> {
    let forward = |host_address, host_port| -> Result<Forward> {
        let (host_port, port) = (number(host_port)?, number(80)?);
        Ok(Forward { protocol: Protocol::Tcp, host_address, host_port, port })
    };
    let mut interfaces = BTreeMap::new();
    for (interface, network) in places {
        let mut place = Attachment::new(network.parse()?);
        match (name, *interface) {
            ("web", "eth0") => {
                place.forwards = vec![forward(None, 8080)?];
                let (to_container, from_container) = (Some(Rate::megabits(50)?), Some(Rate::megabits(20)?));
                place.rates = RateLimits { to_container, from_container };
            }
            ("db", "eth0") => place.forwards = vec![forward(Some("192.0.2.1".parse()?), 8081)?],
            ("app", _) => place.addresses = vec!["10.78.0.50".parse()?, "fd00:78::50".parse()?],
            _ => {}
        }
        interfaces.insert(LinkName::new(*interface)?, place);
    }
    let command = ["/bin/nc", "-ll", "-p", "80", "-e", "/bin/hostname"].map(str::to_owned).into();
    Ok(ContainerSpec {
        interfaces,
        volume: RootVolume { size_bytes: 64 << 20, ..RootVolume::default() },
        init: Init { command, ..Init::default() },
        ..ContainerSpec::new(name.parse()?, busybox::ensure(host.images(), &"busybox".parse()?)?.name)
    })
}

/// Makes all of it, and notes what the kernel says then.
pub(crate) async fn make(host: &Host) -> Result {
    for network in networks()? {
        host.ensure_network(&network).await?;
    }
    for (name, runs, places) in CONTAINERS {
        host.launch(spec(host, name, places)?).await?;
        if !runs {
            host.stop(&name.parse()?, Duration::ZERO).await?;
        }
    }
    check(host).await?;
    Ok(fs::write(expected(host), dump(host)?)?)
}

fn expected(host: &Host) -> PathBuf {
    host.paths().prefix().join("expected-network")
}

/// After a boot: what ran is started, and all is as it was.
pub(crate) async fn back(host: &Host) -> Result {
    mend(host, Outcome::Started, &BTreeSet::new()).await
}

/// All that the kernel has of networks is taken from under the containers, which go on: they get it back.
pub(crate) async fn flush(host: &Host) -> Result {
    let running = || -> Result<Vec<_>> {
        let running = CONTAINERS.iter().filter(|(_, runs, _)| *runs);
        running.map(|(name, ..)| Ok(host.runtime(&name.parse()?)?.init_pid()?)).collect()
    };
    let before = running()?;
    run(None, "nft", &["flush", "ruleset"])?;
    for link in links(None)? {
        run(None, "ip", &["link", "delete", &link])?;
    }
    let ports = CONTAINERS.iter().filter(|(_, runs, _)| *runs).flat_map(|(name, _, places)| {
        places.iter().map(|(interface, _)| ((*name).to_owned(), (*interface).to_owned()))
    });
    mend(host, Outcome::Unchanged, &ports.collect()).await?;
    if running()? != before {
        return Err("a container was started again".into());
    }
    Ok(())
}

/// One recovery does to those that should run what `outcome` says, and makes the networks and `ports` again; then
/// everything is as it was, and a second recovery changes nothing.
async fn mend(host: &Host, outcome: Outcome, ports: &BTreeSet<(String, String)>) -> Result {
    let first = host.recover().await?;
    let told = serde_json::to_string(&first)?;
    let outcomes = CONTAINERS
        .iter()
        .map(|(name, runs, _)| Ok((name.parse()?, if *runs { outcome.clone() } else { Outcome::Unchanged })));
    let made = first.ports.iter().map(|(name, interface)| (name.to_string(), interface.to_string()));
    if !first.complete()
        || first.containers != outcomes.collect::<Result<Vec<_>>>()?
        || first.networks != NETWORKS
        || made.collect::<BTreeSet<_>>() != *ports
    {
        return Err(format!("the first recovery did {told}").into());
    }
    check(host).await?;
    let now = dump(host)?;
    differ("what was there and what is", &fs::read_to_string(expected(host))?, &now)?;
    let second = host.recover().await?;
    if second.changed() || !second.complete() {
        return Err(format!("a second recovery did {}", serde_json::to_string(&second)?).into());
    }
    differ("the first recovery and the second", &now, &dump(host)?)
}

/// Who should answer does, and who should not does not.
async fn check(host: &Host) -> Result {
    let _served = TcpListener::bind(("0.0.0.0", HOST_PORT))?;
    let answers =
        |address: &str| format!("ping -c 1 -w 20 {address} > /dev/null || {{ echo {address}; exit 1; }}");
    let serves = format!("nc -w 2 10.77.0.1 {HOST_PORT} -e /bin/true");
    for (name, addresses, last) in [
        // By name in its network, to a network that it may reach, over the tunnel, and out by the host's addresses.
        (
            "web",
            &["db", "-6 db", "10.78.0.50", "fd00:78::50", "10.79.0.77", "192.0.2.2", "2001:db8:1::2"][..],
            serves.clone(),
        ),
        ("db", &["web", "10.80.0.77", "192.0.2.2"], serves.clone()),
        ("app", &["10.78.0.1", "fd00:78::1"], format!("! {serves} && ! ping -c 1 -W 2 10.77.0.1")),
    ] {
        let lines: Vec<String> = addresses.iter().map(|address| answers(address)).chain([last]).collect();
        sh(host, &name.parse()?, &lines.join("\n")).await?;
    }
    if host.get(&"idle".parse()?)?.state != State::Stopped {
        return Err("`idle` runs".into());
    }
    let outside = Path::new("/run/netns/outside");
    for (address, port, name) in [
        ("192.0.2.1", "8080", "web"),
        ("2001:db8:1::1", "8080", "web"),
        ("192.0.2.1", "8081", "db"),
        ("10.78.0.50", "80", "app"),
    ] {
        let said = run(Some(outside), "busybox", &["nc", "-w", "10", address, port])?;
        if said.trim() != name {
            return Err(format!("{said:?} is said at port {port} of {address}, not {name:?}").into());
        }
    }
    Ok(())
}

/// What the kernel says of this host's networks and of the containers' interfaces, and what those are told of names.
fn dump(host: &Host) -> Result<String> {
    let mut text = vec![run(None, "nft", &["list", "ruleset"])?, network(None)?];
    text.push(fs::read_to_string("/proc/sys/net/ipv4/ip_forward")?);
    for (name, runs, _) in CONTAINERS {
        let directory = host.paths().containers().join(host.get(&name.parse()?)?.id.as_str());
        text.push(name.to_owned());
        for file in ["hosts", "resolv.conf"] {
            let file = fs::read_to_string(directory.join(file))?;
            let mut lines: Vec<_> = file.lines().filter(|line| !line.starts_with('#')).collect();
            lines.sort_unstable();
            text.push(lines.join("\n"));
        }
        if runs {
            text.push(network(Some(&directory.join("netns")))?);
        }
    }
    Ok(text.join("\n"))
}

/// Links with their addresses, routes, forwarding entries, queues and filters.
fn network(namespace: Option<&Path>) -> Result<String> {
    let links = links(namespace)?;
    let ours = |item: &Value| {
        let name = ["ifname", "dev"].iter().find_map(|key| item[*key].as_str());
        name.is_some_and(|name| links.iter().any(|link| link == name))
    };
    let mut text = Vec::new();
    for (program, args) in [
        ("ip", &["-j", "-d", "address", "show"][..]),
        ("ip", &["-j", "-4", "route", "show", "table", "all"]),
        ("ip", &["-j", "-6", "route", "show", "table", "all"]),
        ("bridge", &["-j", "fdb", "show"]),
        ("tc", &["-j", "qdisc", "show"]),
    ] {
        let mut items: Vec<Value> = serde_json::from_str(&run(namespace, program, args)?)?;
        // What a bridge has learnt by itself is not permanent.
        items.retain(|item| ours(item) && (program != "bridge" || item["state"] == "permanent"));
        items.iter_mut().for_each(forget);
        let mut lines: Vec<String> = items.iter().map(Value::to_string).collect();
        lines.sort();
        text.append(&mut lines);
    }
    for link in &links {
        text.push(format!("{link}\n{}", run(namespace, "tc", &["filter", "show", "dev", link, "ingress"])?));
    }
    Ok(text.join("\n"))
}

/// Takes out what the kernel numbers, measures and finds out anew each time.
fn forget(item: &mut Value) {
    match item {
        Value::Object(fields) => {
            let volatile = ["ifindex", "link_index", "link_netnsid", "operstate"];
            fields.retain(|name, _| !volatile.contains(&name.as_str()) && !name.contains("timer"));
            fields.values_mut().for_each(forget);
        }
        Value::Array(items) => {
            items.retain(|item| item != "NO-CARRIER");
            items.iter_mut().for_each(forget);
            items.sort_by_key(Value::to_string);
        }
        _ => {}
    }
}

/// The links in a container's namespace, or those of the host that bear docklet's mark.
fn links(namespace: Option<&Path>) -> Result<Vec<String>> {
    let links: Vec<Value> = serde_json::from_str(&run(namespace, "ip", &["-j", "link", "show"])?)?;
    let ours = |link: &&Value| {
        namespace.is_some() || link["ifalias"].as_str().is_some_and(|alias| alias.starts_with("docklet:"))
    };
    let named = links.iter().filter(ours).filter_map(|link| link["ifname"].as_str().map(str::to_owned));
    Ok(named.collect::<BTreeSet<_>>().into_iter().collect())
}

/// What a program of the host's prints in a network namespace.
fn run(namespace: Option<&Path>, program: &str, args: &[&str]) -> Result<String> {
    let mut command = match namespace {
        None => Command::new(program),
        Some(path) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net={}", path.display())).arg(program);
            command
        }
    };
    let output = command.args(args).output()?;
    if !output.status.success() {
        return Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// An error that tells each line which only one of the two has.
fn differ(what: &str, one: &str, other: &str) -> Result {
    if one == other {
        return Ok(());
    }
    let only = |mark, of: &str, than: &str| -> Vec<String> {
        let mut rest: Vec<&str> = of.lines().collect();
        for line in than.lines() {
            rest.iter().position(|other| *other == line).map(|n| rest.remove(n));
        }
        rest.into_iter().map(|line| format!("{mark} {line}")).collect()
    };
    let lines = [only('-', one, other), only('+', other, one)].concat();
    Err(format!("{what} differ:\n{}", lines.join("\n")).into())
}
