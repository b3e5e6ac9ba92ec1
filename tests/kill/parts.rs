//! What a host has besides containers, networks and images, as programs to be killed: a volume.

use std::fs;
use std::io::Write;
use std::process::Command;

use docklet::name::{SnapshotName, VolumeName};
use docklet::paths::Paths;
use docklet::storage::{Allocation, Filesystem, SnapshotSpec, Volume, VolumePool, VolumeSpec};

use crate::containers::Result;
use crate::{logical, quotas};

const SMALL_BYTES: u64 = 64 << 20;
const LARGE_BYTES: u64 = 512 << 20;

fn volume() -> VolumeName {
    VolumeName::new("data").expect("a name")
}

/// In the prefix's volume group or on its file system with quotas if it has one, else in files.
fn pool() -> docklet::Result<VolumePool> {
    let paths = Paths::from_env()?;
    let special = logical::pool(&paths)?.map_or_else(|| quotas::pool(&paths), |pool| Ok(Some(pool)))?;
    special.map_or_else(|| VolumePool::loop_files(paths.volumes()), Ok)
}

fn make(filesystem: Filesystem, size_bytes: u64) -> Result {
    pool()?.ensure(&VolumeSpec { name: volume(), size_bytes, filesystem, allocation: Allocation::Sparse })?;
    Ok(())
}

pub(crate) fn make_volume() -> Result {
    let is_directory = quotas::directory(&Paths::from_env()?).exists();
    make(if is_directory { Filesystem::Directory } else { Filesystem::Ext4 }, SMALL_BYTES)
}

pub(crate) fn make_xfs() -> Result {
    make(Filesystem::Xfs, 300 << 20)
}

pub(crate) fn make_btrfs() -> Result {
    make(Filesystem::Btrfs, 256 << 20)
}

pub(crate) fn grow() -> Result {
    Ok(pool()?.open(&volume())?.grow(LARGE_BYTES)?)
}

pub(crate) fn remove_volume() -> Result {
    let pool = pool()?;
    match pool.open(&volume()) {
        Err(docklet::Error::NotFound { .. }) => {}
        volume => volume?.unmount()?,
    }
    Ok(pool.remove(&volume())?)
}

/// "present" if there is a whole one, of whatever size.
pub(crate) fn made_state() -> Result {
    let there = match pool()?.open(&volume()) {
        Err(docklet::Error::NotFound { .. }) => false,
        volume => {
            let volume = volume?;
            check(&volume)?;
            volume.mount()?;
            volume.unmount()?;
            true
        }
    };
    let logical = logical::volumes(&Paths::from_env()?)?;
    if !there && !logical.is_empty() {
        return Err(format!("left in the volume group: {logical:?}").into());
    }
    say(there);
    Ok(())
}

/// By the file system's own program; a directory, by the kernel's word on its limit.
fn check(volume: &Volume) -> Result {
    if volume.spec().filesystem == Filesystem::Directory {
        let (limit, used) = (volume.spec().size_bytes >> 10, quotas::projects(&Paths::from_env()?));
        let is_held = used.len() == 1 && used[0].split(',').any(|field| field == limit.to_string());
        return if is_held { Ok(()) } else { Err(format!("it is not held to {limit} KiB: {used:?}").into()) };
    }
    let (program, options) = match volume.spec().filesystem {
        Filesystem::Xfs => ("xfs_repair", &["-n"][..]),
        Filesystem::Btrfs => ("btrfs", &["check", "--readonly"][..]),
        _ => ("e2fsck", &["-f", "-n"][..]),
    };
    let checked = Command::new(program).args(options).arg(volume.file()).output()?;
    if checked.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned().into())
}

fn memory() -> docklet::Result<VolumePool> {
    VolumePool::tmpfs(Paths::from_env()?.prefix().join("memory"))
}

pub(crate) fn make_tmpfs() -> Result {
    let (filesystem, allocation) = (Filesystem::Tmpfs, Allocation::Sparse);
    memory()?.ensure(&VolumeSpec { name: volume(), size_bytes: SMALL_BYTES, filesystem, allocation })?;
    Ok(())
}

pub(crate) fn remove_tmpfs() -> Result {
    Ok(memory()?.remove(&volume())?)
}

