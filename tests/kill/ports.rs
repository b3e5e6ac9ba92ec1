//! Ports of containers, with source guard and rates, as programs to be killed.

use std::process::Command;

use docklet::name::LinkName;
use docklet::net::{
    Bridge, BridgeSpec, LinkOwner, Netlink, NetworkNamespace, Rate, RateLimits, Veth, VethSpec,
};

use crate::operations::scratch;
use crate::parts::say;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const PORTS: u8 = 3;

fn bridge() -> docklet::Result<BridgeSpec> {
    let spec = BridgeSpec::new(LinkName::new("br0")?, LinkOwner::new("docklet-kill/bridge")?);
    Ok(BridgeSpec { addresses: vec!["10.0.0.1/24".parse()?], ..spec })
}

fn port(n: u8) -> docklet::Result<VethSpec> {
    let rate = Some(Rate::megabits(50)?);
    let name = LinkName::new(format!("dkp{n}"))?;
    let owner = LinkOwner::new(format!("docklet-kill/port/{n}"))?;
    Ok(VethSpec {
        addresses: vec![format!("10.0.0.{}/24", n + 2).parse()?],
        gateways: vec![std::net::Ipv4Addr::new(10, 0, 0, 1).into()],
        rates: RateLimits { to_container: rate, from_container: rate },
        ..VethSpec::new(name, owner, bridge()?.name, LinkName::new("eth0")?)
    })
}

fn namespace(n: u8) -> Result<NetworkNamespace> {
    Ok(NetworkNamespace::ensure(&scratch()?.join(format!("netns{n}")))?)
}

/// Runs `job` with a connection.
fn with_net(job: impl AsyncFnOnce(Netlink) -> Result) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { job(Netlink::connect().await?).await })
}

pub(crate) fn prepare() -> Result {
    with_net(async |net| {
        Bridge::ensure(&net, &bridge()?).await?;
        Ok(())
    })
}

pub(crate) fn ensure() -> Result {
    with_net(async |net| {
        Veth::ensure(&net, &namespace(0)?, &port(0)?).await?;
        Ok(())
    })
}

/// Several in one batch.
pub(crate) fn ensure_all() -> Result {
    with_net(async |net| {
        let all = (0..PORTS).map(|n| Ok((namespace(n)?, port(n)?))).collect::<Result<Vec<_>>>()?;
        let pairs: Vec<_> = all.iter().map(|(namespace, spec)| (namespace, spec)).collect();
        Veth::ensure_all(&net, &pairs).await?;
        Ok(())
    })
}

/// Another address, another MTU, other rates.
pub(crate) fn apply() -> Result {
    with_net(async |net| {
        let rates =
            RateLimits { to_container: Some(Rate::megabits(10)?), from_container: Some(Rate::megabits(20)?) };
        let spec = VethSpec {
            addresses: vec!["10.0.0.99/24".parse()?],
            mtu: Some(docklet::net::Mtu::new(1400)?),
            rates,
            ..port(0)?
        };
        Veth::apply(&net, &namespace(0)?, &spec).await?;
        Ok(())
    })
}

pub(crate) fn remove() -> Result {
    with_net(async |net| {
        for n in 0..PORTS {
            let spec = port(n)?;
            Veth::remove(&net, &spec.name, &spec.owner).await?;
            NetworkNamespace::remove(&scratch()?.join(format!("netns{n}")))?;
        }
        Ok(())
    })
}

fn print(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// "present" if there are ports, and each has its mark, its guard and its rates.
pub(crate) fn state() -> Result {
    let links = print("ip", &["-o", "link", "show"])?;
    let mut there = false;
    for n in 0..PORTS {
        let spec = port(n)?;
        let [host, shaper] = Veth::links(&spec.name, &spec.owner).map(|name| name.to_string());
        let line = links.lines().find(|line| line.contains(&format!(" {host}@")));
        if line.is_none() && links.contains(&format!(" {shaper}:")) {
            return Err(format!("{shaper} was left").into());
        }
        let Some(line) = line else { continue };
        there = true;
        let rules = print("tc", &["filter", "show", "dev", &host, "ingress"])?;
        let to = print("tc", &["qdisc", "show", "dev", &host, "root"])?;
        let from = print("tc", &["qdisc", "show", "dev", &shaper, "root"])?;
        for (text, word) in [
            (line, "master br0"),
            (line, ",UP"),
            (line, spec.owner.as_str()),
            (&rules, "direct-action"),
            (&rules, &format!("Redirect to device {shaper}")),
            (&to, "tbf"),
            (&from, "tbf"),
        ] {
            if !text.contains(word) {
                return Err(format!("no {word:?} in {text:?}").into());
            }
        }
    }
    say(there);
    Ok(())
}
