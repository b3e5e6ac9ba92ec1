//! A volume's life, and what must never happen to data that is already there.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use docklet::Result;
use docklet::error::Chain;
use docklet::name::VolumeName;
use docklet::storage::{Allocation, Filesystem, Volume, VolumePool, VolumeSpec};

use crate::kernel;
use crate::sandbox::Sandbox;

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn spec(name: &str, size_bytes: u64) -> VolumeSpec {
    VolumeSpec {
        name: VolumeName::new(name).expect("name"),
        size_bytes,
        filesystem: Filesystem::Ext4,
        allocation: Allocation::Sparse,
    }
}

pub(crate) fn preallocated(name: &str, size_bytes: u64) -> VolumeSpec {
    VolumeSpec { allocation: Allocation::Preallocated, ..spec(name, size_bytes) }
}

pub(crate) fn pool(sandbox: &Sandbox) -> VolumePool {
    VolumePool::loop_files(sandbox.paths.volumes()).expect("pool")
}

pub(crate) fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    Chain(&result.expect_err("must be refused")).to_string()
}

/// What `losetup` says of the device that shows `file`.
fn loop_of(file: &Path) -> serde_json::Value {
    let columns = "NAME,BACK-FILE,AUTOCLEAR,DIO,RO,OFFSET";
    let list = kernel::json(
        "losetup",
        ["--json", "--list", "--output", columns, "--associated", file.to_str().expect("UTF-8")],
    );
    let devices = list["loopdevices"].as_array().cloned().unwrap_or_default();
    assert_eq!(devices.len(), 1, "{list}");
    devices[0].clone()
}

