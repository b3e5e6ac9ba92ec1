//! Snapshots of volumes, going back to them, and clones, on file systems that share blocks and on one that does not.

use std::fs;
use std::path::{Path, PathBuf};

use docklet::Error;
use docklet::name::{SnapshotName, VolumeName};
use docklet::storage::{Filesystem, ProvisionRatio, SnapshotSpec, VolumePool};

use crate::kernel;
use crate::loop_files::{FILESYSTEMS, smallest};
use crate::loop_space::preallocated;
use crate::sandbox::Sandbox;
use crate::stage::clones_into_each_other;
use crate::volume::{MIB, message, pool, spec};

fn snapshot(name: &str) -> SnapshotSpec {
    SnapshotSpec::new(SnapshotName::new(name).expect("name"))
}

/// A disk of 1 GiB with a file system that the kernel shares blocks on.
fn sharing_disk(sandbox: &Sandbox, mkfs: &str) -> PathBuf {
    let (image, disk) = (sandbox.dir("images").join("disk.img"), sandbox.dir("disk"));
    fs::File::create(&image).and_then(|file| file.set_len(1 << 30)).expect("image");
    kernel::run(mkfs, [&image]);
    kernel::run("mount", [Path::new("-o"), Path::new("loop"), &image, &disk]);
    disk
}

/// Two that clone each into the other's name.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn clones_into_each_other_do_not_wait_for_ever() {
    let sandbox = Sandbox::new();
    clones_into_each_other(&pool(&sandbox), &spec("a", 32 * MIB), 40);
}

/// Where the file system can, a snapshot is there at once, whatever the volume's size.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn loop_snapshots_share_their_blocks() {
    for mkfs in ["mkfs.xfs", "mkfs.btrfs"] {
        let sandbox = Sandbox::new();
        let disk = sharing_disk(&sandbox, mkfs);
        let pool = VolumePool::loop_files(disk.join("pool")).expect("pool");
        let mut volume = pool.ensure(&spec("data", 256 * MIB)).expect("ensure");
        fs::write(volume.mount().expect("mount").path().join("file"), vec![7; 64 << 20]).expect("write");
        volume.unmount().expect("unmount");
        let free =
            || rustix::fs::statvfs(&disk).map(|space| space.f_bfree * space.f_frsize).expect("statvfs");
        // What was written has its place only when it is on the disk.
        kernel::run("sync", [Path::new("--file-system"), &disk]);
        let before = free();
        let taken = volume.snapshot(&snapshot("then")).expect("snapshot");
        assert!(before - free() < 16 * MIB, "{mkfs}: {before} {}", free());
        volume.rollback(&taken.name).expect("rollback");
        pool.clone_snapshot(&volume.spec().name, &taken.name, &VolumeName::new("clone").expect("name"))
            .expect("clone");
        kernel::unmount(&disk);
    }
}

/// What is shared is there once: promises see through it.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn loop_snapshots_count_against_the_promise() {
    let sandbox = Sandbox::new();
    let disk = sharing_disk(&sandbox, "mkfs.xfs");
    let pool = VolumePool::loop_files(disk.join("pool")).expect("pool");
    let volume = pool.ensure(&preallocated("data", 300 * MIB)).expect("ensure");
    volume.snapshot(&snapshot("one")).expect("600 MiB of less than 1024");
    volume.snapshot(&snapshot("two")).expect("900 MiB");
    let refused = volume.snapshot(&snapshot("three")).expect_err("1200 MiB");
    let Error::NoSpace { needed_bytes, available_bytes, .. } = refused else { panic!("{refused}") };
    assert_eq!(needed_bytes, 300 * MIB);
    assert!(available_bytes < 124 * MIB, "{available_bytes}");
    assert!(matches!(
        pool.clone_volume(&volume.spec().name, &VolumeName::new("clone").expect("name")),
        Err(Error::NoSpace { .. })
    ));
    assert!(matches!(pool.ensure(&spec("other", 200 * MIB)), Err(Error::NoSpace { .. })));
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
    kernel::unmount(&disk);
}

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn loop_snapshots_refuse_what_they_cannot_do() {
    let sandbox = Sandbox::new();
    let volume = pool(&sandbox).ensure(&spec("data", 64 * MIB)).expect("ensure");
    let reserve = SnapshotSpec { reserve_bytes: Some(MIB), ..snapshot("a") };
    assert!(message(volume.snapshot(&reserve)).contains("linear"), "a reserve");

    // A stranger's device writes when it likes.
    let file = volume.file();
    let device = kernel::run("losetup", ["--find", "--show", file.to_str().expect("UTF-8")]);
    assert!(message(volume.snapshot(&snapshot("a"))).contains("it is attached to"), "attached");
    kernel::run("losetup", ["--detach", device.trim()]);

    // A stranger's freeze is the stranger's to end.
    let space = volume.mount().expect("mount");
    let target = space.path().to_str().expect("UTF-8");
    kernel::run("fsfreeze", ["--freeze", target]);
    let refused = message(volume.snapshot(&snapshot("a")));
    kernel::run("fsfreeze", ["--unfreeze", target]);
    assert!(refused.contains("somebody has frozen"), "{refused}");
    assert_eq!(volume.snapshots().expect("snapshots"), []);
    volume.unmount().expect("unmount");
}

