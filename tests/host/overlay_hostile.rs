//! Overlays on a host that is not as it should be: strange names, links in the way, what crashes left, many at once.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Barrier;

use docklet::Error;
use docklet::storage::{MountMethod, MountedVolume, OverlayRoot, Volume, VolumePool};

use crate::kernel;
use crate::overlay::methods;
use crate::overlay_mapped::map;
use crate::sandbox::Sandbox;
use crate::volume::{MIB, message, pool, spec};

fn layer(sandbox: &Sandbox) -> Vec<PathBuf> {
    let layer = sandbox.dir("layers/one");
    fs::write(layer.join("file"), "layer").expect("write");
    vec![layer, sandbox.dir("layers/two")]
}

fn mounted(sandbox: &Sandbox) -> (Volume, MountedVolume) {
    let volume = pool(sandbox).ensure(&spec("space", 32 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    (volume, space)
}

/// The longest names, and those that are no text, for everything.
#[test]
#[ignore = "needs root: mounts"]
fn overlay_names_that_are_long_or_no_text() {
    let sandbox = Sandbox::new();
    let strange = OsString::from_vec(b"\xff\xfe \\:,\n\x01\xc3".to_vec());
    for (number, name) in
        [OsString::from("x".repeat(255)), strange, OsString::from("é,:\\".repeat(51))].iter().enumerate()
    {
        let base = sandbox.dir(&number.to_string());
        let layers: Vec<PathBuf> = ["a", "b"].map(|part| base.join(part).join(name)).into();
        for layer in &layers {
            fs::create_dir_all(layer).expect("mkdir");
        }
        fs::write(layers[1].join("file"), "layer").expect("write");
        let volumes = base.join("volumes");
        fs::create_dir(&volumes).expect("mkdir");
        let volume =
            VolumePool::loop_files(volumes.join(name)).expect("pool").ensure(&spec("space", 32 * MIB));
        let volume = volume.expect("ensure");
        let space = volume.mount().expect("mount");
        let target = base.join("run").join(name);
        fs::create_dir(base.join("run")).expect("mkdir");
        for method in methods().into_iter().chain([MountMethod::Newest]).filter(|m| *m != MountMethod::Texts)
        {
            for mapped in [false, true] {
                let plan = || {
                    let plan = OverlayRoot::over(&layers).on(&space).method(method);
                    if mapped { plan.id_map(&map()) } else { plan }
                };
                // A volume belongs to one map for good.
                let names = ["upper", "work"].map(|name| space.path().join(name));
                for directory in names.iter().filter(|directory| directory.exists()) {
                    let name = directory.file_name().expect("a name");
                    docklet::storage::remove_tree(space.path(), Path::new(name)).expect("remove");
                }
                plan().mount(&target).unwrap_or_else(|e| {
                    panic!("{number} {method:?} {mapped}: {}", docklet::error::Chain(&e))
                });
                plan().mount(&target).expect("adopt");
                assert_eq!(fs::read_to_string(target.join("file")).expect("read"), "layer");
                fs::write(target.join("file"), "written").expect("write");
                assert_eq!(fs::read_to_string(space.path().join("upper/file")).expect("read"), "written");
                assert_eq!(plan().changes().expect("changes").count(), 1);
                OverlayRoot::unmount(&target).expect("unmount");
            }
        }
        volume.unmount().expect("unmount");
    }
}

#[test]
#[ignore = "needs root: mounts"]
fn links_are_not_followed() {
    let sandbox = Sandbox::new();
    let layers = layer(&sandbox);
    let (volume, space) = mounted(&sandbox);
    let (run, decoy) = (sandbox.dir("run"), sandbox.dir("decoy"));
    symlink(&decoy, run.join("link")).expect("symlink");
    let refused = message(OverlayRoot::over(&layers).on(&space).mount(&run.join("link")));
    assert!(refused.contains("must not be a link"), "{refused}");
    symlink(&run, sandbox.dir("x").join("way")).expect("symlink");
    let root =
        OverlayRoot::over(&layers).on(&space).mount(&sandbox.dir("x").join("way/root")).expect("mount");
    assert_eq!(root.path(), run.join("root"), "a link on the way is, and is told");
    OverlayRoot::unmount(root.path()).expect("unmount");

    let target = run.join("root");
    for name in ["upper", "work"] {
        let path = space.path().join(name);
        fs::rename(&path, space.path().join("aside")).expect("rename");
        symlink(&decoy, &path).expect("symlink");
        let refused = message(OverlayRoot::over(&layers).on(&space).mount(&target));
        assert!(refused.contains(&format!("its `{name}` is no directory")), "{refused}");
        fs::remove_file(&path).expect("unlink");
        fs::rename(space.path().join("aside"), &path).expect("rename");
    }
    assert_eq!(fs::read_dir(&decoy).expect("list").count(), 0);
    assert_eq!(kernel::mounts_beneath(&run), Vec::<String>::new());

    let inside = OverlayRoot::over(&layers).on(&space).mount(&space.path().join("root"));
    assert!(message(inside).contains("must not lie on the volume that it writes to"));
    for nested in [
        vec![layers[0].clone(), layers[0].parent().expect("a parent").to_owned()],
        vec![sandbox.paths.prefix().to_owned()],
        vec![space.path().join("upper")],
    ] {
        let refused = message(OverlayRoot::over(&nested).on(&space).mount(&target));
        assert!(
            refused.contains("must lie apart") || refused.contains("must not lie in another layer"),
            "{refused}"
        );
    }
    volume.unmount().expect("unmount");
}

/// Somebody exchanges a directory again and again while it is mounted: it is the one that was looked at, or an error.
#[test]
#[ignore = "needs root: mounts"]
fn an_exchanged_upper_is_never_written_to() {
    let sandbox = Sandbox::new();
    let layers = layer(&sandbox);
    let (volume, space) = mounted(&sandbox);
    let target = sandbox.dir("run").join("root");
    let decoy = sandbox.dir("decoy");
    let plan = || OverlayRoot::over(&layers).on(&space);
    plan().mount(&target).expect("mount");
    OverlayRoot::unmount(&target).expect("unmount");
    symlink(&decoy, space.path().join("link")).expect("symlink");
    let upper = space.path().join("upper");
    let done = std::sync::atomic::AtomicBool::new(false);
    let mounts = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let at = rustix::fs::CWD;
                rustix::fs::renameat_with(at, &upper, at, space.path().join("link"), flags)
                    .expect("exchange");
            }
        });
        let mut mounts = 0;
        for _ in 0..200 {
            if plan().mount(&target).is_ok() {
                mounts += 1;
                fs::write(target.join("written"), "x").expect("write");
                OverlayRoot::unmount(&target).expect("unmount");
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        mounts
    });
    assert_eq!(fs::read_dir(&decoy).expect("list").count(), 0, "after {mounts} mounts");
    assert_eq!(kernel::mounts_beneath(&target), Vec::<String>::new());
    volume.unmount().expect("unmount");
}

