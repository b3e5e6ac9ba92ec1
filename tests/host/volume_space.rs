//! Volumes and room: full ones, full disks, promises, growth.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use docklet::Error;
use docklet::storage::{ProvisionRatio, VolumePool};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::volume::{MIB, message, pool, preallocated, spec};

/// Writes until the file system refuses; the reason.
fn fill(path: &Path) -> std::io::Error {
    let mut file = File::create(path).expect("create");
    let block = vec![0x5a; 1 << 20];
    loop {
        if let Err(error) = file.write_all(&block).and_then(|()| file.sync_data()) {
            return error;
        }
    }
}

/// A pool on a file system of its own, of 100 MiB.
fn small_pool(sandbox: &Sandbox) -> (PathBuf, VolumePool) {
    let disk = sandbox.dir("disk");
    kernel::run("mount", ["-t", "tmpfs", "-o", "size=100m", "small", disk.to_str().expect("UTF-8")]);
    let pool = VolumePool::loop_files(disk.join("pool")).expect("pool");
    (disk, pool)
}

fn unmount(disk: &Path) {
    kernel::run("umount", [disk]);
}

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_space_ends_inside() {
    let sandbox = Sandbox::new();
    let volume = pool(&sandbox).ensure(&spec("data", 64 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    assert_eq!(fill(&space.path().join("file")).kind(), ErrorKind::StorageFull);
    let usage = volume.usage().expect("usage");
    assert!(usage.available_bytes < MIB, "{usage:?}");
    assert!(usage.allocated_bytes <= 64 * MIB + MIB, "{usage:?}");
    fs::remove_file(space.path().join("file")).expect("unlink");
    fs::write(space.path().join("other"), "there is room again").expect("write");
    volume.unmount().expect("unmount");
    kernel::run("e2fsck", ["-f", "-n", volume.file().to_str().expect("UTF-8")]);
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn volume_space_is_promised_once() {
    let sandbox = Sandbox::new();
    let (disk, pool) = small_pool(&sandbox);
    let mut first = pool.ensure(&spec("first", 60 * MIB)).expect("ensure");
    let refused = pool.ensure(&spec("second", 60 * MIB)).expect_err("refused");
    let Error::NoSpace { needed_bytes, available_bytes, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*needed_bytes, 60 * MIB);
    assert!((35 * MIB..40 * MIB).contains(available_bytes), "{refused}");
    let text = refused.to_string();
    for part in
        ["no room for volume `second` of 62914560 bytes", "of 62914560 promised bytes", "ratio is 100 %"]
    {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(message(pool.open(&spec("second", 0).name)), "volume `second` does not exist");
    // The same rule holds for growing.
    assert!(matches!(first.grow(120 * MIB), Err(Error::NoSpace { .. })));
    assert_eq!(fs::metadata(first.file()).expect("stat").len(), 60 * MIB);
    assert_eq!(first.spec().size_bytes, 60 * MIB);

    let generous = pool.clone().with_provision_ratio(ProvisionRatio::percent(200).expect("ratio"));
    generous.ensure(&spec("second", 60 * MIB)).expect("promised twice");
    assert!(matches!(generous.ensure(&spec("third", 90 * MIB)), Err(Error::NoSpace { .. })));
    // What exists is adopted, whatever the ratio.
    pool.ensure(&spec("second", 60 * MIB)).expect("adopt");
    unmount(&disk);
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

/// More was promised than there is, and the disk fills up: errors inside, but nothing hangs, and the way out works.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_space_of_the_disk_can_end() {
    let sandbox = Sandbox::new();
    let (disk, pool) = small_pool(&sandbox);
    let pool = pool.with_provision_ratio(ProvisionRatio::percent(1000).expect("ratio"));
    let volume = pool.ensure(&spec("data", 300 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    let error = fill(&space.path().join("file"));
    assert!(matches!(error.raw_os_error(), Some(libc::EIO | libc::EROFS | libc::ENOSPC)), "{error}");
    volume.unmount().expect("unmount");
    pool.remove(&volume.spec().name).expect("remove");
    unmount(&disk);
}

fn may_grow_mounted() -> bool {
    capabilities(None).expect("capget").effective.contains(CapabilitySet::SYS_RESOURCE)
}

fn size_inside(path: &Path) -> u64 {
    let figures = kernel::run("stat", ["-f", "-c", "%b %S", path.to_str().expect("UTF-8")]);
    figures.split_whitespace().map(|n| n.parse::<u64>().expect("number")).product()
}

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_space_grows_at_rest() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    for wanted in [spec("sparse", 64 * MIB), preallocated("full", 64 * MIB)] {
        let mut volume = pool.ensure(&wanted).expect("ensure");
        let space = volume.mount().expect("mount");
        fs::write(space.path().join("file"), vec![7; 5 << 20]).expect("write");
        volume.unmount().expect("unmount");
        volume.grow(640 * MIB).expect("grow");
        assert_eq!(volume.spec().size_bytes, 640 * MIB);
        assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()), Vec::<String>::new());
        kernel::run("e2fsck", ["-f", "-n", volume.file().to_str().expect("UTF-8")]);
        let allocated = volume.usage().expect("usage").allocated_bytes;
        assert_eq!(allocated >= 640 * MIB, wanted.name.as_str() == "full", "{allocated}");
        let space = volume.mount().expect("mount");
        assert!(size_inside(space.path()) > 600 * MIB);
        assert_eq!(fs::read(space.path().join("file")).expect("read"), vec![7; 5 << 20]);
        volume.unmount().expect("unmount");
        volume.grow(640 * MIB).expect("the present size changes nothing");
        let refused = message(volume.grow(64 * MIB));
        assert!(refused.contains("volumes never shrink: volume `"), "{refused}");
        assert_eq!(fs::metadata(volume.file()).expect("stat").len(), 640 * MIB);
        pool.remove(&wanted.name).expect("remove");
    }
}

/// Online growth is CAP_SYS_RESOURCE's; a root without it is told so, and nothing happens.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_space_grows_under_writes_or_says_what_it_needs() {
    let sandbox = Sandbox::new();
    let mut volume = pool(&sandbox).ensure(&spec("data", 64 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    if may_grow_mounted() {
        let file = space.path().join("file");
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut out = File::create(&file).expect("create");
                for i in 0..200_u8 {
                    out.write_all(&vec![i; 200 << 10]).and_then(|()| out.sync_data()).expect("write");
                }
            });
            volume.grow(128 * MIB).expect("grow");
            volume.grow(640 * MIB).expect("grow");
            writer.join().expect("writer");
        });
        assert!(size_inside(space.path()) > 600 * MIB);
        let content = fs::read(&file).expect("read");
        assert!(content.chunks(200 << 10).zip(0..200_u8).all(|(chunk, i)| chunk.iter().all(|b| *b == i)));
    }
    let before = fs::metadata(volume.file()).expect("stat").len();
    let all = capabilities(None).expect("capget");
    let mut fewer = all;
    fewer.effective.remove(CapabilitySet::SYS_RESOURCE);
    set_capabilities(None, fewer).expect("capset");
    let refused = message(volume.grow(before + 64 * MIB));
    set_capabilities(None, all).expect("capset");
    assert!(
        refused.contains("growing volume `data` while it is mounted") && refused.contains("CAP_SYS_RESOURCE"),
        "{refused}"
    );
    assert_eq!(fs::metadata(volume.file()).expect("stat").len(), before);
    volume.unmount().expect("unmount");
    kernel::run("e2fsck", ["-f", "-n", volume.file().to_str().expect("UTF-8")]);
}

/// A crash after the file got longer and before its file system did.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_space_growth_is_finished_after_a_crash() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    let volume = pool.ensure(&spec("data", 64 * MIB)).expect("ensure");
    let mark = "trusted.docklet.growing";
    rustix::fs::setxattr(volume.file(), mark, b"1", rustix::fs::XattrFlags::empty()).expect("setxattr");
    File::options().write(true).open(volume.file()).and_then(|f| f.set_len(256 * MIB)).expect("ftruncate");
    let volume = pool.ensure(&spec("data", 256 * MIB)).expect("ensure finishes it");
    assert!(rustix::fs::getxattr(volume.file(), mark, &mut [0_u8; 4]).is_err());
    let space = volume.mount().expect("mount");
    assert!(size_inside(space.path()) > 230 * MIB);
    volume.unmount().expect("unmount");
}
