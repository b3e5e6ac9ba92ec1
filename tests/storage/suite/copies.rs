//! Volumes are copies of one template, and still each its own.

use std::fs;

use docklet::storage::Filesystem;

use crate::back_end::BackEnd;
use crate::kernel;
use crate::stage::{Stage, check_whole};

/// The kernel takes file systems of one identity for one, if it is let.
pub(crate) fn two_are_mounted_at_once<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let pool = stage.pool();
    let volumes = ["a", "b", "c"].map(|name| pool.ensure(&stage.small(name)).expect("ensure"));
    let spaces = [0, 1, 2].map(|i| volumes[i].mount().expect("mount"));
    for (volume, space) in volumes.iter().zip(&spaces) {
        fs::write(space.path().join(volume.spec().name.as_str()), "own").expect("write");
    }
    if filesystem == Filesystem::Btrfs {
        let ids = volumes.each_ref().map(|volume| {
            let dump = kernel::run(
                "btrfs",
                ["inspect-internal", "dump-super", volume.file().to_str().expect("UTF-8")],
            );
            let field = |name: &str| {
                let line = dump.lines().find(|line| line.starts_with(name)).expect(name);
                line[name.len()..].trim().to_owned()
            };
            assert!(field("dev_item.fsid").ends_with("[match]"), "{dump}");
            assert!(field("csum\t").ends_with("[match]"), "{dump}");
            assert_ne!(field("fsid"), field("metadata_uuid"));
            field("fsid")
        });
        assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    }
    for volume in &volumes {
        volume.unmount().expect("unmount");
    }
    for volume in &volumes {
        let space = volume.mount().expect("mount");
        let mut names = crate::stage::names_in(space.path());
        names.retain(|name| name != "lost+found");
        assert_eq!(names, [volume.spec().name.as_str()], "only what was written into it");
        volume.unmount().expect("unmount");
        check_whole(filesystem, &volume.file());
        pool.remove(&volume.spec().name).expect("remove");
    }
}

pub(crate) fn new_ones_are_whole<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let pool = stage.pool();
    for size in [crate::stage::small(filesystem), 1 << 30] {
        let volume = pool.ensure(&stage.sized("data", size)).expect("ensure");
        check_whole(filesystem, &volume.file());
        pool.remove(&volume.spec().name).expect("remove");
    }
}