fn file_of(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.paths.volumes().join(format!("files/{name}.img"))
}

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_lives_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    let wanted = spec("data", 64 * MIB);
    let volume = pool.ensure(&wanted).expect("ensure");
    assert_eq!(volume.file(), file_of(&sandbox, "data"));
    assert_eq!(fs::metadata(volume.file()).expect("stat").len(), 64 * MIB);
    assert_eq!(pool.list().expect("list"), std::slice::from_ref(&wanted.name));
    kernel::run("e2fsck", ["-f", "-n", volume.file().to_str().expect("UTF-8")]);

    let space = volume.mount().expect("mount");
    let device = loop_of(&volume.file());
    assert_eq!(
        (&device["autoclear"], &device["ro"], &device["offset"]),
        (&true.into(), &false.into(), &0.into())
    );
    assert_eq!(device["dio"], true, "{device}");
    let mounts = kernel::mounts_beneath(space.path());
    assert_eq!(mounts.len(), 1);
    for part in ["noatime", " - ext4 ", device["name"].as_str().expect("name"), "errors=remount-ro"] {
        assert!(mounts[0].contains(part), "{part} in {}", mounts[0]);
    }
    fs::write(space.path().join("file"), "kept").expect("write");

    let again = pool.open(&wanted.name).expect("open").mount().expect("mount again");
    assert_eq!(again, space);
    assert_eq!(kernel::mounts_beneath(space.path()).len(), 1);
    assert_eq!(pool.ensure(&wanted).expect("adopt").spec(), &wanted);

    assert!(message(pool.remove(&wanted.name)).contains("volume `data` is busy: it is mounted on"));
    volume.unmount().expect("unmount");
    assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()), Vec::<String>::new());
    volume.unmount().expect("what is not mounted is unmounted");
    kernel::run("e2fsck", ["-f", "-n", volume.file().to_str().expect("UTF-8")]);

    let space = volume.mount().expect("mount once more");
    assert_eq!(fs::read_to_string(space.path().join("file")).expect("read"), "kept");
    volume.unmount().expect("unmount");
    pool.remove(&wanted.name).expect("remove");
    assert!(!volume.file().exists() && !space.path().exists());
    pool.remove(&wanted.name).expect("what is gone is removed");
    assert_eq!(message(pool.open(&wanted.name)), "volume `data` does not exist");
    assert_eq!(message(volume.mount()), "volume `data` does not exist");
    volume.unmount().expect("what is gone is unmounted");
}

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_usage_is_the_kernels() {
    let sandbox = Sandbox::new();
    let volume = pool(&sandbox).ensure(&spec("data", 128 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    let file = fs::File::create(space.path().join("file")).expect("create");
    std::io::Write::write_all(&mut &file, &vec![1; 10 << 20]).expect("write");
    file.sync_all().expect("fsync");
    drop(file);
    let figures = kernel::run("stat", ["-f", "-c", "%b %f %a %S", space.path().to_str().expect("UTF-8")]);
    let figures: Vec<u64> = figures.split_whitespace().map(|n| n.parse().expect("number")).collect();
    let usage = volume.usage().expect("usage");
    assert_eq!(usage.size_bytes, figures[0] * figures[3]);
    assert_eq!(usage.used_bytes, (figures[0] - figures[1]) * figures[3]);
    assert_eq!(usage.available_bytes, figures[2] * figures[3]);
    assert!((10 * MIB..40 * MIB).contains(&usage.allocated_bytes), "{usage:?}");
    assert!(usage.size_bytes > 100 * MIB, "nothing is reserved for root: {usage:?}");
    volume.unmount().expect("unmount");
    let at_rest = volume.usage().expect("usage at rest");
    assert_eq!((at_rest.size_bytes, at_rest.used_bytes), (usage.size_bytes, usage.used_bytes));
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn volume_that_exists_otherwise_is_not_touched() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    let volume = pool.ensure(&spec("data", 32 * MIB)).expect("ensure");
    let before = fs::read(volume.file()).expect("read");
    let before_stat = fs::metadata(volume.file()).expect("stat");
    for (other, parts) in [
        (spec("data", 64 * MIB), vec!["size_bytes is 33554432, not 67108864"]),
        (preallocated("data", 32 * MIB), vec!["allocation is sparse, not preallocated"]),
        (
            preallocated("data", 16 * MIB),
            vec!["size_bytes is 33554432, not 16777216", "allocation is sparse"],
        ),
    ] {
        let message = message(pool.ensure(&other));
        assert!(message.starts_with("volume `data` exists but differs: "), "{message}");
        for part in parts {
            assert!(message.contains(part), "{message}");
        }
    }
    let after_stat = fs::metadata(volume.file()).expect("stat");
    assert!(fs::read(volume.file()).expect("read") == before, "the bytes changed");
    assert_eq!((after_stat.ino(), after_stat.mtime_nsec()), (before_stat.ino(), before_stat.mtime_nsec()));
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn volume_never_formats_over_data() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    let file = file_of(&sandbox, "data");
    let wanted = spec("data", 32 * MIB);
    let xfs_like = [b"XFSB".to_vec(), vec![0; 32 << 20]].concat()[..32 << 20].to_vec();
    for content in [Vec::new(), b"important".to_vec(), vec![0x5a; 32 << 20], xfs_like] {
        fs::write(&file, &content).expect("write");
        let message = message(pool.ensure(&wanted));
        assert!(
            message.contains("no file system known here, not ext4; it is never formatted over"),
            "{message}"
        );
        assert!(fs::read(&file).expect("read") == content, "the bytes changed");
        assert!(pool.open(&wanted.name).is_err());
    }
    // ext2 has the same magic number.
    let target = file.to_str().expect("UTF-8");
    fs::write(&file, vec![0; 32 << 20]).expect("write");
    kernel::run("mkfs.ext2", ["-q", target]);
    assert!(message(pool.ensure(&wanted)).contains("no file system known here"));
    fs::remove_file(&file).expect("unlink");

    let elsewhere = sandbox.dir("elsewhere").join("file");
    fs::write(&elsewhere, "important").expect("write");
    symlink(&elsewhere, &file).expect("symlink");
    assert!(message(pool.ensure(&wanted)).contains("not a regular file"));
    assert_eq!(fs::read(&elsewhere).expect("read"), b"important");
    fs::remove_file(&file).expect("unlink");
    kernel::run("mkfifo", [target]);
    assert!(message(pool.ensure(&wanted)).contains("not a regular file"));
    fs::remove_file(&file).expect("unlink");
    fs::create_dir(&file).expect("mkdir");
    assert!(message(pool.ensure(&wanted)).contains("not a regular file"));
    fs::remove_dir(&file).expect("rmdir");
    pool.ensure(&wanted).expect("the name is free now");
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn volume_bad_input_changes_nothing() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    for (size, rule) in [
        (0, "at least 16777216"),
        (4096, "at least 16777216"),
        (64 * MIB + 1, "multiple of 4096"),
        (u64::MAX, "less than 17592186044416"),
    ] {
        let message = message(pool.ensure(&spec("data", size)));
        assert!(message.starts_with("invalid volume size") && message.contains(rule), "{message}");
    }
    assert_eq!(pool.list().expect("list"), []);
    assert_eq!(fs::read_dir(sandbox.paths.volumes().join("templates")).expect("list").count(), 0);
    assert!(message(VolumePool::loop_files("volumes")).contains("must be an absolute path"));
    assert!(message(VolumePool::loop_files("/nowhere/volumes")).contains("mkdir on /nowhere/volumes"));
}

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_file_that_cannot_be_written_is_not_mounted() {
    let sandbox = Sandbox::new();
    let volume = pool(&sandbox).ensure(&spec("data", 32 * MIB)).expect("ensure");
    let file = volume.file();
    let shown = file.to_str().expect("UTF-8");
    kernel::run("mount", ["--bind", "-o", "ro", shown, shown]);
    let refused = message(volume.mount());
    kernel::run("umount", [shown]);
    assert!(
        refused.contains("volume `data` is not possible on this host: a file that can be written"),
        "{refused}"
    );
    kernel::run("chattr", ["+i", shown]);
    let refused = message(volume.mount());
    kernel::run("chattr", ["-i", shown]);
    assert!(refused.contains("a file that can be written"), "{refused}");
    assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()), Vec::<String>::new());
}

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_adopts_the_loop_device_of_its_file() {
    let sandbox = Sandbox::new();
    let volume = pool(&sandbox).ensure(&spec("data", 32 * MIB)).expect("ensure");
    let file = volume.file();
    let shown = file.to_str().expect("UTF-8");
    let device = kernel::run("losetup", ["--find", "--show", shown]);
    volume.mount().expect("mount");
    assert_eq!(loop_of(&file)["name"], device.trim());
    volume.unmount().expect("unmount");
    assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()), Vec::<String>::new());

    for options in [["--read-only", "--find"], ["--offset=4096", "--find"]] {
        let device = kernel::run("losetup", options.into_iter().chain(["--show", shown]));
        let refused = message(volume.mount());
        let cannot_remove = message(pool(&sandbox).remove(&volume.spec().name));
        kernel::run("losetup", ["--detach", device.trim()]);
        assert!(refused.contains("is busy") && refused.contains("losetup -d"), "{refused}");
        assert!(cannot_remove.contains("is busy"), "{cannot_remove}");
    }
    volume.mount().expect("mount");
    volume.unmount().expect("unmount");
}

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_leaves_foreign_mounts_alone() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    let volume = pool.ensure(&spec("data", 32 * MIB)).expect("ensure");
    let target = sandbox.paths.volumes().join("mounts/data");
    fs::create_dir(&target).expect("mkdir");
    let shown = target.to_str().expect("UTF-8");
    kernel::run("mount", ["-t", "tmpfs", "foreign", shown]);
    assert!(message(volume.mount()).contains("something else is mounted"));
    assert!(message(volume.unmount()).contains("something else is mounted"));
    assert!(message(pool.remove(&volume.spec().name)).contains("is busy"));
    assert_eq!(kernel::mounts_beneath(&target).len(), 1);
    kernel::run("umount", [shown]);
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn volume_without_mkfs_names_the_package() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    kernel::run("mount", ["-t", "tmpfs", "hidden", "/usr/sbin"]);
    let refused = message(pool.ensure(&spec("data", 32 * MIB)));
    Command::new("umount").arg("/usr/sbin").status().expect("umount");
    assert!(refused.contains("install the package e2fsprogs"), "{refused}");
    assert_eq!(pool.list().expect("list"), []);
}

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_in_use_says_by_what() {
    let sandbox = Sandbox::new();
    let volume = pool(&sandbox).ensure(&spec("data", 32 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    let mut sleeper = Command::new("sleep").arg("60").current_dir(space.path()).spawn().expect("sleep");
    let refused = message(volume.unmount());
    sleeper.kill().expect("kill");
    sleeper.wait().expect("wait");
    assert!(refused.contains(&format!("{} (sleep) uses", sleeper.id())), "{refused}");
    assert_eq!(kernel::mounts_beneath(space.path()).len(), 1);
    volume.unmount().expect("unmount");
}

/// What a crash can leave: nothing but what `tidy` knows, and only that goes.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_pool_is_tidied() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    let kept: Volume = pool.ensure(&spec("kept", 32 * MIB)).expect("ensure");
    let space = kept.mount().expect("mount");
    fs::create_dir(sandbox.paths.volumes().join("mounts/orphan")).expect("mkdir");
    fs::write(sandbox.paths.volumes().join("files/README"), "not a volume").expect("write");
    for extra in 1..=10 {
        let name = VolumeName::new(format!("x{extra}")).expect("name");
        pool.ensure(&spec(name.as_str(), (16 + extra) * MIB)).expect("ensure");
        pool.remove(&name).expect("remove");
    }
    let templates = || {
        let entries = fs::read_dir(sandbox.paths.volumes().join("templates")).expect("list");
        entries.filter(|e| e.as_ref().is_ok_and(|e| e.path().extension().is_some())).count()
    };
    assert_eq!(templates(), 8);
    let removed = pool.tidy().expect("tidy");
    assert_eq!(removed.len(), 1, "{removed:?}");
    assert!(removed[0].ends_with("mounts/orphan"), "{removed:?}");
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
    assert_eq!(pool.list().expect("list"), [kept.spec().name.clone()]);
    assert_eq!(kernel::mounts_beneath(space.path()).len(), 1);
    kept.unmount().expect("unmount");
}