/// What a kernel that stopped left in the work directory is cleared by the next; what says that data is lost is told.
#[test]
#[ignore = "needs root: mounts"]
fn overlay_after_a_crash() {
    let sandbox = Sandbox::new();
    let layers = layer(&sandbox);
    let (volume, space) = mounted(&sandbox);
    let target = sandbox.dir("run").join("root");
    let plan = || OverlayRoot::over(&layers).on(&space);
    plan().mount(&target).expect("mount");
    fs::write(target.join("kept"), "x").expect("write");
    OverlayRoot::unmount(&target).expect("unmount");
    let work = space.path().join("work");
    fs::create_dir_all(work.join("work/#1a/deep")).expect("mkdir");
    fs::write(work.join("work/#2b"), "half").expect("write");
    fs::create_dir_all(work.join("index/00fb")).expect("mkdir");
    plan().mount(&target).expect("mount");
    assert!(target.join("kept").exists());
    assert_eq!(fs::read_dir(work.join("work")).expect("list").count(), 0);
    OverlayRoot::unmount(&target).expect("unmount");

    fs::create_dir_all(work.join("work/incompat/volatile")).expect("mkdir");
    let refused = plan().mount(&target).expect_err("data may be lost");
    assert!(matches!(refused, Error::Damaged { .. }), "{refused}");
    assert!(refused.to_string().contains("remove"), "{refused}");
    fs::remove_dir(work.join("work/incompat/volatile")).expect("rmdir");
    plan().mount(&target).expect("mount");
    OverlayRoot::unmount(&target).expect("unmount");

    // Made half: an upper directory without a work directory is finished.
    docklet::storage::remove_tree(space.path(), Path::new("work")).expect("remove");
    plan().mount(&target).expect("mount");
    assert!(target.join("kept").exists());
    OverlayRoot::unmount(&target).expect("unmount");
    volume.unmount().expect("unmount");
}

