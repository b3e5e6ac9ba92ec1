//! Roots that nobody can write to.

use std::fs;
use std::path::{Path, PathBuf};

use docklet::storage::OverlayRoot;

use crate::kernel;
use crate::overlay::methods;
use crate::overlay_mapped::map;
use crate::sandbox::Sandbox;
use crate::user_namespace::Inside;
use crate::volume::{MIB, message, pool, spec};

fn layers(base: &Path, count: usize) -> Vec<PathBuf> {
    (0..count)
        .map(|number| {
            let layer = base.join(number.to_string());
            fs::create_dir_all(layer.join("directory")).expect("mkdir");
            fs::write(layer.join(format!("file-{number}")), "x").expect("write");
            layer
        })
        .collect()
}

fn refuses(target: &Path) {
    for result in [
        fs::write(target.join("new"), "x"),
        fs::write(target.join("file-0"), "x"),
        fs::remove_file(target.join("file-0")),
        fs::create_dir(target.join("directory/new")),
    ] {
        assert_eq!(result.expect_err("must be refused").raw_os_error(), Some(libc::EROFS));
    }
}

#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn read_only_roots_of_any_number_of_layers() {
    let sandbox = Sandbox::new();
    for (number, method) in methods().into_iter().enumerate() {
        for count in [1, 2, 5] {
            let base = sandbox.dir(&format!("layers-{number}-{count}"));
            let layers = layers(&base, count);
            let target = sandbox.dir("run").join(format!("root-{number}-{count}"));
            let plan = || OverlayRoot::over(&layers).read_only().method(method);
            plan()
                .mount(&target)
                .unwrap_or_else(|e| panic!("{method:?} {count}: {}", docklet::error::Chain(&e)));
            refuses(&target);
            let names = fs::read_dir(&target).expect("list").count();
            assert_eq!(names, count + 1, "{method:?} {count}");
            plan().mount(&target).expect("adopt");
            let mounts = kernel::mounts_beneath(&target);
            assert!(mounts.len() == 1 && mounts[0].contains(" ro,"), "{mounts:?}");
            // Not even by making the mount writable again.
            if count > 1 {
                let remount = ["-o", "remount,rw,bind", target.to_str().expect("UTF-8")];
                kernel::run("mount", remount);
                refuses(&target);
                let refused = message(plan().mount(&target));
                assert!(refused.contains("it is writable, read-only was asked for"), "{refused}");
            }
            OverlayRoot::unmount(&target).expect("unmount");
            assert_eq!(kernel::mounts_beneath(&target), Vec::<String>::new());
        }
    }
}

#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn a_read_only_root_shows_its_volume() {
    let sandbox = Sandbox::new();
    let layers = layers(&sandbox.dir("layers"), 1);
    let volume = pool(&sandbox).ensure(&spec("space", 32 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    let target = sandbox.dir("run").join("root");
    let plan = || OverlayRoot::over(&layers).on(&space);
    plan().mount(&target).expect("mount");
    fs::write(target.join("written"), "kept").expect("write");
    let refused = message(plan().read_only().mount(&target));
    assert!(refused.contains("it is writable, read-only was asked for"), "{refused}");
    OverlayRoot::unmount(&target).expect("unmount");
    for method in methods() {
        plan().read_only().method(method).mount(&target).expect("mount");
        assert_eq!(fs::read_to_string(target.join("written")).expect("read"), "kept");
        refuses(&target);
        let refused = message(plan().mount(&target));
        assert!(refused.contains("it is read-only, writable was asked for"), "{refused}");
        OverlayRoot::unmount(&target).expect("unmount");
    }
    plan().mount(&target).expect("mount");
    fs::write(target.join("written"), "changed").expect("write");
    OverlayRoot::unmount(&target).expect("unmount");
    volume.unmount().expect("unmount");
}

#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn a_read_only_root_with_a_map() {
    let sandbox = Sandbox::new();
    for method in methods() {
        for count in [1, 2] {
            let layers = layers(&sandbox.dir(&format!("layers-{method:?}-{count}")), count);
            let target = sandbox.dir("run").join(format!("root-{method:?}-{count}"));
            let prefix = sandbox.paths.prefix();
            kernel::run("chmod", ["755".as_ref(), prefix.as_os_str()]);
            let plan = || OverlayRoot::over(&layers).read_only().id_map(&map()).method(method);
            plan().mount(&target).expect("mount");
            let inside = Inside::new();
            assert_eq!(inside.sh(&target, "stat -c %u file-0 directory | xargs"), "0 0");
            assert!(inside.sh_fails(&target, "touch new").contains("Read-only file system"));
            // Not by its root's own mounts, either.
            let remount = inside.sh_fails(&target, "mount -o remount,rw,bind \"$PWD\"");
            assert!(remount.contains("permission denied"), "{remount}");
            drop(inside);
            refuses(&target);
            plan().mount(&target).expect("adopt");
            OverlayRoot::unmount(&target).expect("unmount");
        }
    }
}
