//! Networks of several kinds and containers that move between them, as programs to be killed.

use std::collections::BTreeMap;
use std::error::Error;
use std::num::NonZeroU16;
use std::process::Command;

use docklet::host::{Attachment, ContainerSpec, Forward, Host, IsolationSpec, NetworkSpec, Resolver, Span};
use docklet::lxc::State;
use docklet::name::{LinkName, NetworkName};
use docklet::net::{Denied, Mtu, Port, Protocol, Rate, RateLimits, TunnelTopology, Vni};

use crate::containers::{self, Result, name, spec, with_host};
use crate::parts::say;

type Interfaces = BTreeMap<LinkName, Attachment>;

/// The network that containers are in at first.
fn net() -> std::result::Result<NetworkSpec, Box<dyn Error>> {
    Ok(NetworkSpec { nat: true, ..NetworkSpec::new("net".parse()?, "10.99.0.1/24".parse()?) })
}

/// A second one, of both families.
fn dmz() -> std::result::Result<NetworkSpec, Box<dyn Error>> {
    let gateways = vec!["10.97.0.1/24".parse()?, "fd00:97::1/64".parse()?];
    Ok(NetworkSpec { gateways, ..NetworkSpec::new("dmz".parse()?, "10.97.0.1/24".parse()?) })
}

/// One with everything that a network can have.
fn other() -> std::result::Result<NetworkSpec, Box<dyn Error>> {
    let local = "192.0.2.1".parse()?;
    let hosts = [local, "192.0.2.2".parse()?, "192.0.2.3".parse()?].into();
    let topology = TunnelTopology::VxlanMesh { vni: Vni::new(7)?, port: 4789, hosts };
    Ok(NetworkSpec {
        nat: true,
        reach: ["net".parse()?].into(),
        host_ports: vec![web()],
        span: Some(Span { local, topology }),
        ..NetworkSpec::new("other".parse()?, "10.98.0.1/24".parse()?)
    })
}

fn number(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).expect("not 0")
}

fn web() -> Port {
    Port { protocol: Protocol::Tcp, number: number(80) }
}

fn forward(host_port: u16) -> Forward {
    let host_port = number(host_port);
    Forward { protocol: Protocol::Tcp, host_address: None, host_port, port: number(80) }
}

/// Both networks, with what a place in one can have.
fn wide() -> std::result::Result<Interfaces, Box<dyn Error>> {
    let rate = Some(Rate::megabits(10)?);
    let first = Attachment {
        addresses: vec!["10.99.0.44".parse()?],
        mtu: Some(Mtu::new(1400)?),
        forwards: vec![forward(8080)],
        ..Attachment::new(net()?.name)
    };
    let second = Attachment {
        rates: RateLimits { to_container: rate, from_container: rate },
        // Of the first family: the second one is not forwarded on a host as it comes.
        forwards: vec![Forward { host_address: Some("192.0.2.1".parse()?), ..forward(9090) }],
        ..Attachment::new(dmz()?.name)
    };
    Ok([("eth0".parse()?, first), ("eth1".parse()?, second)].into())
}

/// What stays: a second network, and an address for tunnels.
pub(crate) fn prepare() -> Result {
    containers::prepare()?;
    let added = Command::new("ip").args(["address", "add", "192.0.2.1/32", "dev", "lo"]).status()?;
    assert!(added.success(), "ip: {added}");
    with_host(async |host| Ok(host.ensure_network(&dmz()?).await?))
}

pub(crate) fn launch() -> Result {
    let spec = ContainerSpec { interfaces: wide()?, ..spec()? };
    with_host(async |host| host.launch(spec).await.map(drop).map_err(Into::into))
}

/// One interface more, and the other one changed.
pub(crate) fn widen() -> Result {
    let wanted = wide()?;
    with_host(async |host| host.apply_interfaces(&name(), wanted).await.map(drop).map_err(Into::into))
}

/// One interface less, and the other one changed.
pub(crate) fn narrow() -> Result {
    let wanted = spec()?.interfaces;
    with_host(async |host| host.apply_interfaces(&name(), wanted).await.map(drop).map_err(Into::into))
}

/// Prints "running" if the container runs with the interfaces of before or after, inside and outside, as they are written
/// down.
pub(crate) fn interfaces_state() -> Result {
    with_host(async |host| {
        let info = host.get(&name())?;
        if info.state != State::Running {
            return Err(format!("it is {:?}", info.state).into());
        }
        if info.spec.interfaces != wide()? && info.spec.interfaces != spec()?.interfaces {
            return Err(format!("half changed: {:?}", info.spec.interfaces).into());
        }
        check_inside(&host)?;
        println!("running");
        Ok(())
    })
}

