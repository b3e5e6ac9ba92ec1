//! Room: a volume ends where it says, and its host's disk is not taken past that.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};

use docklet::Error;
use docklet::storage::{Filesystem, ProvisionRatio, SizeLimit};

use crate::back_end::BackEnd;
use crate::kernel;
use crate::stage::{MIB, Stage, check_whole, fill, message, small, space_of};

/// What each file system needs for itself of 512 MiB, at most.
fn overhead(filesystem: Filesystem) -> u64 {
    match filesystem {
        // Journal 16 MiB, inode tables, and 2 % that it keeps back.
        Filesystem::Ext4 => 40 * MIB,
        // Log 64 MiB, and what it keeps back for emergencies.
        Filesystem::Xfs => 100 * MIB,
        // Metadata twice, in pieces of a tenth.
        Filesystem::Btrfs => 140 * MIB,
        _ => MIB,
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

pub(crate) fn ends_where_it_says<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let (pool, wanted) = (stage.pool(), stage.sized("data", 512 * MIB));
    let volume = pool.ensure(&wanted).expect("ensure");
    let (SizeLimit::Hard(limit) | SizeLimit::Soft(limit)) = volume.limit();
    let space = volume.mount().expect("mount");
    let (written, error) = fill(&space.path().join("file"));
    assert!(is_full(&error), "{error}");
    assert!(written <= limit, "{written} of {limit}");
    assert!(written >= limit - overhead(filesystem), "{written} of {limit}");
    let usage = volume.usage().expect("usage");
    assert!(usage.available_bytes < 16 * MIB, "{usage:?}");
    // The host's disk is not taken past it.
    assert!(usage.allocated_bytes <= limit + MIB, "{usage:?}");
    fs::remove_file(space.path().join("file")).expect("unlink");
    File::open(space.path()).and_then(|dir| dir.sync_all()).expect("fsync");
    // xfs takes a removed file apart a little later, and counts it until then.
    let written = (0..500).any(|_| {
        let written = fs::write(space.path().join("other"), "there is room again").is_ok();
        written || (std::thread::sleep(std::time::Duration::from_millis(10)), false).1
    });
    assert!(written, "there is no room");
    volume.unmount().expect("unmount");
    pool.remove(&wanted.name).expect("remove");
}

pub(crate) fn ends_with_small_files<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let (pool, wanted) = (stage.pool(), stage.small("data"));
    let volume = pool.ensure(&wanted).expect("ensure");
    let space = volume.mount().expect("mount");
    let mut made = 0_u32;
    let error = loop {
        let dir = space.path().join(format!("d{}", made / 1000));
        let file = dir.join(format!("{made}"));
        let result = match fs::create_dir(&dir) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
            _ => fs::write(file, [7; 3000]),
        };
        match result {
            Ok(()) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(is_full(&error), "{error}");
    assert!(made > 1000, "{made}");
    let usage = volume.usage().expect("usage");
    assert!(usage.allocated_bytes <= wanted.size_bytes + MIB, "{usage:?}");
    for number in 0..200 {
        fs::remove_file(space.path().join(format!("d0/{number}")))
            .expect("a file can be deleted when it is full");
    }
    File::open(space.path()).and_then(|dir| rustix::fs::syncfs(dir).map_err(Into::into)).expect("syncfs");
    fs::write(space.path().join("d0/new"), "there is room again").expect("write");
    volume.unmount().expect("unmount");
    let space = volume.mount().expect("a full one can be mounted");
    assert_eq!(fs::read(space.path().join("d0/999")).expect("read"), [7; 3000]);
    volume.unmount().expect("unmount");
    pool.remove(&wanted.name).expect("remove");
}

pub(crate) fn usage_is_the_kernels<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let (pool, wanted) = (stage.pool(), stage.sized("data", 512 * MIB));
    let volume = pool.ensure(&wanted).expect("ensure");
    let space = volume.mount().expect("mount");
    let mut file = File::create(space.path().join("file")).expect("create");
    file.write_all(&vec![1; 64 << 20]).and_then(|()| file.sync_all()).expect("write");
    drop(file);
    rustix::fs::syncfs(File::open(space.path()).expect("open")).expect("syncfs");
    let (size, free, available) = space_of(&space);
    let usage = volume.usage().expect("usage");
    assert_eq!((usage.size_bytes, usage.used_bytes, usage.available_bytes), (size, size - free, available));
    let df = kernel::run("df", ["-B1", "--output=size,used,avail", space.path().to_str().expect("UTF-8")]);
    let df: Vec<u64> =
        df.lines().nth(1).expect("a line").split_whitespace().map(|n| n.parse().expect("number")).collect();
    assert_eq!(df, [usage.size_bytes, usage.used_bytes, usage.available_bytes]);
    assert!(usage.used_bytes >= 64 * MIB, "{usage:?}");
    assert!(usage.allocated_bytes >= 64 * MIB, "{usage:?}");
    volume.unmount().expect("unmount");
    // What a mounted one keeps back for itself is free in one at rest.
    let at_rest = volume.usage().expect("usage at rest");
    assert_eq!(at_rest.size_bytes, usage.size_bytes);
    let difference = at_rest.used_bytes.abs_diff(usage.used_bytes);
    assert!(difference < 40 * MIB, "{at_rest:?} and {usage:?}");
    pool.remove(&wanted.name).expect("remove");
}

