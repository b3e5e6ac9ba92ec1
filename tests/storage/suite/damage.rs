//! What is left of a file system is told from a whole one and from other data, named with what mends it, and not
//! touched.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use docklet::Error;
use docklet::storage::{Filesystem, Volume};

use crate::back_end::BackEnd;
use crate::kernel;
use crate::stage::{MIB, Stage, may_grow_mounted, sha256};

fn program(filesystem: Filesystem) -> &'static str {
    match filesystem {
        Filesystem::Ext4 => "e2fsck",
        Filesystem::Xfs => "xfs_repair",
        _ => "btrfs",
    }
}

fn write(path: &Path, offset: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).expect("open");
    file.write_all_at(bytes, offset).and_then(|()| file.sync_all()).expect("write");
}

#[track_caller]
fn assert_damaged<T: std::fmt::Debug>(result: docklet::Result<T>, filesystem: Filesystem) {
    match result.expect_err("must be refused") {
        Error::Damaged { what, reason } => {
            assert_eq!(what, "volume `data`");
            assert!(reason.contains(program(filesystem)), "{reason}");
        }
        other => panic!("{other}"),
    }
}

/// Each way to a volume with such a file system says so, and changes nothing; it can be removed.
fn is_damage<B: BackEnd>(stage: &Stage<B>, filesystem: Filesystem, volume: &Volume) {
    let pool = stage.pool();
    let before = sha256(&volume.file());
    assert_damaged(pool.ensure(volume.spec()), filesystem);
    assert_damaged(pool.open(&volume.spec().name), filesystem);
    assert_damaged(volume.usage(), filesystem);
    assert_damaged(volume.clone().grow(2 << 30), filesystem);
    assert_eq!(pool.list().expect("list"), std::slice::from_ref(&volume.spec().name));
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
    assert_eq!(sha256(&volume.file()), before);
    stage.assert_at_rest();
    pool.remove(&volume.spec().name).expect("remove");
}

fn superblock_at(filesystem: Filesystem) -> u64 {
    match filesystem {
        Filesystem::Ext4 => 1024,
        Filesystem::Xfs => 0,
        _ => 64 << 10,
    }
}

pub(crate) fn a_lost_superblock_is_damage<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let volume = stage.pool().ensure(&stage.sized("data", 512 * MIB)).expect("ensure");
    write(&volume.file(), superblock_at(filesystem), &[0xa5; 1024]);
    is_damage(&stage, filesystem, &volume);
}

pub(crate) fn a_bad_checksum_is_damage<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let volume = stage.pool().ensure(&stage.small("data")).expect("ensure");
    // Behind the magic number, of each.
    write(&volume.file(), superblock_at(filesystem) + 300, &[0xa5; 4]);
    is_damage(&stage, filesystem, &volume);
}

/// A good superblock, and then what only the kernel meets when it mounts.
pub(crate) fn damage_behind_the_superblock_is_told<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let wanted = stage.sized("data", 512 * MIB);
    let volume = stage.pool().ensure(&wanted).expect("ensure");
    let (path, shown) = (volume.file(), volume.file().to_str().expect("UTF-8").to_owned());
    match filesystem {
        Filesystem::Ext4 => {
            let block = kernel::run("debugfs", ["-R", "bmap <8> 0", &shown]);
            let block: u64 = block.trim().parse().expect("the journal's first block");
            write(&path, block * 4096, &[0xa5; 4096]);
        }
        Filesystem::Xfs => {
            let number = |command: &str, field: &str| {
                let text = kernel::run("xfs_db", ["-r", "-c", "sb 0", "-c", command, &shown]);
                text.trim().trim_start_matches(field).trim_matches([' ', '=']).to_owned()
            };
            let start = number("print logstart", "logstart");
            let sector = number(&format!("convert fsblock {start} daddr"), "");
            let sector = sector.split(['(', ')']).nth(1).unwrap_or(&sector).to_owned();
            write(&path, sector.parse::<u64>().expect("sector") * 512, &vec![0xa5; 64 << 20]);
        }
        _ => write(&path, MIB, &vec![0xa5; 63 << 20]),
    }
    let before = sha256(&path);
    assert_damaged(volume.mount(), filesystem);
    // The device goes with its last user. That can be udev, which looks at it once more after the attempt.
    kernel::wait_until("the device's end", || stage.is_at_rest());
    assert_eq!(sha256(&path), before);
    // `e2fsck -p`, which comes first where the kernel may not grow it, makes a new journal.
    if may_grow_mounted(filesystem) {
        assert_damaged(volume.clone().grow(1 << 30), filesystem);
        assert_eq!(sha256(&path), before);
    }
    assert_eq!(stage.pool().open(&wanted.name).expect("it is a volume").spec(), &wanted);
    stage.pool().remove(&wanted.name).expect("remove");
}
