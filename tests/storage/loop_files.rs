//! What is the loop files' own: their devices, their names, and data that is there already (`man 8 losetup`).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use docklet::Error;
use docklet::name::VolumeName;
use docklet::storage::{Filesystem, SnapshotSpec, Volume, VolumePool, VolumeSpec};

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::stage::small;
use crate::volume::{MIB, message, pool, spec};

pub(crate) const FILESYSTEMS: [Filesystem; 3] = [Filesystem::Ext4, Filesystem::Xfs, Filesystem::Btrfs];

/// The smallest volume with this file system.
pub(crate) fn smallest(filesystem: Filesystem) -> VolumeSpec {
    VolumeSpec { filesystem, ..spec("data", small(filesystem)) }
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

/// The kernel frees it with the mount, and it does not go through the page cache twice.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_device_goes_with_the_mount() {
    let sandbox = Sandbox::new();
    let volume = pool(&sandbox).ensure(&spec("data", 32 * MIB)).expect("ensure");
    assert_eq!(volume.file(), file_of(&sandbox, "data"));
    assert_eq!(fs::metadata(volume.file()).expect("stat").len(), 32 * MIB);
    let space = volume.mount().expect("mount");
    let device = loop_of(&volume.file());
    assert_eq!(
        (&device["autoclear"], &device["ro"], &device["offset"]),
        (&true.into(), &false.into(), &0.into())
    );
    assert_eq!(device["dio"], true, "{device}");
    let mounts = kernel::mounts_beneath(space.path());
    for part in [device["name"].as_str().expect("name"), "errors=remount-ro"] {
        assert!(mounts[0].contains(part), "{part} in {}", mounts[0]);
    }
    // Not docklet's unmount: the kernel does it by itself.
    kernel::unmount(space.path());
    assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()), Vec::<String>::new());
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn volume_pools_are_absolute_directories() {
    let _sandbox = Sandbox::new();
    assert!(message(VolumePool::loop_files("volumes")).contains("must be an absolute path"));
    assert!(message(VolumePool::loop_files("/nowhere/volumes")).contains("mkdir on /nowhere/volumes"));
}

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_file_that_cannot_be_written_is_not_mounted() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    for filesystem in FILESYSTEMS {
        let mut volume = pool.ensure(&smallest(filesystem)).expect("ensure");
        let file = volume.file();
        let shown = file.to_str().expect("UTF-8");
        let unwritable = "volume `data` is not possible here: it takes a file that can be written";
        kernel::run("mount", ["--bind", "-o", "ro", shown, shown]);
        let refused = message(volume.mount());
        kernel::unmount(shown);
        assert!(refused.contains(unwritable), "{refused}");
        kernel::run("chattr", ["+i", shown]);
        let refused = [message(volume.mount()), message(volume.grow(1 << 30))];
        kernel::run("chattr", ["-i", shown]);
        assert!(refused.iter().all(|refused| refused.contains(unwritable)), "{refused:?}");
        assert_eq!(fs::metadata(&file).expect("stat").len(), small(filesystem));
        assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()), Vec::<String>::new());
        pool.remove(&volume.spec().name).expect("remove");
    }
}

/// Whoever cut it off has a copy, or has not: what is left is not made longer again, and not adopted.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn volume_file_that_was_cut_off_is_damaged() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    for filesystem in FILESYSTEMS {
        let wanted = VolumeSpec { size_bytes: 320 * MIB, ..smallest(filesystem) };
        let volume = pool.ensure(&wanted).expect("ensure");
        let cut = wanted.size_bytes - 4096;
        fs::File::options().write(true).open(volume.file()).and_then(|f| f.set_len(cut)).expect("ftruncate");
        let shorter = VolumeSpec { size_bytes: cut, ..wanted.clone() };
        for result in [pool.ensure(&wanted), pool.ensure(&shorter), pool.open(&wanted.name)] {
            let error = result.expect_err("must be refused");
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
            assert!(error.to_string().contains(&format!("and only {cut} are there")), "{error}");
        }
        assert_eq!(fs::metadata(volume.file()).expect("stat").len(), cut);
        pool.remove(&wanted.name).expect("remove");
    }
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn volume_without_mkfs_names_the_package() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    kernel::run("mount", ["-t", "tmpfs", "hidden", "/usr/sbin"]);
    let refused = FILESYSTEMS.map(|filesystem| message(pool.ensure(&smallest(filesystem))));
    kernel::run("/usr/bin/umount", ["/usr/sbin"]);
    for (refused, package) in refused.iter().zip(["e2fsprogs", "xfsprogs", "btrfs-progs"]) {
        assert!(refused.contains(&format!("install the package {package}")), "{refused}");
    }
    assert_eq!(pool.list().expect("list"), []);
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
    kernel::unmount(shown);
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

