//! What loop files take of the disk, and growing them (`man 2 fallocate`).

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use docklet::Error;
use docklet::storage::{Allocation, ProvisionRatio, SnapshotSpec, VolumePool, VolumeSpec};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::kernel;
use crate::loop_files::{FILESYSTEMS, smallest};
use crate::sandbox::Sandbox;
use crate::stage::{check_whole, space_of};
use crate::volume::{MIB, message, pool, spec};

pub(crate) fn preallocated(name: &str, size_bytes: u64) -> VolumeSpec {
    VolumeSpec { allocation: Allocation::Preallocated, ..spec(name, size_bytes) }
}

/// A pool on a file system of its own, of 100 MiB.
fn small_pool(sandbox: &Sandbox) -> (PathBuf, VolumePool) {
    let disk = sandbox.dir("disk");
    kernel::run("mount", ["-t", "tmpfs", "-o", "size=100m", "small", disk.to_str().expect("UTF-8")]);
    let pool = VolumePool::loop_files(disk.join("pool")).expect("pool");
    (disk, pool)
}

fn unmount(disk: &Path) {
    kernel::unmount(disk);
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn volume_space_is_taken_when_preallocated() {
    let sandbox = Sandbox::new();
    let (disk, pool) = small_pool(&sandbox);
    let volume = pool.ensure(&preallocated("data", 50 * MIB)).expect("ensure");
    assert!(fs::metadata(volume.file()).expect("stat").blocks() * 512 >= 50 * MIB);
    assert_eq!(volume.usage().expect("usage").allocated_bytes, 50 * MIB);
    // Not even a generous ratio takes what is not there.
    let generous = pool.clone().with_provision_ratio(ProvisionRatio::percent(1000).expect("ratio"));
    assert!(matches!(generous.ensure(&preallocated("more", 70 * MIB)), Err(Error::NoSpace { .. })));
    let mut volume = generous.open(&volume.spec().name).expect("open");
    assert!(matches!(volume.grow(110 * MIB), Err(Error::NoSpace { .. })));
    let after = fs::metadata(volume.file()).expect("stat");
    assert_eq!((after.len(), after.blocks() * 512), (50 * MIB, 50 * MIB));
    assert!(message(pool.ensure(&spec("data", 50 * MIB))).contains("allocation is preallocated, not sparse"));

    // What was discarded is taken again.
    kernel::run(
        "fallocate",
        ["--punch-hole", "--offset=41943040", "--length=4194304", volume.file().to_str().expect("UTF-8")],
    );
    assert_eq!(volume.usage().expect("usage").allocated_bytes, 46 * MIB);
    let volume = pool.ensure(&preallocated("data", 50 * MIB)).expect("ensure");
    assert_eq!(volume.usage().expect("usage").allocated_bytes, 50 * MIB);
    assert_eq!(pool.list().expect("list").len(), 1);
    unmount(&disk);
}

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_space_stays_preallocated_when_it_grows() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    for filesystem in FILESYSTEMS {
        let wanted = VolumeSpec { allocation: Allocation::Preallocated, ..smallest(filesystem) };
        let mut volume = pool.ensure(&wanted).expect("ensure");
        let allocated =
            |volume: &docklet::storage::Volume| fs::metadata(volume.file()).expect("stat").blocks() * 512;
        assert!(allocated(&volume) >= wanted.size_bytes);
        volume.grow(640 * MIB).expect("grow");
        assert!(allocated(&volume) >= 640 * MIB);
        let space = volume.mount().expect("mount");
        fs::write(space.path().join("file"), vec![7; 5 << 20]).expect("write");
        fs::remove_file(space.path().join("file")).expect("unlink");
        volume.unmount().expect("unmount");
        assert!(allocated(&volume) >= 640 * MIB, "nothing is discarded: {}", allocated(&volume));
        pool.remove(&wanted.name).expect("remove");
    }
}