/// By the kernel's word.
fn check_inside(host: &Host) -> Result {
    let info = host.get(&name())?;
    let pin = host.paths().containers().join(info.id.as_str()).join("netns");
    let inside = |args: &[&str]| -> std::result::Result<serde_json::Value, Box<dyn Error>> {
        let output = Command::new("nsenter").arg(format!("--net={}", pin.display())).args(args).output()?;
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    let mut found = BTreeMap::new();
    for link in inside(&["ip", "-j", "address", "show", "scope", "global"])?.as_array().into_iter().flatten()
    {
        // What is left out of the list is an empty object in it.
        let text =
            |info: &serde_json::Value| Some(format!("{}/{}", info["local"].as_str()?, info["prefixlen"]));
        let addresses: Vec<String> =
            link["addr_info"].as_array().into_iter().flatten().filter_map(text).collect();
        if !addresses.is_empty() {
            found
                .insert(link["ifname"].as_str().unwrap_or("?").to_owned(), (addresses, link["mtu"].as_u64()));
        }
    }
    let mut wanted = BTreeMap::new();
    for (interface, shown) in &info.interfaces {
        let networks = host.networks()?;
        let network =
            networks.iter().find(|network| network.name == shown.network).ok_or("no such network")?;
        let largest = network.mtu.unwrap_or(Mtu::ETHERNET);
        let mtu = info.spec.interfaces[interface].mtu.unwrap_or(largest);
        let addresses: Vec<String> = shown.addresses.iter().map(ToString::to_string).collect();
        wanted.insert(interface.to_string(), (addresses, Some(u64::from(mtu.bytes()))));
    }
    if found == wanted { Ok(()) } else { Err(format!("inside there is {found:?}, not {wanted:?}").into()) }
}

/// The network of a running container becomes another one.
pub(crate) fn apply() -> Result {
    let resolver = Resolver { servers: vec!["192.0.2.53".parse()?], search: vec!["lan".parse()?] };
    let changed = NetworkSpec {
        mtu: Some(Mtu::new(1400)?),
        reach: [dmz()?.name].into(),
        host_ports: vec![web()],
        resolver: Some(resolver),
        ..net()?
    };
    with_host(async |host| Ok(host.apply_network(&changed).await?))
}

/// The container goes, and its network is again what it was.
pub(crate) fn restore() -> Result {
    containers::remove()?;
    with_host(async |host| Ok(host.apply_network(&net()?).await?))
}

/// A network with everything.
pub(crate) fn ensure() -> Result {
    with_host(async |host| Ok(host.ensure_network(&other()?).await?))
}

pub(crate) fn remove() -> Result {
    with_host(async |host| Ok(host.remove_network(&other()?.name).await?))
}

pub(crate) fn state() -> Result {
    let name: NetworkName = other()?.name;
    with_host(async |host| {
        say(host.networks()?.iter().any(|spec| spec.name == name));
        Ok(())
    })
}

/// What holds for all networks.
pub(crate) fn apply_isolation() -> Result {
    let denied = [Denied { net: "192.0.2.9/32".parse()?, port: Some(web()) }].into();
    let tunnel_ports = [number(8472)].into();
    let spec = IsolationSpec { pool: ["10.0.0.0/8".parse()?].into(), denied, tunnel_ports };
    with_host(async |host| Ok(host.apply_isolation(&spec).await.map(drop)?))
}

pub(crate) fn clear_isolation() -> Result {
    with_host(async |host| Ok(host.apply_isolation(&IsolationSpec::default()).await.map(drop)?))
}

/// Prints whether it is written down, if the table agrees.
pub(crate) fn isolation_state() -> Result {
    with_host(async |host| {
        let there = host.isolation()? != IsolationSpec::default();
        let rules = host.inventory().await?.nft;
        for entry in ["denied_ports4 192.0.2.9 . tcp . 80", "pool4 10.0.0.0/8", "tunnel_ports 8472"] {
            if rules.iter().any(|rule| rule.ends_with(entry)) != there {
                return Err(format!("written down is {there}, and in the table: {rules:?}").into());
            }
        }
        say(there);
        Ok(())
    })
}