pub(crate) fn promises_end_where_the_disk_does<B: BackEnd>(filesystem: Filesystem) {
    let size = small(filesystem);
    let stage = Stage::<B>::on_small_disk(filesystem, size * 2);
    let pool = stage.pool();
    let mut first = pool.ensure(&stage.sized("first", size)).expect("ensure");
    let second = stage.sized("second", size + size / 4 / 4096 * 4096);
    let refused = pool.ensure(&second).expect_err("refused");
    let Error::NoSpace { needed_bytes, available_bytes, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*needed_bytes, second.size_bytes);
    assert!((size / 2..=size).contains(available_bytes), "{refused}");
    assert_eq!(message(pool.open(&second.name)), "volume `second` does not exist");
    // The same rule holds for growing.
    let refused = first.grow(size * 4).expect_err("refused");
    assert!(matches!(refused, Error::NoSpace { .. }), "{refused}");
    assert_eq!(pool.open(&first.spec().name).expect("open").spec().size_bytes, size);

    let generous = pool.clone().with_provision_ratio(ProvisionRatio::percent(200).expect("ratio"));
    generous.ensure(&second).expect("promised twice");
    // What exists is adopted, whatever the ratio.
    pool.ensure(&second).expect("adopt");
    for name in pool.list().expect("list") {
        pool.remove(&name).expect("remove");
    }
}

/// More was promised than there is, and the disk fills up: errors inside, but nothing hangs, and the way out works.
pub(crate) fn a_full_disk_is_an_error_inside<B: BackEnd>(filesystem: Filesystem) {
    let size = small(filesystem);
    let stage = Stage::<B>::on_small_disk(filesystem, size);
    let pool = stage.pool().clone().with_provision_ratio(ProvisionRatio::percent(1000).expect("ratio"));
    let wanted = stage.sized("data", size * 4);
    let volume = pool.ensure(&wanted).expect("ensure");
    let space = volume.mount().expect("mount");
    let (_, error) = fill(&space.path().join("file"));
    assert!(matches!(error.raw_os_error(), Some(libc::EIO | libc::EROFS | libc::ENOSPC)), "{error}");
    volume.unmount().expect("unmount");
    stage.assert_at_rest();
    pool.remove(&wanted.name).expect("remove");
}

/// Whoever may make subvolumes and snapshots in it gets no more room than it has.
pub(crate) fn subvolumes_do_not_escape<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let (pool, wanted) = (stage.pool(), stage.sized("data", 512 * MIB));
    let volume = pool.ensure(&wanted).expect("ensure");
    let space = volume.mount().expect("mount");
    let mut inner = space.path().to_owned();
    let mut total = 0;
    for name in ["a", "b", "c"] {
        inner = inner.join(name);
        kernel::run("btrfs", ["subvolume", "create", inner.to_str().expect("UTF-8")]);
        let (written, error) = fill(&inner.join("file"));
        assert!(is_full(&error), "{error}");
        total += written;
        // Room to make the next one.
        let file = File::options().write(true).open(inner.join("file")).expect("open");
        let kept = written.saturating_sub(40 * MIB);
        file.set_len(kept).and_then(|()| file.sync_all()).expect("ftruncate");
        total -= written - kept;
        rustix::fs::syncfs(&file).expect("syncfs");
    }
    let usage = volume.usage().expect("usage");
    assert!(total < wanted.size_bytes, "{total}");
    assert!(usage.allocated_bytes <= wanted.size_bytes + MIB, "{usage:?}");
    volume.unmount().expect("unmount");
    check_whole(filesystem, &volume.file());
    pool.remove(&wanted.name).expect("remove");
}