/// Growing a mounted ext4 is CAP_SYS_RESOURCE's; a root without it is told so, and nothing happens.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_space_of_ext4_takes_a_capability() {
    let sandbox = Sandbox::new();
    let mut volume = pool(&sandbox).ensure(&spec("data", 64 * MIB)).expect("ensure");
    volume.mount().expect("mount");
    let all = capabilities(None).expect("capget");
    let mut fewer = all;
    fewer.effective.remove(CapabilitySet::SYS_RESOURCE);
    set_capabilities(None, fewer).expect("capset");
    let refused = message(volume.grow(128 * MIB));
    set_capabilities(None, all).expect("capset");
    assert!(
        refused.contains("growing volume `data` while it is mounted") && refused.contains("CAP_SYS_RESOURCE"),
        "{refused}"
    );
    assert_eq!(fs::metadata(volume.file()).expect("stat").len(), 64 * MIB);
    volume.unmount().expect("unmount");
    kernel::run("e2fsck", ["-f", "-n", volume.file().to_str().expect("UTF-8")]);
}

/// A crash after the file got longer and before its file system did.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_space_growth_is_finished_after_a_crash() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    let mark = "trusted.docklet.growing";
    for filesystem in FILESYSTEMS {
        let volume = pool.ensure(&smallest(filesystem)).expect("ensure");
        rustix::fs::setxattr(volume.file(), mark, b"1", rustix::fs::XattrFlags::empty()).expect("setxattr");
        File::options()
            .write(true)
            .open(volume.file())
            .and_then(|f| f.set_len(640 * MIB))
            .expect("ftruncate");
        let wanted = VolumeSpec { size_bytes: 640 * MIB, ..smallest(filesystem) };
        let volume = pool.ensure(&wanted).expect("ensure finishes it");
        assert!(rustix::fs::getxattr(volume.file(), mark, &mut [0_u8; 4]).is_err());
        let space = volume.mount().expect("mount");
        assert!(space_of(&space).0 > 550 * MIB, "{:?}", space_of(&space));
        volume.unmount().expect("unmount");
        check_whole(filesystem, &volume.file());
        pool.remove(&wanted.name).expect("remove");
    }
}

const GROWING: &str = "trusted.docklet.growing";

/// Killed between taking the space of a preallocated volume and making it longer, and then asked for as it was.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn volume_space_taken_behind_its_end_is_given_back() {
    let sandbox = Sandbox::new();
    let (disk, pool) = small_pool(&sandbox);
    let volume = pool.ensure(&preallocated("data", 20 * MIB)).expect("ensure");
    let file = volume.file();
    let shown = file.to_str().expect("UTF-8");
    let blocks = || fs::metadata(&file).expect("stat").blocks() * 512;
    for as_asked in [true, false] {
        rustix::fs::setxattr(&file, GROWING, b"1", rustix::fs::XattrFlags::empty()).expect("setxattr");
        kernel::run("fallocate", ["--keep-size", "--length=62914560", shown]);
        assert_eq!(blocks(), 60 * MIB);
        let size_bytes = if as_asked { 20 * MIB } else { 24 * MIB };
        if as_asked {
            pool.ensure(&preallocated("data", size_bytes)).expect("ensure");
        } else {
            pool.open(&volume.spec().name).expect("open").grow(size_bytes).expect("grow");
        }
        assert_eq!((fs::metadata(&file).expect("stat").len(), blocks()), (size_bytes, size_bytes));
        assert!(rustix::fs::getxattr(&file, GROWING, &mut [0_u8; 8][..]).is_err());
    }
    unmount(&disk);
}

/// Where blocks are not shared, going back takes room for a copy: not that which others were promised.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn volume_space_that_was_promised_is_not_taken_by_a_rollback() {
    let sandbox = Sandbox::new();
    let (disk, pool) = small_pool(&sandbox);
    let mut volume = pool.ensure(&preallocated("data", 32 * MIB)).expect("ensure");
    let then = SnapshotSpec::new("then".parse().expect("name"));
    fs::write(volume.mount().expect("mount").path().join("file"), vec![7; 24 << 20]).expect("write");
    volume.unmount().expect("unmount");
    volume.snapshot(&then).expect("snapshot");
    let other = pool.ensure(&spec("other", 32 * MIB)).expect("ensure");
    let refused = volume.rollback(&then.name);
    assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
    assert_eq!(fs::read_dir(disk.join("pool/files")).expect("list").count(), 2);
    pool.remove(&other.spec().name).expect("remove");
    volume.rollback(&then.name).expect("there is room now");
    unmount(&disk);
}
