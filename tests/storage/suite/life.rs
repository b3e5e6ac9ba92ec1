//! A volume is made, found, mounted, kept over unmounting, and removed without a trace.

use std::fs;

use docklet::Error;
use docklet::storage::{Filesystem, OverlayRoot};

use crate::back_end::BackEnd;
use crate::kernel;
use crate::stage::{MIB, Stage, message, names_in, sleeper, together};

pub(crate) fn lives_and_leaves_nothing<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let (pool, wanted) = (stage.pool(), stage.small("data"));
    assert!(matches!(pool.open(&wanted.name), Err(Error::NotFound { .. })));
    let volume = pool.ensure(&wanted).expect("ensure");
    assert_eq!(volume.spec(), &wanted);
    assert_eq!(volume.limit(), B::limit(wanted.size_bytes));
    assert_eq!(pool.list().expect("list"), std::slice::from_ref(&wanted.name));
    assert_eq!(pool.open(&wanted.name).expect("open"), volume);

    let space = volume.mount().expect("mount");
    let mounts = kernel::mounts_beneath(space.path());
    assert_eq!(mounts.len(), 1);
    for part in ["noatime", &*format!(" - {} ", B::shown(filesystem))] {
        assert!(mounts[0].contains(part), "{part} in {}", mounts[0]);
    }
    fs::create_dir(space.path().join("dir")).expect("mkdir");
    fs::write(space.path().join("dir/file"), "kept").expect("write");
    volume.unmount().expect("unmount");
    stage.assert_at_rest();
    volume.unmount().expect("what is not mounted is unmounted");
    assert_eq!(names_in(space.path()).len(), 0, "not beside the volume");

    let space = pool.open(&wanted.name).expect("open").mount().expect("mount once more");
    assert_eq!(fs::read_to_string(space.path().join("dir/file")).expect("read"), "kept");
    volume.unmount().expect("unmount");
    pool.remove(&wanted.name).expect("remove");
    stage.assert_at_rest();
    assert_eq!(pool.list().expect("list"), []);
    assert!(!space.path().exists());
    pool.remove(&wanted.name).expect("what is gone is removed");
    assert_eq!(message(pool.open(&wanted.name)), "volume `data` does not exist");
    assert_eq!(message(volume.mount()), "volume `data` does not exist");
    volume.unmount().expect("what is gone is unmounted");
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
}

pub(crate) fn is_one_when_ensured_twice<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let (pool, wanted) = (stage.pool(), stage.small("data"));
    let volume = pool.ensure(&wanted).expect("ensure");
    let space = volume.mount().expect("mount");
    fs::write(space.path().join("file"), "kept").expect("write");
    // Mounted and not, written to and not.
    assert_eq!(pool.ensure(&wanted).expect("ensure while it is mounted"), volume);
    assert_eq!(volume.mount().expect("mount again"), space);
    assert_eq!(kernel::mounts_beneath(space.path()).len(), 1);
    volume.unmount().expect("unmount");
    assert_eq!(pool.ensure(&wanted).expect("ensure at rest"), volume);
    assert_eq!(pool.list().expect("list").len(), 1);
    let space = volume.mount().expect("mount");
    assert_eq!(fs::read_to_string(space.path().join("file")).expect("read"), "kept");
    volume.unmount().expect("unmount");
    pool.remove(&wanted.name).expect("remove");
}

pub(crate) fn is_busy_while_it_is_mounted<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let (pool, wanted) = (stage.pool(), stage.small("data"));
    let volume = pool.ensure(&wanted).expect("ensure");
    let space = volume.mount().expect("mount");
    fs::write(space.path().join("file"), "kept").expect("write");
    let refused = message(pool.remove(&wanted.name));
    assert!(refused.contains("volume `data` is busy: it is mounted on"), "{refused}");

    let mut user = sleeper(space.path());
    let refused = message(volume.unmount());
    user.kill().expect("kill");
    user.wait().expect("wait");
    assert!(refused.contains(&format!("{} (sleep) uses", user.id())), "{refused}");
    assert_eq!(kernel::mounts_beneath(space.path()).len(), 1);
    assert_eq!(fs::read_to_string(space.path().join("file")).expect("read"), "kept");
    volume.unmount().expect("unmount");
    pool.remove(&wanted.name).expect("remove");
}