/// A file system stops after an error: nobody is told that such a root can be written to.
#[test]
#[ignore = "needs root: mounts"]
fn a_volume_that_became_read_only() {
    let sandbox = Sandbox::new();
    let layers = layer(&sandbox);
    let (volume, space) = mounted(&sandbox);
    let target = sandbox.dir("run").join("root");
    let plan = || OverlayRoot::over(&layers).on(&space);
    let read_only = ["-o", "remount,ro", space.path().to_str().expect("UTF-8")];
    let writable = ["-o", "remount,rw", space.path().to_str().expect("UTF-8")];
    for made in [false, true] {
        kernel::run("mount", read_only);
        let refused = plan().mount(&target).expect_err("it cannot be written to");
        assert!(matches!(refused, Error::Damaged { .. }), "{made} {refused}");
        assert!(refused.to_string().contains("check it with fsck"), "{refused}");
        if made {
            plan().read_only().mount(&target).expect("it can be read");
            assert_eq!(fs::read_to_string(target.join("file")).expect("read"), "layer");
            OverlayRoot::unmount(&target).expect("unmount");
        }
        assert_eq!(kernel::mounts_beneath(&target), Vec::<String>::new());
        kernel::run("mount", writable);
        plan().mount(&target).expect("mount");
        OverlayRoot::unmount(&target).expect("unmount");
    }
    volume.unmount().expect("unmount");
}

/// However many ask for the same root, it is mounted once; another one on the same target is not mounted over it.
#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn sixteen_at_once_make_one_mount() {
    let sandbox = Sandbox::new();
    let layers = layer(&sandbox);
    let (volume, space) = mounted(&sandbox);
    let target = sandbox.dir("run").join("root");
    let plans = [
        OverlayRoot::over(&layers).read_only(),
        OverlayRoot::over(&layers[..1]).read_only(),
        OverlayRoot::over(&layers).read_only().id_map(&map()),
        OverlayRoot::over(&layers).on(&space).id_map(&map()),
    ];
    for plan in &plans {
        let barrier = Barrier::new(16);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    barrier.wait();
                    plan.clone().mount(&target).expect("mount");
                });
            }
        });
        assert_eq!(kernel::mounts_beneath(&target).len(), 1);
        OverlayRoot::unmount(&target).expect("unmount");
    }
    let barrier = Barrier::new(16);
    let mounted: usize = std::thread::scope(|scope| {
        let all: Vec<_> = (0..16)
            .map(|number| {
                let (plan, barrier, target) = (plans[number % 4].clone(), &barrier, &target);
                scope.spawn(move || {
                    barrier.wait();
                    match plan.mount(target) {
                        Ok(_) => 1,
                        Err(Error::Differs { .. }) => 0,
                        Err(other) => panic!("{other}"),
                    }
                })
            })
            .collect();
        all.into_iter().map(|thread| thread.join().expect("thread")).sum()
    });
    assert_eq!((mounted, kernel::mounts_beneath(&target).len()), (4, 1));
    OverlayRoot::unmount(&target).expect("unmount");
    volume.unmount().expect("unmount");
}
