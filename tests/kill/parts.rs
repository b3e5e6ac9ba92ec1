//! What a host has besides containers and images, as programs to be killed: a network, a volume.

use std::process::Command;

use docklet::host::NetworkSpec;
use docklet::name::{NetworkName, VolumeName};
use docklet::paths::Paths;
use docklet::storage::{Allocation, Filesystem, VolumePool, VolumeSpec};

use crate::containers::{Result, with_host};

const SMALL_BYTES: u64 = 64 << 20;
const LARGE_BYTES: u64 = 256 << 20;

fn network() -> NetworkName {
    "other".parse().expect("a name")
}

fn volume() -> VolumeName {
    VolumeName::new("data").expect("a name")
}

/// A second network.
pub(crate) fn ensure_network() -> Result {
    with_host(async |host| {
        let gateway = "10.98.0.1/24".parse()?;
        Ok(host.ensure_network(&NetworkSpec { name: network(), gateway, nat: true, mtu: None }).await?)
    })
}

pub(crate) fn remove_network() -> Result {
    with_host(async |host| Ok(host.remove_network(&network()).await?))
}

pub(crate) fn network_state() -> Result {
    with_host(async |host| {
        say(host.networks()?.iter().any(|spec| spec.name == network()));
        Ok(())
    })
}

fn pool() -> docklet::Result<VolumePool> {
    VolumePool::loop_files(Paths::from_env()?.volumes())
}

pub(crate) fn make_volume() -> Result {
    let (filesystem, allocation) = (Filesystem::Ext4, Allocation::Sparse);
    pool()?.ensure(&VolumeSpec { name: volume(), size_bytes: SMALL_BYTES, filesystem, allocation })?;
    Ok(())
}

pub(crate) fn grow() -> Result {
    Ok(pool()?.open(&volume())?.grow(LARGE_BYTES)?)
}

pub(crate) fn remove_volume() -> Result {
    let pool = pool()?;
    pool.open(&volume())?.unmount()?;
    Ok(pool.remove(&volume())?)
}

/// "present" if it has its new size and is whole.
pub(crate) fn volume_state() -> Result {
    let volume = pool()?.open(&volume())?;
    volume.unmount()?;
    let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(volume.file()).output()?;
    if !checked.status.success() {
        return Err(String::from_utf8_lossy(&checked.stdout).into_owned().into());
    }
    volume.mount()?;
    let usage = volume.usage();
    volume.unmount()?;
    if usage?.size_bytes < LARGE_BYTES / 10 * 9 {
        return Err("it has not grown".into());
    }
    say(true);
    Ok(())
}

pub(crate) fn say(present: bool) {
    println!("{}", if present { "present" } else { "absent" });
}
