//! Volumes grow, mounted or not, and never shrink.

use std::fs::{self, File};
use std::io::{Read, Write};

use docklet::Error;
use docklet::storage::Filesystem;

use crate::back_end::BackEnd;
use crate::stage::{
    MIB, Stage, check_whole, is_on_device, may_grow_mounted, message, sha256, small, space_of,
};

pub(crate) fn grows_while_it_is_written_to<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let (pool, wanted) = (stage.pool(), stage.small("data"));
    let mut volume = pool.ensure(&wanted).expect("ensure");
    let space = volume.mount().expect("mount");
    if !may_grow_mounted(filesystem) {
        let refused = message(volume.grow(1 << 30));
        assert!(refused.contains("while it is mounted") && refused.contains("CAP_SYS_RESOURCE"), "{refused}");
        assert_eq!(volume.limit(), B::limit(wanted.size_bytes));
        volume.unmount().expect("unmount");
        assert_eq!(pool.open(&wanted.name).expect("open").spec(), &wanted);
        pool.remove(&wanted.name).expect("remove");
        return;
    }
    let (file, outside) = (space.path().join("file"), stage.sandbox.dir("outside").join("file"));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut random = File::open("/dev/urandom").expect("open");
            let mut copies = [&file, &outside].map(|path| File::create(path).expect("create"));
            let mut block = vec![0; 100 << 10];
            for _ in 0..150 {
                random.read_exact(&mut block).expect("random bytes");
                for copy in &mut copies {
                    copy.write_all(&block).expect("write");
                }
                copies[0].sync_data().expect("fdatasync");
            }
        });
        for size in [small(filesystem) + 64 * MIB, 600 * MIB, 1 << 30] {
            volume.grow(size).expect("grow");
            assert_eq!(volume.limit(), B::limit(size));
        }
        writer.join().expect("writer");
    });
    assert!(space_of(&space).0 > 800 * MIB, "{:?}", space_of(&space));
    assert_eq!(sha256(&file), sha256(&outside));
    // The new room is real: more than all of the old size is written to it. Not all of it is: that takes a guest a minute.
    let mut large = File::create(space.path().join("large")).expect("create");
    for _ in 0..wanted.size_bytes / MIB + 64 {
        large.write_all(&vec![0x5a; 1 << 20]).expect("write");
    }
    large.sync_all().expect("sync");
    drop(large);
    volume.unmount().expect("unmount");
    if is_on_device(filesystem) {
        check_whole(filesystem, &volume.file());
    }
    let space = pool.ensure(&stage.sized("data", 1 << 30)).expect("its new size").mount().expect("mount");
    assert_eq!(sha256(&space.path().join("file")), sha256(&outside));
    volume.unmount().expect("unmount");
    pool.remove(&wanted.name).expect("remove");
}

pub(crate) fn grows_at_rest<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let (pool, wanted) = (stage.pool(), stage.small("data"));
    let mut volume = pool.ensure(&wanted).expect("ensure");
    let space = volume.mount().expect("mount");
    fs::write(space.path().join("file"), vec![7; 5 << 20]).expect("write");
    volume.unmount().expect("unmount");
    volume.grow(640 * MIB).expect("grow");
    assert_eq!(volume.spec().size_bytes, 640 * MIB);
    stage.assert_at_rest();
    volume.grow(640 * MIB).expect("the present size changes nothing");
    assert_eq!(pool.open(&wanted.name).expect("open"), volume);
    let space = volume.mount().expect("mount");
    assert!(space_of(&space).0 > 500 * MIB, "{:?}", space_of(&space));
    assert_eq!(fs::read(space.path().join("file")).expect("read"), vec![7; 5 << 20]);
    volume.unmount().expect("unmount");
    if is_on_device(filesystem) {
        check_whole(filesystem, &volume.file());
    }
    pool.remove(&wanted.name).expect("remove");
    assert!(matches!(volume.grow(1 << 30), Err(Error::NotFound { .. })));
}

pub(crate) fn never_shrinks<B: BackEnd>(filesystem: Filesystem) {
    let stage = Stage::<B>::new(filesystem);
    let (pool, wanted) = (stage.pool(), stage.sized("data", 512 * MIB));
    let mut volume = pool.ensure(&wanted).expect("ensure");
    let space = volume.mount().expect("mount");
    fs::write(space.path().join("file"), "kept").expect("write");
    let before = space_of(&space).0;
    if may_grow_mounted(filesystem) {
        let refused = message(volume.grow(400 * MIB));
        assert!(refused.contains("volumes never shrink: volume `data` has 536870912 bytes"), "{refused}");
    }
    assert_eq!(space_of(&space).0, before);
    volume.unmount().expect("unmount");
    let refused = message(volume.grow(400 * MIB));
    assert!(refused.contains("volumes never shrink: volume `data` has 536870912 bytes"), "{refused}");
    stage.assert_at_rest();
    assert_eq!(pool.open(&wanted.name).expect("open").spec(), &wanted);
    let space = volume.mount().expect("mount");
    assert_eq!(space_of(&space).0, before);
    assert_eq!(fs::read_to_string(space.path().join("file")).expect("read"), "kept");
    volume.unmount().expect("unmount");
    pool.remove(&wanted.name).expect("remove");
}
