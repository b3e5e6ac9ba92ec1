//! Bridges and their ports, as programs to be killed. A link that stands for any other is made once, by `ip`.

use std::process::Command;

use docklet::name::LinkName;
use docklet::net::{Bridge, BridgeSpec, LinkOwner, Mtu, Netlink, PortSettings};

use crate::parts::say;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const BRIDGE: &str = "dkbridge";
const PORT: &str = "dkport";
const PORT_OWNER: &str = "docklet-kill/port";

fn spec() -> docklet::Result<BridgeSpec> {
    Ok(BridgeSpec {
        addresses: vec!["10.97.0.1/24".parse()?, "fd00:97::1/64".parse()?],
        mtu: Some(Mtu::new(1400)?),
        stp: true,
        ageing_seconds: Some(30),
        ..BridgeSpec::new(LinkName::new(BRIDGE)?, LinkOwner::new("docklet-kill/bridge")?)
    })
}

fn with_netlink(work: impl AsyncFnOnce(Netlink) -> Result) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { work(Netlink::connect().await?).await })
}

fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        Ok(String::from_utf8(output.stdout)?)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
    }
}

/// A link that can be a port.
pub(crate) fn make_port() -> Result {
    ip(&["link", "add", PORT, "type", "veth", "peer", "name", "dkpeer"])?;
    ip(&["link", "set", PORT, "alias", PORT_OWNER])?;
    Ok(())
}

/// Says so if it changed anything.
pub(crate) fn ensure() -> Result {
    with_netlink(async |net| {
        if Bridge::ensure(&net, &spec()?).await?.changed() {
            println!("bridge");
        }
        Ok(())
    })
}

pub(crate) fn remove() -> Result {
    with_netlink(async |net| Ok(Bridge::remove(&net, &spec()?.name, &spec()?.owner).await?))
}

/// Says so if it changed anything.
pub(crate) fn attach() -> Result {
    with_netlink(async |net| {
        let bridge = Bridge::open(&net, &spec()?.name, &spec()?.owner).await?;
        let settings = PortSettings { isolated: true, learning: false, ..PortSettings::default() };
        if bridge.attach(&net, &LinkName::new(PORT)?, &LinkOwner::new(PORT_OWNER)?, &settings).await? {
            println!("port");
        }
        Ok(())
    })
}

pub(crate) fn detach() -> Result {
    with_netlink(async |net| {
        let bridge = Bridge::open(&net, &spec()?.name, &spec()?.owner).await?;
        Ok(bridge.detach(&net, &LinkName::new(PORT)?).await?)
    })
}

/// "present" if it is there, and whole.
pub(crate) fn state() -> Result {
    let there = !ip(&["-br", "link", "show", "type", "bridge"])?.is_empty();
    if there {
        expect(
            &ip(&["-d", "address", "show", BRIDGE])?,
            &[
                "mtu 1400",
                "stp_state 1",
                "ageing_time 3000",
                "10.97.0.1/24",
                "fd00:97::1/64",
                "alias docklet-kill/bridge",
            ],
        )?;
    }
    say(there);
    Ok(())
}

pub(crate) fn attached_state() -> Result {
    let shown = ip(&["-d", "link", "show", PORT])?;
    expect(&shown, &[&format!("master {BRIDGE}"), "isolated on", "learning off"])?;
    state()
}

pub(crate) fn detached_state() -> Result {
    let shown = ip(&["-d", "link", "show", PORT])?;
    if shown.contains("master") {
        return Err(shown.into());
    }
    state()
}

fn expect(shown: &str, words: &[&str]) -> Result {
    match words.iter().find(|word| !shown.contains(**word)) {
        Some(word) => Err(format!("not {word}: {shown}").into()),
        None => Ok(()),
    }
}
