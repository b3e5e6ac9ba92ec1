//! What is there otherwise than as asked is named field by field, and not touched.

use std::fs;

use docklet::Error;
use docklet::storage::{Allocation, Filesystem, VolumeSpec};

use crate::back_end::BackEnd;
use crate::stage::{MIB, Stage, sha256, small};

pub(crate) fn differs_field_by_field<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let (pool, wanted) = (stage.pool(), stage.sized("data", small(Filesystem::Xfs)));
    let volume = pool.ensure(&wanted).expect("ensure");
    let space = volume.mount().expect("mount");
    fs::write(space.path().join("file"), "kept").expect("write");
    volume.unmount().expect("unmount");
    let before = volume.file().is_file().then(|| sha256(&volume.file()));
    let other_filesystem = if filesystem == Filesystem::Ext4 { Filesystem::Xfs } else { Filesystem::Ext4 };
    let other_allocation = match wanted.allocation {
        Allocation::Sparse => Allocation::Preallocated,
        Allocation::Preallocated => Allocation::Sparse,
    };
    let larger = wanted.size_bytes + 64 * MIB;
    let size = format!("size_bytes is {}, not {larger}", wanted.size_bytes);
    let format = format!("filesystem is {filesystem}, not {other_filesystem}");
    let allocation = format!("allocation is {}, not {other_allocation}", wanted.allocation);
    for (other, parts) in [
        (VolumeSpec { size_bytes: larger, ..wanted.clone() }, vec![&size]),
        (VolumeSpec { filesystem: other_filesystem, ..wanted.clone() }, vec![&format]),
        (VolumeSpec { allocation: other_allocation, ..wanted.clone() }, vec![&allocation]),
        (
            VolumeSpec {
                size_bytes: larger,
                filesystem: other_filesystem,
                allocation: other_allocation,
                ..wanted.clone()
            },
            vec![&size, &format, &allocation],
        ),
    ] {
        match pool.ensure(&other).expect_err("must be refused") {
            Error::Differs { difference, .. } => {
                for part in parts {
                    assert!(difference.contains(part), "{part} in {difference}");
                }
            }
            // A pool that has no such volumes at all says so first.
            Error::Unsupported { .. } => {
                assert_ne!((other.filesystem, other.allocation), (filesystem, wanted.allocation))
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(volume.file().is_file().then(|| sha256(&volume.file())), before);
    let volume = pool.ensure(&wanted).expect("as it was");
    let space = volume.mount().expect("mount");
    assert_eq!(fs::read_to_string(space.path().join("file")).expect("read"), "kept");
    volume.unmount().expect("unmount");
    pool.remove(&wanted.name).expect("remove");
}
