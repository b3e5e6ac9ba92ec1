//! Snapshots keep what a volume held; going back to them, and clones of them.

use std::fs;

use docklet::Error;
use docklet::name::{SnapshotName, VolumeName};
use docklet::storage::{Filesystem, SnapshotSpec, Volume};

use crate::back_end::BackEnd;
use crate::stage::{Stage, check_whole, message};

fn write(volume: &Volume, content: &str) {
    let file = volume.mount().expect("mount").path().join("file");
    fs::write(file, content).expect("write");
    volume.unmount().expect("unmount");
}

fn content(volume: &Volume) -> String {
    let content = fs::read_to_string(volume.mount().expect("mount").path().join("file")).expect("read");
    volume.unmount().expect("unmount");
    check_whole(volume.spec().filesystem, &volume.file());
    content
}

pub(crate) fn keep_what_was<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let snapshot =
        |name: &str| SnapshotSpec { name: SnapshotName::new(name).expect("name"), reserve_bytes: B::RESERVE };
    let (pool, wanted) = (stage.pool(), stage.small("data"));
    let mut volume = pool.ensure(&wanted).expect("ensure");
    write(&volume, "then");
    let taken = volume.snapshot(&snapshot("then")).expect("snapshot");
    assert_eq!((taken.name.as_str(), taken.size_bytes), ("then", wanted.size_bytes));
    assert_eq!(taken.reserve.map(|reserve| reserve.reserved_bytes), B::RESERVE);
    assert!(matches!(volume.snapshot(&snapshot("then")), Err(Error::Differs { .. })));
    let other = SnapshotSpec {
        reserve_bytes: if B::RESERVE.is_some() { None } else { Some(1 << 20) },
        ..snapshot("x")
    };
    assert!(
        matches!(volume.snapshot(&other), Err(Error::Invalid { .. })),
        "a reserve where there is none, or none"
    );
    write(&volume, "now");

    // Mounted and written to: held still for the moment.
    let space = volume.mount().expect("mount");
    fs::write(space.path().join("file"), "mounted").expect("write");
    volume.snapshot(&snapshot("mounted")).expect("snapshot of a mounted one");
    fs::write(space.path().join("other"), "it goes on").expect("write");
    assert!(message(volume.rollback(&taken.name)).contains("it is mounted on"), "mounted");
    volume.unmount().expect("unmount");

    let names: Vec<String> =
        volume.snapshots().expect("snapshots").into_iter().map(|s| s.name.to_string()).collect();
    assert_eq!(names, ["mounted", "then"]);
    assert_eq!(pool.list().expect("list"), std::slice::from_ref(&wanted.name), "a snapshot is no volume");
    let refused = message(pool.remove(&wanted.name));
    assert!(refused.contains("it has snapshots, which would be lost with it: mounted, then"), "{refused}");

    let name = |name: &str| VolumeName::new(name).expect("name");
    let cloned = pool.clone_snapshot(&wanted.name, &taken.name, &name("clone")).expect("clone");
    let copied = pool.clone_volume(&wanted.name, &name("copy")).expect("copy");
    assert_eq!(pool.list().expect("list").len(), 3);
    let again = pool.clone_snapshot(&wanted.name, &taken.name, &name("clone"));
    assert!(matches!(again, Err(Error::Differs { .. })));
    // Beside each other, which takes identities of their own.
    volume.mount().expect("mount");
    assert_eq!((content(&cloned).as_str(), content(&copied).as_str()), ("then", "mounted"));
    volume.unmount().expect("unmount");
    write(&cloned, "its own");

    for name in ["then", "mounted", "then"] {
        volume.rollback(&snapshot(name).name).expect("rollback");
        assert_eq!(content(&volume), name);
    }
    assert_eq!(content(&cloned), "its own");
    assert_eq!(volume.snapshots().expect("snapshots").len(), 2, "they stay");
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
    assert_eq!(pool.recover().expect("recover"), Vec::<String>::new());

    for name in ["then", "mounted", "then"] {
        volume.remove_snapshot(&snapshot(name).name).expect("remove");
    }
    assert!(matches!(volume.rollback(&taken.name), Err(Error::NotFound { .. })));
    assert_eq!(content(&volume), "then");
    for volume in [volume, cloned, copied] {
        pool.remove(&volume.spec().name).expect("remove");
    }
    stage.assert_at_rest();
}