/// In the place of files that are ours: whatever it is, it is neither waited for nor followed.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_strangers_in_the_place_of_files_hold_nobody_up() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    let volumes = sandbox.paths.volumes();
    let elsewhere = sandbox.dir("elsewhere").join("file");
    fs::write(&elsewhere, "important").expect("write");
    let place = |path: &Path, kind: &str| match kind {
        "fifo" => drop(kernel::run("mkfifo", [path])),
        "link" => symlink(&elsewhere, path).expect("symlink"),
        "loose link" => symlink("/nowhere/at/all", path).expect("symlink"),
        "device" => drop(kernel::run("mknod", [path, Path::new("c"), Path::new("5"), Path::new("0")])),
        _ => fs::create_dir(path).expect("mkdir"),
    };
    for kind in ["fifo", "link", "loose link", "device", "directory"] {
        // A template.
        let wanted = spec("data", 32 * MIB);
        let template = volumes.join(format!("templates/ext4-{}.img", wanted.size_bytes));
        let _ = fs::remove_file(&template);
        place(&template, kind);
        if kind == "directory" {
            pool.ensure(&wanted).expect_err("a directory is not removed");
            fs::remove_dir(&template).expect("rmdir");
        }
        let volume = pool.ensure(&wanted).expect(kind);
        volume.mount().expect(kind);
        volume.unmount().expect(kind);
        // A snapshot.
        let then = SnapshotSpec::new("then".parse().expect("name"));
        volume.snapshot(&then).expect("snapshot");
        let snapshot = volumes.join("snapshots/data/then.img");
        fs::remove_file(&snapshot).expect("unlink");
        place(&snapshot, kind);
        assert_eq!(volume.snapshots().expect(kind), []);
        volume.clone().rollback(&then.name).expect_err(kind);
        pool.clone_snapshot(&wanted.name, &then.name, &"copy".parse().expect("name")).expect_err(kind);
        volume.snapshot(&then).expect_err(kind);
        if kind == "directory" {
            fs::remove_dir(&snapshot).expect("rmdir");
        }
        volume.remove_snapshot(&then.name).expect(kind);
        // A volume that a handle is of.
        fs::remove_file(volume.file()).expect("unlink");
        place(&volume.file(), kind);
        for refused in [
            volume.mount().map(drop),
            volume.unmount(),
            volume.usage().map(drop),
            volume.clone().grow(64 * MIB),
            volume.snapshot(&then).map(drop),
            pool.clone_volume(&wanted.name, &"copy".parse().expect("name")).map(drop),
            pool.remove(&wanted.name),
        ] {
            refused.expect_err(kind);
        }
        assert!(fs::symlink_metadata(volume.file()).is_ok(), "{kind}: it is left alone");
        pool.list().expect(kind);
        pool.recover().expect(kind);
        pool.tidy().expect(kind);
        if kind == "directory" { fs::remove_dir(volume.file()) } else { fs::remove_file(volume.file()) }
            .expect("remove");
        // Locks, and marks of what is going on.
        for (name, is_passed) in
            [("pool.lock", false), ("templates/lock", false), ("frozen/data", kind != "directory")]
        {
            let path = volumes.join(name);
            let _ = fs::remove_file(&path);
            let _ = fs::remove_file(volumes.join(format!("templates/ext4-{}.img", 48 * MIB)));
            place(&path, kind);
            let mounted = pool.ensure(&spec("data", 48 * MIB)).and_then(|volume| volume.mount());
            assert_eq!(mounted.is_ok(), is_passed, "{kind} {name}: {mounted:?}");
            if kind == "directory" { fs::remove_dir(&path) } else { fs::remove_file(&path) }
                .unwrap_or_else(|_| assert_eq!(name, "frozen/data", "{kind}: a mark goes when it is heeded"));
            if let Ok(volume) = pool.open(&wanted.name) {
                volume.unmount().expect(name);
            }
            pool.remove(&wanted.name).expect(name);
        }
        assert_eq!(fs::read(&elsewhere).expect("read"), b"important");
    }
}
