//! What is a tmpfs's own: it is there all the time, in memory, until a reboot (`man 5 tmpfs`).

use std::fs;

use docklet::Error;
use docklet::storage::{Allocation, Filesystem, ProvisionRatio, SnapshotSpec, VolumePool, VolumeSpec};

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::stage::{space_of, together};
use crate::volume::{MIB, message, pool, spec};

fn wanted() -> VolumeSpec {
    VolumeSpec { filesystem: Filesystem::Tmpfs, ..spec("data", 16 * MIB) }
}

fn in_memory(sandbox: &Sandbox) -> VolumePool {
    VolumePool::tmpfs(sandbox.dir("memory")).expect("pool")
}

#[test]
#[ignore = "needs root: mounts"]
fn tmpfs_is_bounded_in_size_and_inodes() {
    let sandbox = Sandbox::new();
    let pool = in_memory(&sandbox);
    let mut volume = pool.ensure(&wanted()).expect("ensure");
    let space = volume.mount().expect("mount");
    let line = &kernel::mounts_beneath(space.path())[0];
    for part in ["size=16384k", "nr_inodes=1024", "mode=755", "noatime"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    volume.grow(64 * MIB).expect("grow");
    assert_eq!(space_of(&space).0, 64 * MIB);
    let line = &kernel::mounts_beneath(space.path())[0];
    for part in ["size=65536k", "nr_inodes=4096", "mode=755", "noatime"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    volume.unmount().expect("unmount");
    pool.remove(&volume.spec().name).expect("remove");
}

#[test]
#[ignore = "needs root: mounts"]
fn tmpfs_is_in_its_own_pools_only() {
    let sandbox = Sandbox::new();
    let (memory, disk) = (in_memory(&sandbox), pool(&sandbox));
    for refused in [
        memory.ensure(&VolumeSpec { size_bytes: 1 << 30, ..spec("data", 0) }),
        memory.ensure(&VolumeSpec { filesystem: Filesystem::Xfs, size_bytes: 1 << 30, ..wanted() }),
        memory.ensure(&VolumeSpec { allocation: Allocation::Preallocated, ..wanted() }),
        disk.ensure(&wanted()),
    ] {
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    }
    assert_eq!(memory.list().expect("list"), []);
    assert_eq!(disk.list().expect("list"), []);
    assert_eq!(kernel::mounts_beneath(sandbox.paths.prefix()), Vec::<String>::new());
}

#[test]
#[ignore = "needs root: mounts"]
fn tmpfs_has_no_snapshots() {
    let sandbox = Sandbox::new();
    let pool = in_memory(&sandbox);
    let volume = pool.ensure(&wanted()).expect("ensure");
    let refused = volume.snapshot(&SnapshotSpec::new("then".parse().expect("name")));
    assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    assert_eq!(volume.snapshots().expect("list"), []);
    pool.remove(&volume.spec().name).expect("remove");
}

#[test]
#[ignore = "needs root: mounts"]
fn tmpfs_is_promised_against_memory() {
    let sandbox = Sandbox::new();
    let pool = in_memory(&sandbox);
    let text = fs::read_to_string("/proc/meminfo").expect("meminfo");
    let line = text.lines().find(|line| line.starts_with("MemTotal:")).expect("MemTotal");
    let total: u64 = line.split_whitespace().nth(1).expect("number").parse().expect("number");
    let total = total * 1024 / 4096 * 4096;
    let refused = pool.ensure(&VolumeSpec { size_bytes: total, ..wanted() }).expect_err("refused");
    assert!(matches!(refused, Error::NoSpace { .. }), "{refused}");
    assert_eq!(kernel::mounts_beneath(sandbox.paths.prefix()), Vec::<String>::new());
    let generous = pool.clone().with_provision_ratio(ProvisionRatio::percent(10_000).expect("ratio"));
    let mut volume = generous.ensure(&VolumeSpec { size_bytes: total, ..wanted() }).expect("promised");
    assert!(matches!(
        pool.ensure(&VolumeSpec { name: "more".parse().expect("name"), ..wanted() }),
        Err(Error::NoSpace { .. })
    ));
    assert!(matches!(
        pool.open(&volume.spec().name).expect("open").grow(2 * total),
        Err(Error::NoSpace { .. })
    ));
    volume.grow(2 * total).expect("grow");
    pool.remove(&volume.spec().name).expect("remove");
}

#[test]
#[ignore = "needs root: mounts"]
fn tmpfs_lost_with_a_reboot_is_told() {
    let sandbox = Sandbox::new();
    let pool = in_memory(&sandbox);
    let volume = pool.ensure(&wanted()).expect("ensure");
    // What a reboot leaves: no mount, and the record of another boot.
    kernel::unmount(volume.file());
    let name = &volume.spec().name;
    assert_eq!(
        message(pool.open(name)),
        "volume `data`, which was in memory and was unmounted by somebody else, does not exist"
    );
    let record = sandbox.dir("memory").join("records/data");
    fs::write(&record, "3b2a7c9e-0000-4000-8000-000000000000").expect("write");
    let lost = "volume `data`, which was in memory and was lost with a reboot, does not exist";
    assert_eq!(message(pool.open(name)), lost);
    assert_eq!(message(volume.mount()), lost);
    assert_eq!(message(volume.usage()), lost);
    assert_eq!(message(volume.clone().grow(32 * MIB)), lost);
    assert_eq!(pool.list().expect("list"), []);
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
    assert_eq!(message(pool.open(name)), lost, "nothing was made in its place");
    // Whoever asks for one gets an empty one.
    let volume = pool.ensure(&wanted()).expect("ensure");
    assert_eq!(fs::read_dir(volume.mount().expect("mount").path()).expect("list").count(), 0);
    volume.unmount().expect("unmount");
    pool.remove(name).expect("remove");
    assert_eq!(message(pool.open(name)), "volume `data` does not exist");
}

/// A crash between the mount and its record.
#[test]
#[ignore = "needs root: mounts"]
fn tmpfs_half_made_is_tidied() {
    let sandbox = Sandbox::new();
    let pool = in_memory(&sandbox);
    let held = sandbox.dir("memory").join("held");
    for name in ["half", "data"] {
        fs::create_dir(held.join(name)).expect("mkdir");
        kernel::run("mount", ["-t", "tmpfs", "half", held.join(name).to_str().expect("UTF-8")]);
    }
    fs::create_dir(held.join("less")).expect("mkdir");
    assert_eq!(pool.list().expect("list"), []);
    let volume = pool.ensure(&wanted()).expect("ensure");
    let removed = pool.tidy().expect("tidy");
    assert_eq!(removed.len(), 2, "{removed:?}");
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
    assert_eq!(kernel::mounts_beneath(&held).len(), 1);
    assert_eq!(fs::read_dir(&held).expect("list").count(), 1);
    pool.remove(&volume.spec().name).expect("remove");
    assert_eq!(fs::read_dir(&held).expect("list").count(), 0);
}

/// Each fits alone, and no two together.
#[test]
#[ignore = "needs root: mounts"]
fn tmpfs_growth_is_promised_to_one_of_many() {
    let sandbox = Sandbox::new();
    let pool = in_memory(&sandbox);
    let names: Vec<String> = (0..8).map(|index| format!("v{index}")).collect();
    let large = available_memory() / 4096 * 4096 / 5 * 3 / 4096 * 4096;
    for _ in 0..20 {
        let volumes: Vec<_> = names
            .iter()
            .map(|name| {
                pool.ensure(&VolumeSpec { name: name.parse().expect("name"), ..wanted() }).expect("ensure")
            })
            .collect();
        let grown = together(volumes.len(), |index| volumes[index].clone().grow(large));
        let sizes =
            volumes.iter().map(|volume| pool.open(&volume.spec().name).expect("open").spec().size_bytes);
        assert_eq!(sizes.filter(|size| *size == large).count(), 1, "{grown:?}");
        assert_eq!(grown.iter().filter(|result| result.is_ok()).count(), 1);
        for volume in &volumes {
            pool.remove(&volume.spec().name).expect("remove");
        }
    }
}

fn available_memory() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("meminfo");
    let line = text.lines().find(|line| line.starts_with("MemAvailable:")).expect("MemAvailable");
    line.split_whitespace().nth(1).expect("number").parse::<u64>().expect("number") * 1024
}
