//! The volumes of `parts` on LVM (`man 7 lvmthin`): where a volume group is in the prefix, they are in it. Needs the device
//! mapper, and so runs in the VM tier only.

use std::error::Error;
use std::fs;
use std::process::Command;

use docklet::paths::Paths;
use docklet::storage::{LvmPool, PhysicalSpace, ThinPoolSpec, VolumeGroup, VolumeGroupSpec, VolumePool};

use crate::containers::Result;
use crate::parts;

const THIN_POOL: &str = "thin";
const GROUP_BYTES: u64 = 1 << 30;
const POOL_BYTES: u64 = 900 << 20;

/// What names of a prefix's volume group begin with: its tag follows.
const GROUP: &str = "dkkill";

fn group(paths: &Paths) -> docklet::Result<VolumeGroupSpec> {
    let path = paths.prefix().join("group.img");
    Ok(VolumeGroupSpec {
        name: format!("{GROUP}{}", paths.tag()).parse()?,
        on: PhysicalSpace::LoopFile { path, size_bytes: GROUP_BYTES },
        thin_pool: Some(ThinPoolSpec { name: THIN_POOL.parse()?, size_bytes: POOL_BYTES }),
    })
}

/// A volume group in a file, and what a pool makes once.
pub(crate) fn prepare() -> Result {
    VolumeGroup::ensure(&group(&Paths::from_env()?)?)?;
    parts::make_volume()?;
    parts::remove_volume()
}

/// The pool in the prefix's volume group, if it has one.
pub(crate) fn pool(paths: &Paths) -> docklet::Result<Option<VolumePool>> {
    let group = group(paths)?;
    if !paths.prefix().join("group.img").exists() {
        return Ok(None);
    }
    let lvm = LvmPool { volume_group: group.name, thin_pool: group.thin_pool.map(|pool| pool.name) };
    VolumePool::lvm(paths.volumes(), &lvm).map(Some)
}

/// The device mapper's devices of a prefix: their names, and whether they are held still.
pub(crate) fn mapped(paths: &Paths) -> Vec<String> {
    let group = format!("{GROUP}{}-", paths.tag());
    let entries = fs::read_dir("/sys/block").expect("/sys/block").filter_map(std::result::Result::ok);
    let mapped = entries.map(|entry| entry.path().join("dm")).filter_map(|dm| {
        let name = fs::read_to_string(dm.join("name")).ok()?;
        let suspended = fs::read_to_string(dm.join("suspended")).ok()?;
        name.starts_with(&group).then(|| format!("{} suspended: {}", name.trim(), suspended.trim()))
    });
    mapped.collect()
}

/// What there is in the prefix's volume group but its thin pool, by LVM's word; nothing where there is no group.
pub(crate) fn volumes(paths: &Paths) -> std::result::Result<Vec<String>, Box<dyn Error>> {
    if !paths.prefix().join("group.img").exists() {
        return Ok(Vec::new());
    }
    let group = format!("{GROUP}{}", paths.tag());
    let output = Command::new("lvm").args(["lvs", "--noheadings", "-o", "lv_name", &group]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().filter(|name| *name != THIN_POOL).map(str::to_owned).collect())
}

/// Takes the prefix's volume group down by force.
pub(crate) fn destroy(paths: &Paths) {
    if !paths.prefix().join("group.img").exists() {
        return;
    }
    let group = format!("{GROUP}{}", paths.tag());
    for device in mapped(paths).iter().filter_map(|line| line.split(' ').next()) {
        let _ = Command::new("dmsetup").args(["resume", device]).status();
    }
    let _ = Command::new("lvm").args(["vgremove", "--yes", "-ff", &group]).output();
    let file = paths.prefix().join("group.img");
    let attached = Command::new("losetup").args(["--noheadings", "-O", "NAME", "-j"]).arg(&file).output();
    for device in String::from_utf8_lossy(&attached.expect("losetup").stdout).split_whitespace() {
        let _ = Command::new("losetup").args(["-d", device]).status();
    }
}