/// What a container has of a volume: the space of its root, which the volume cannot be unmounted under.
pub(crate) fn holds_the_top_of_an_overlay<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let (pool, wanted) = (stage.pool(), stage.small("data"));
    let (layer, root) = (stage.sandbox.dir("layer"), stage.sandbox.dir("root"));
    fs::write(layer.join("below"), "below").expect("write");
    let volume = pool.ensure(&wanted).expect("ensure");
    for written in [0, 1] {
        let space = volume.mount().expect("mount");
        OverlayRoot::over(&[&layer]).on(&space).mount(&root).expect("overlay");
        assert_eq!(fs::read_to_string(root.join("below")).expect("read"), "below");
        assert_eq!(names_in(&root).len(), 1 + written);
        fs::write(root.join("above"), "above").expect("write");
        let refused = message(volume.unmount());
        assert!(refused.contains("the overlay root") && refused.contains("is on it"), "{refused}");
        OverlayRoot::unmount(&root).expect("unmount the overlay");
        volume.unmount().expect("unmount");
        stage.assert_at_rest();
    }
    assert_eq!(names_in(&layer).len(), 1);
    pool.remove(&wanted.name).expect("remove");
}

pub(crate) fn bad_input_changes_nothing<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let pool = stage.pool();
    for (size, rule) in
        [(0, "at least"), (4096, "at least"), (512 << 10, "at least"), ((1 << 30) + 1, "multiple of 4096")]
    {
        let message = message(pool.ensure(&stage.sized("data", size)));
        assert!(message.starts_with("invalid volume size") && message.contains(rule), "{message}");
    }
    let message = message(pool.ensure(&stage.sized("data", u64::MAX)));
    assert!(message.contains("less than") || message.contains("no room"), "{message}");
    assert_eq!(pool.list().expect("list"), []);
    stage.assert_at_rest();
}

pub(crate) fn sixteen_at_once<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let pool = stage.pool();
    let specs: Vec<_> = (0..16).map(|i| stage.small(&format!("v{i}"))).collect();
    let volumes = together(16, |i| {
        let volume = pool.ensure(&specs[i]).expect("ensure");
        let space = volume.mount().expect("mount");
        fs::write(space.path().join("name"), volume.spec().name.as_str()).expect("write");
        volume
    });
    assert_eq!(pool.list().expect("list").len(), 16);
    together(16, |i| volumes[i].unmount().expect("unmount"));
    stage.assert_at_rest();
    together(16, |i| {
        let space = volumes[i].mount().expect("mount");
        let name = fs::read_to_string(space.path().join("name")).expect("read");
        assert_eq!(name, volumes[i].spec().name.as_str());
        volumes[i].unmount().expect("unmount");
        pool.remove(&volumes[i].spec().name).expect("remove");
    });
    assert_eq!(pool.list().expect("list"), []);
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
}

pub(crate) fn one_name_for_many_hands<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let (pool, wanted) = (stage.pool(), stage.sized("data", crate::stage::small(filesystem) + MIB));
    together(16, |_| pool.ensure(&wanted).expect("ensure"));
    assert_eq!(pool.list().expect("list").len(), 1);
    let volume = pool.open(&wanted.name).expect("open");
    let spaces = together(8, |_| volume.mount().expect("mount"));
    assert!(spaces.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(kernel::mounts_beneath(spaces[0].path()).len(), 1);
    together(8, |_| volume.unmount().expect("unmount"));
    stage.assert_at_rest();
    together(8, |_| pool.remove(&wanted.name).expect("remove"));
    assert_eq!(pool.list().expect("list"), []);
}
