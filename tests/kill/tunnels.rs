//! A tunnel's part on one host, as programs to be killed. What it looks like is asked of `ip` and `bridge`.

use std::collections::BTreeSet;
use std::process::Command;

use docklet::net::{Bridge, BridgeSpec, LinkOwner, Mtu, Netlink, Tunnel, TunnelSpec};
use serde_json::{Value, json};

use crate::containers::Result;
use crate::parts::say;

fn owner() -> docklet::Result<LinkOwner> {
    LinkOwner::new("docklet-kill/tunnel")
}

fn with_netlink(operation: impl AsyncFnOnce(Netlink) -> Result) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { operation(Netlink::connect().await?).await })
}

/// What a command prints, as JSON. It prints nothing for an empty list.
fn ask(program: &str, args: &[&str]) -> std::result::Result<Vec<Value>, Box<dyn std::error::Error>> {
    let output = Command::new(program).args(args).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(if output.stdout.is_empty() { Vec::new() } else { serde_json::from_slice(&output.stdout)? })
}

/// An underlay, and a bridge for the tunnel.
pub(crate) fn prepare() -> Result {
    for args in [
        &["link", "add", "under", "up", "type", "bridge"][..],
        &["address", "add", "192.0.2.1/24", "dev", "under"],
    ] {
        if !Command::new("ip").args(args).status()?.success() {
            return Err(format!("ip {}", args.join(" ")).into());
        }
    }
    with_netlink(async |net| {
        let mtu = Some(Mtu::new(1450)?);
        let bridge = BridgeSpec { mtu, ..BridgeSpec::new("br0".parse()?, owner()?) };
        Bridge::ensure(&net, &bridge).await?;
        Ok(())
    })
}

fn ensure(topology: Value) -> Result {
    with_netlink(async |net| {
        let spec = TunnelSpec {
            owner: owner()?,
            bridge: "br0".parse()?,
            local: "192.0.2.1".parse()?,
            topology: serde_json::from_value(topology)?,
            mtu: None,
        };
        if Tunnel::ensure(&net, &spec).await?.changed() {
            println!("changed");
        }
        Ok(())
    })
}

pub(crate) fn ensure_mesh() -> Result {
    ensure(json!({"vxlan_mesh": {"vni": 5, "hosts": ["192.0.2.1", "192.0.2.2", "192.0.2.3"]}}))
}

/// One peer goes, another one comes.
pub(crate) fn change_mesh() -> Result {
    ensure(json!({"vxlan_mesh": {"vni": 5, "hosts": ["192.0.2.1", "192.0.2.3", "192.0.2.4"]}}))
}

/// The hub's part, with a link for each spoke.
pub(crate) fn ensure_star() -> Result {
    ensure(json!({"vxlan_star": {"hub": "192.0.2.1", "spokes": {"192.0.2.2": 5, "192.0.2.3": 6}}}))
}

/// One spoke goes, another one comes.
pub(crate) fn change_star() -> Result {
    ensure(json!({"vxlan_star": {"hub": "192.0.2.1", "spokes": {"192.0.2.3": 6, "192.0.2.4": 7}}}))
}

pub(crate) fn remove() -> Result {
    with_netlink(async |net| Ok(Tunnel::remove(&net, &owner()?).await?))
}

/// "present" if all links are whole and lead to just `peers`, "absent" if there are none.
fn state(links: usize, peers: &[&str]) -> Result {
    let found = ask("ip", &["-j", "-d", "link", "show", "type", "vxlan"])?;
    let mut flooded = BTreeSet::new();
    for link in &found {
        let up = link["flags"].as_array().is_some_and(|flags| flags.contains(&"UP".into()));
        if !up || link["master"] != "br0" || link["ifalias"] != owner()?.as_str() || link["mtu"] != 1450 {
            return Err(format!("not whole: {link}").into());
        }
        let name = link["ifname"].as_str().unwrap_or_default();
        for entry in ask("bridge", &["-j", "fdb", "show", "dev", name])? {
            flooded.extend(entry["dst"].as_str().map(str::to_owned));
        }
    }
    let expected: BTreeSet<_> = peers.iter().map(|peer| (*peer).to_owned()).collect();
    if !found.is_empty() && (found.len() != links || flooded != expected) {
        return Err(format!("{} links to {flooded:?}", found.len()).into());
    }
    say(!found.is_empty());
    Ok(())
}

pub(crate) fn mesh_state() -> Result {
    state(1, &["192.0.2.2", "192.0.2.3"])
}

pub(crate) fn changed_mesh_state() -> Result {
    state(1, &["192.0.2.3", "192.0.2.4"])
}

pub(crate) fn star_state() -> Result {
    state(2, &["192.0.2.2", "192.0.2.3"])
}

pub(crate) fn changed_star_state() -> Result {
    state(2, &["192.0.2.3", "192.0.2.4"])
}
