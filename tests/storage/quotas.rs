//! Where a pool of directories cannot be, and the words about it (`man 8 mount`, `man 8 tune2fs`). Where it can, in
//! `quota_volumes`.

use std::fs::{self, File};

use docklet::Error;
use docklet::storage::{Filesystem, PoolSpec, VolumePool, VolumeSpec};

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::stage::names_in;
use crate::volume::{MIB, message, pool, spec};

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn directories_need_quotas() {
    let sandbox = Sandbox::new();
    let place = sandbox.dir("place");
    for (mkfs, parts) in [
        ("mkfs.xfs", &["`prjquota`", "rootflags=prjquota", "CONFIG_XFS_QUOTA"][..]),
        ("mkfs.ext4", &["-O project,quota -E quotatype=prjquota", "tune2fs", "`prjquota`", "CONFIG_QFMT_V2"]),
        ("mkfs.btrfs", &["xfs or ext4", "on btrfs"]),
        ("tmpfs", &["xfs or ext4", "on tmpfs"]),
    ] {
        let image = sandbox.dir("disk").join(mkfs);
        let target = place.to_str().expect("UTF-8");
        if mkfs == "tmpfs" {
            kernel::run("mount", ["-t", "tmpfs", "none", target]);
        } else {
            File::create(&image).and_then(|file| file.set_len(320 * MIB)).expect("file");
            kernel::run(mkfs, ["-q", image.to_str().expect("UTF-8")]);
            kernel::run("mount", ["-o", "loop", image.to_str().expect("UTF-8"), target]);
        }
        let before = names_in(&place);
        for directory in [place.clone(), place.join("pool")] {
            let refused = VolumePool::directories(&directory).expect_err("refused");
            assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
            let text = refused.to_string();
            assert!(text.contains(&*format!("directories in `{}`", directory.display())), "{text}");
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
            // A pool that is written down says the same.
            let written = PoolSpec::Directories { directory };
            let text = serde_json::to_string(&written).expect("JSON");
            let read: PoolSpec = serde_json::from_str(&text).expect("a pool");
            assert_eq!(message(read.pool()), refused.to_string());
        }
        assert_eq!(names_in(&place), before);
        kernel::unmount(&place);
    }
    let relative = message(VolumePool::directories("pool"));
    assert!(relative.contains("must be an absolute path"), "{relative}");
    assert!(VolumePool::directories(place.join("none/pool")).is_err());
    assert_eq!(fs::read_dir(&place).expect("list").count(), 0);
}

#[test]
#[ignore = "needs root: mounts"]
fn directories_are_in_their_own_pools_only() {
    let sandbox = Sandbox::new();
    let wanted = VolumeSpec { filesystem: Filesystem::Directory, ..spec("data", 16 * MIB) };
    for pool in [pool(&sandbox), VolumePool::tmpfs(sandbox.dir("memory")).expect("pool")] {
        let refused = pool.ensure(&wanted).expect_err("refused");
        assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
        assert_eq!(pool.list().expect("list"), []);
    }
}
