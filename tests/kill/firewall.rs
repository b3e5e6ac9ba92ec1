//! The firewall's table, as programs to be killed: it says one thing or the other, never half of one.

use docklet::net::{Firewall, Ruleset};
use serde_json::json;

use crate::containers::Result;
use crate::parts::say;

fn firewall() -> docklet::Result<Firewall> {
    Firewall::new("docklet-kill")
}

/// Two networks; the published ports differ.
fn ruleset(ports: &[u16]) -> std::result::Result<Ruleset, serde_json::Error> {
    let forwards: Vec<_> = ports
        .iter()
        .map(|port| json!({ "owner": "box", "protocol": "tcp", "host_port": port, "to": "10.98.0.2:80" }))
        .collect();
    serde_json::from_value(json!({
        "networks": [
            { "owner": "one", "bridge": "dkone", "subnets": ["10.98.0.0/24"], "masquerade": true },
            { "owner": "two", "bridge": "dktwo", "subnets": ["10.98.1.0/24"], "reach": ["10.98.0.0/24"] },
        ],
        "forwards": forwards,
    }))
}

fn apply(ports: &[u16]) -> std::result::Result<bool, Box<dyn std::error::Error>> {
    Ok(firewall()?.apply(&ruleset(ports)?)?)
}

/// How many ports are published; `None` without a table.
fn published() -> docklet::Result<Option<usize>> {
    let entries = firewall()?.current()?;
    Ok(entries.map(|entries| entries.iter().filter(|entry| entry.starts_with("any4 ")).count()))
}

pub(crate) fn prepare() -> Result {
    apply(&[8001]).map(drop)
}

pub(crate) fn change() -> Result {
    apply(&[8001, 8002, 8003]).map(drop)
}

/// The same change again; what it finds is whole.
pub(crate) fn recover() -> Result {
    let found = published()?;
    if !matches!(found, Some(1 | 3)) {
        return Err(format!("{found:?} published ports").into());
    }
    if apply(&[8001, 8002, 8003])? {
        println!("table");
    }
    Ok(())
}

/// A whole table or none goes.
pub(crate) fn finish_removal() -> Result {
    let found = published()?;
    if !matches!(found, None | Some(1)) {
        return Err(format!("{found:?} published ports").into());
    }
    remove()
}

pub(crate) fn remove() -> Result {
    Ok(firewall()?.remove()?)
}

pub(crate) fn state() -> Result {
    say(published()?.is_some());
    Ok(())
}