/// As a process leaves it that is killed in the middle.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn loop_snapshots_that_were_cut_off_hold_nothing_still() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    let volume = pool.ensure(&spec("data", 64 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    let target = space.path().to_str().expect("UTF-8");
    let mark = sandbox.paths.volumes().join("frozen/data");
    for mend in ["recover", "mount"] {
        fs::write(&mark, "").expect("mark");
        kernel::run("fsfreeze", ["--freeze", target]);
        if mend == "recover" {
            assert_eq!(pool.recover().expect("recover"), ["volume `data` held still"]);
            assert_eq!(pool.recover().expect("recover"), Vec::<String>::new());
        } else {
            volume.mount().expect("mount");
        }
        fs::write(space.path().join("file"), "it goes on").expect("write");
        assert!(!mark.exists());
    }
    volume.unmount().expect("unmount");
}

/// As it is left when the process that froze it was the last of its mount namespace: nothing is mounted any more, and the
/// kernel keeps the file system, frozen, with its device.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn loop_snapshots_cut_off_with_their_mount_namespace_hold_nothing_still() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    for filesystem in FILESYSTEMS {
        let volume = pool.ensure(&smallest(filesystem)).expect("ensure");
        let name = &volume.spec().name;
        for mend in ["recover", "mount", "remove"] {
            fs::write(sandbox.paths.volumes().join("frozen").join(name.as_str()), "").expect("mark");
            let target = sandbox.dir("elsewhere");
            let script = format!(
                "mount -o loop {} {target} && fsfreeze --freeze {target}",
                volume.file().display(),
                target = target.display()
            );
            kernel::run("unshare", ["--mount", "sh", "-c", &script]);
            match mend {
                "recover" => {
                    let done = pool.recover().expect("recover");
                    assert_eq!(done, [format!("volume `{name}` held still")], "{filesystem}");
                }
                "mount" => {
                    let space = volume.mount().expect("mount");
                    let file = space.path().join("file");
                    kernel::run("timeout", ["10", "touch", file.to_str().expect("UTF-8")]);
                    volume.unmount().expect("unmount");
                }
                _ => pool.remove(name).expect("remove"),
            }
            let beneath = || kernel::loops_beneath(&sandbox.paths.volumes());
            assert_eq!(beneath(), Vec::<String>::new(), "{filesystem} {mend}");
        }
    }
}

/// A btrfs that somebody made with other checksums is a volume like any other, but for a clone's own identity.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn loop_snapshots_make_no_clone_with_a_wrong_checksum() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    let wanted = smallest(Filesystem::Btrfs);
    let file = sandbox.paths.volumes().join("files/data.img");
    fs::File::create(&file).and_then(|file| file.set_len(wanted.size_bytes)).expect("file");
    kernel::run("mkfs.btrfs", ["-q", "--csum", "xxhash", file.to_str().expect("UTF-8")]);
    let volume = pool.ensure(&wanted).expect("adopted");
    volume.mount().expect("mount");
    volume.unmount().expect("unmount");
    let copy = VolumeName::new("copy").expect("name");
    let refused = pool.clone_volume(&wanted.name, &copy).and_then(|copy| copy.mount()).expect_err("refused");
    assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
    assert_eq!(pool.list().expect("list"), [wanted.name]);
}

/// Whatever there is no room for, the volume is not left held still, and nothing is left behind.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn loop_snapshots_on_a_full_disk_hold_nothing_still() {
    let sandbox = Sandbox::new();
    let disk = sandbox.dir("disk");
    kernel::run("mount", ["-t", "tmpfs", "-o", "size=100m", "small", disk.to_str().expect("UTF-8")]);
    let generous = ProvisionRatio::percent(10_000).expect("ratio");
    let pool = VolumePool::loop_files(disk.join("pool")).expect("pool").with_provision_ratio(generous);
    let mut volume = pool.ensure(&spec("data", 64 * MIB)).expect("ensure");
    let name = volume.spec().name.clone();
    let space = volume.mount().expect("mount");
    fs::write(space.path().join("file"), vec![7; 40 << 20]).expect("write");
    let kept = volume.snapshot(&snapshot("kept"));
    let then = kept.expect("80 of 100 MiB").name;
    let before = rustix::fs::statvfs(&disk).expect("statvfs").f_bfree;
    let copy = VolumeName::new("copy").expect("name");
    for _ in 0..3 {
        for refused in [
            volume.snapshot(&snapshot("more")).map(drop),
            pool.clone_volume(&name, &copy).map(drop),
            pool.clone_snapshot(&name, &then, &copy).map(drop),
        ] {
            assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
        }
        kernel::run("timeout", ["10", "touch", space.path().join("more").to_str().expect("UTF-8")]);
    }
    volume.unmount().expect("unmount");
    let refused = volume.rollback(&then);
    assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
    assert_eq!(rustix::fs::statvfs(&disk).expect("statvfs").f_bfree.abs_diff(before) * 4096 / MIB, 0);
    assert_eq!(volume.snapshots().expect("snapshots").len(), 1);
    assert_eq!(pool.list().expect("list"), [name]);

    // Not even what is written is on the disk, when somebody else has filled it.
    let space = volume.mount().expect("mount");
    fs::write(disk.join("stranger"), vec![7; 200 << 20]).expect_err("full");
    let _ = fs::write(space.path().join("lost"), vec![7; 16 << 20]);
    volume.snapshot(&snapshot("more")).expect_err("full");
    kernel::run("timeout", ["10", "ls", space.path().to_str().expect("UTF-8")]);
    assert_eq!(fs::read_dir(disk.join("pool/frozen")).expect("list").count(), 0);
    fs::remove_file(disk.join("stranger")).expect("unlink");
    volume.unmount().expect("unmount");
    kernel::unmount(&disk);
}