pub(crate) fn tidy_tmpfs() -> Result {
    memory()?.tidy()?.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// "present" if it is there, mounted as it should be.
pub(crate) fn tmpfs_state() -> Result {
    let there = !memory()?.list()?.is_empty();
    if there {
        let usage = memory()?.open(&volume())?.usage()?;
        assert_eq!(usage.size_bytes, SMALL_BYTES);
    }
    say(there);
    Ok(())
}

fn snapshot() -> SnapshotName {
    SnapshotName::new("then").expect("a name")
}

fn clone() -> VolumeName {
    VolumeName::new("clone").expect("a name")
}

/// A volume that is mounted, with a file in it.
pub(crate) fn mount_volume() -> Result {
    make_volume()?;
    let mounted = pool()?.open(&volume())?.mount()?;
    let mut file = fs::File::create(mounted.path().join("file"))?;
    file.write_all(b"then")?;
    Ok(file.sync_all()?)
}

/// The same, not mounted.
pub(crate) fn fill_volume() -> Result {
    mount_volume()?;
    Ok(pool()?.open(&volume())?.unmount()?)
}

/// A volume with a snapshot, and another content now.
pub(crate) fn keep_volume() -> Result {
    fill_volume()?;
    snapshot_volume()?;
    let volume = pool()?.open(&volume())?;
    fs::write(volume.mount()?.path().join("file"), "now")?;
    Ok(volume.unmount()?)
}

pub(crate) fn snapshot_volume() -> Result {
    pool()?.open(&volume())?.snapshot(&SnapshotSpec::new(snapshot())).map(drop)?;
    Ok(())
}

pub(crate) fn rollback() -> Result {
    Ok(pool()?.open(&volume())?.rollback(&snapshot())?)
}

pub(crate) fn clone_volume() -> Result {
    pool()?.clone_snapshot(&volume(), &snapshot(), &clone()).map(drop)?;
    Ok(())
}

pub(crate) fn remove_snapshot() -> Result {
    Ok(pool()?.open(&volume())?.remove_snapshot(&snapshot())?)
}

pub(crate) fn recover_volumes() -> Result {
    let mut said = pool()?.recover()?;
    said.extend(pool()?.tidy()?);
    said.iter().for_each(|line| println!("{line}"));
    Ok(())
}

/// "present" if the volume, its snapshot and its clone are whole, as far as they are there, and nobody waits for them.
pub(crate) fn snapshot_state() -> Result {
    let (pool, name) = (pool()?, volume());
    let held = pool.open(&name)?;
    let mounted = fs::read_to_string("/proc/thread-self/mountinfo")?.contains("/mounts/data ");
    if mounted {
        let target = Paths::from_env()?.volumes().join("mounts/data");
        let frozen = Command::new("fsfreeze").arg("--unfreeze").arg(&target).output()?.status.success();
        if frozen {
            return Err("it was left frozen".into());
        }
        fs::write(target.join("after"), "it can be written to")?;
    }
    let content = fs::read_to_string(held.mount()?.path().join("file"))?;
    let there = !held.snapshots()?.is_empty();
    if there && held.snapshots()?[0].size_bytes != SMALL_BYTES {
        return Err("half a snapshot".into());
    }
    if !["then", "now"].contains(&content.as_str()) {
        return Err(format!("it holds {content:?}").into());
    }
    held.unmount()?;
    for name in pool.list()? {
        check(&pool.open(&name)?)?;
    }
    if mounted {
        held.mount()?;
    }
    say(true);
    Ok(())
}

/// The volume, its snapshot and its clone.
pub(crate) fn remove_volumes() -> Result {
    let pool = pool()?;
    remove_snapshot()?;
    pool.remove(&clone())?;
    remove_volume()?;
    let logical = logical::volumes(&Paths::from_env()?)?;
    if logical.is_empty() { Ok(()) } else { Err(format!("left in the volume group: {logical:?}").into()) }
}

/// "present" if it has its new size and is whole.
pub(crate) fn volume_state() -> Result {
    let volume = pool()?.open(&volume())?;
    volume.unmount()?;
    check(&volume)?;
    volume.mount()?;
    let usage = volume.usage();
    volume.unmount()?;
    // xfs has its log of 64 MiB beside.
    if usage?.size_bytes < LARGE_BYTES / 10 * 8 {
        return Err("it has not grown".into());
    }
    say(true);
    Ok(())
}

pub(crate) fn say(present: bool) {
    println!("{}", if present { "present" } else { "absent" });
}
