//! Overlay roots for containers with a user namespace, seen from inside one.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use docklet::idmap::IdMap;
use docklet::storage::{MountMethod, MountedVolume, OverlayPlan, OverlayRoot, Volume};

use crate::kernel;
use crate::overlay::known_or_refused;
use crate::sandbox::{Sandbox, alone, open_descriptors};
use crate::user_namespace::{Inside, LENGTH, OUTSIDE};
use crate::volume::{MIB, message, pool, spec};

pub(crate) fn map() -> IdMap {
    IdMap::new([(0, OUTSIDE, LENGTH)]).expect("a map")
}

struct Fixture {
    layers: Vec<PathBuf>,
    volume: Volume,
    space: MountedVolume,
    target: PathBuf,
    // The last, since it looks for what is left.
    sandbox: Sandbox,
}

/// Two layers: who owns what, links, attributes, programs that run as their owner.
fn fixture() -> Fixture {
    let sandbox = Sandbox::new();
    let base = sandbox.dir("layers");
    let (top, bottom) = (base.join("top"), base.join("bottom"));
    for layer in [&top, &bottom] {
        fs::create_dir_all(layer.join("etc")).expect("mkdir");
    }
    fs::create_dir(bottom.join("home")).expect("mkdir");
    chown(bottom.join("home"), Some(1000), Some(1000)).expect("chown");
    fs::write(top.join("etc/hostname"), "layer\n").expect("write");
    fs::write(bottom.join("etc/shadow"), "secret\n").expect("write");
    fs::set_permissions(bottom.join("etc/shadow"), fs::Permissions::from_mode(0o600)).expect("chmod");
    chown(bottom.join("etc/shadow"), Some(0), Some(42)).expect("chown");
    fs::copy("/usr/bin/id", bottom.join("id")).expect("copy");
    fs::set_permissions(bottom.join("id"), fs::Permissions::from_mode(0o4755)).expect("chmod");
    symlink("etc/hostname", top.join("link")).expect("symlink");
    fs::hard_link(top.join("etc/hostname"), top.join("second")).expect("link");
    rustix::fs::setxattr(top.join("etc/hostname"), "user.note", b"kept", rustix::fs::XattrFlags::empty())
        .expect("setxattr");
    // cap_net_raw=ep, version 2: without an owner.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    rustix::fs::setxattr(
        bottom.join("id"),
        "security.capability",
        &capability,
        rustix::fs::XattrFlags::empty(),
    )
    .expect("setxattr");
    let volume = pool(&sandbox).ensure(&spec("space", 32 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    let target = sandbox.dir("run").join("root");
    // A user namespace's root must be able to get there.
    let prefix = sandbox.paths.prefix();
    for directory in [prefix, &prefix.join("scratch"), &prefix.join("scratch/run")] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    Fixture { layers: vec![top, bottom], volume, space, target, sandbox }
}

impl Fixture {
    fn plan(&self) -> OverlayPlan {
        OverlayRoot::over(&self.layers).on(&self.space).id_map(&map())
    }

    fn end(self) {
        OverlayRoot::unmount(&self.target).expect("unmount");
        self.volume.unmount().expect("unmount volume");
        drop(self.sandbox);
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let found = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (found.uid(), found.gid())
}

/// What everybody may rely on, by whichever calls it was mounted.
fn is_the_containers_own(method: MountMethod) {
    let fixture = fixture();
    let target = &fixture.target;
    let below = |path: &str| fixture.space.path().join("upper").join(path);
    fixture.plan().method(method).mount(target).expect("mount");
    let inside = Inside::new();

    assert_eq!(inside.sh(target, "stat -c '%u:%g' . etc etc/shadow home | xargs"), "0:0 0:0 0:42 1000:1000");
    assert_eq!(inside.sh(target, "cat etc/shadow link second | xargs"), "secret layer layer");
    // What is written lands on the volume, with the ids of the outside.
    inside
        .sh(target, "echo new > new && mkdir d && echo x > d/x && ln -s d l && ln new hard && rm etc/shadow");
    inside.sh(target, "echo more >> etc/hostname && chown 33:33 home && mv d/x d/y && chmod 4755 new");
    assert_eq!(owner(&below("new")), (OUTSIDE, OUTSIDE));
    assert_eq!(owner(&below("l")), (OUTSIDE, OUTSIDE));
    assert_eq!(owner(&below("home")), (OUTSIDE + 33, OUTSIDE + 33));
    assert_eq!(owner(&below("")), (OUTSIDE, OUTSIDE));
    assert_eq!(fs::metadata(below("new")).expect("stat").mode() & 0o7777, 0o4755);
    assert_eq!(
        fs::metadata(below("new")).expect("stat").ino(),
        fs::metadata(below("hard")).expect("stat").ino()
    );
    // The layers stay root's, and as they were.
    assert_eq!(fs::read_to_string(fixture.layers[0].join("etc/hostname")).expect("read"), "layer\n");
    assert_eq!(owner(&fixture.layers[1].join("home")), (1000, 1000));
    assert_eq!(owner(&fixture.layers[1].join("etc/shadow")), (0, 42));
    assert!(inside.sh_fails(&fixture.layers[0], "echo x >> etc/hostname").contains("ermission denied"));

    // What the host's root writes there belongs to nobody inside.
    fs::write(target.join("by-host"), "").expect("write");
    assert_eq!(inside.sh(target, "stat -c %u by-host"), "65534");
    assert!(inside.sh_fails(target, "chown 0 by-host").contains("not permitted"));
    assert!(inside.sh_fails(target, "mknod null c 1 3").contains("not permitted"));

    // It is the same after an end and a new beginning.
    OverlayRoot::unmount(target).expect("unmount");
    drop(inside);
    fixture.volume.unmount().expect("unmount");
    fixture.volume.mount().expect("mount");
    fixture.plan().method(method).mount(target).expect("mount again");
    let inside = Inside::new();
    let seen = inside.sh(target, "cat new d/y etc/hostname && stat -c %u:%g home && test ! -e etc/shadow");
    assert_eq!(seen, "new\nx\nlayer\nmore\n33:33");
    let hidden = fs::read_dir(fixture.space.path().join("upper")).expect("list");
    let hidden: Vec<_> =
        hidden.filter(|e| e.as_ref().expect("entry").file_name().as_encoded_bytes()[0] == b'.').collect();
    assert!(hidden.is_empty(), "{hidden:?}");
    drop(inside);
    fixture.end();
}

#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn mapped_overlay_by_descriptors() {
    known_or_refused(MountMethod::Descriptors, is_the_containers_own);
}

#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn mapped_overlay_by_texts() {
    known_or_refused(MountMethod::Texts, is_the_containers_own);
}

#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn mapped_overlay_by_mount() {
    is_the_containers_own(MountMethod::Classic);
}

/// What a layer or the container has in its root is in nobody's way, and stays.
#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn mapped_overlay_minds_no_name() {
    let fixture = fixture();
    let target = &fixture.target;
    fs::create_dir(fixture.layers[1].join(".docklet-probe")).expect("mkdir");
    fs::write(fixture.layers[1].join(".docklet-probe/file"), "layer").expect("write");
    for round in 0..2 {
        fixture.plan().mount(target).expect("mount");
        let inside = Inside::new();
        assert_eq!(inside.sh(target, "cat .docklet-probe/file"), "layer");
        inside.sh(target, &format!("mkdir -p .docklet .docklet-{round} && mkdir .docklet-probe/{round}"));
        drop(inside);
        OverlayRoot::unmount(target).expect("unmount");
    }
    fixture.plan().mount(target).expect("mount");
    let below = fs::read_dir(fixture.space.path().join("upper")).expect("list").count();
    assert_eq!(below, 4, "what the container made, and the directory that it copied up");
    fixture.end();
}

/// Programs that run as their owner, capabilities and attributes, in a layer and copied up.
#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn mapped_overlay_keeps_what_belongs_to_files() {
    let fixture = fixture();
    let target = &fixture.target;
    fixture.plan().mount(target).expect("mount");
    let inside = Inside::new();
    // As another user of the container: the program's owner is its root.
    let as_user = "setpriv --reuid 1000 --regid 1000 --clear-groups ./id -u";
    assert_eq!(inside.sh(target, as_user), "0");
    inside.sh(target, "touch id link second");
    assert_eq!(inside.sh(target, as_user), "0", "copied up");
    assert_eq!(owner(&fixture.space.path().join("upper/id")), (OUTSIDE, OUTSIDE));
    assert_eq!(inside.sh(target, "readlink link"), "etc/hostname");
    let mut value = [0; 64];
    let length = rustix::fs::getxattr(target.join("second"), "user.note", &mut value).expect("getxattr");
    assert_eq!(&value[..length], b"kept");
    // A capability of the container's root, no longer of everybody's: version 3 with its owner.
    let upper = fixture.space.path().join("upper/id");
    let length = rustix::fs::getxattr(upper, "security.capability", &mut value).expect("getxattr");
    assert_eq!((length, value[3], &value[20..24]), (24, 3, &OUTSIDE.to_le_bytes()[..]));
    drop(inside);
    fixture.end();
}

#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn mapped_overlay_of_many_layers() {
    let mut fixture = fixture();
    // One text, before 6.5, holds fewer.
    let more = if kernel::is_at_least(6, 5) { 498 } else { 20 };
    for number in 0..more {
        let layer = fixture.sandbox.dir(&format!("more/{number}"));
        fs::write(layer.join(number.to_string()), "").expect("write");
        fixture.layers.push(layer);
    }
    let before = kernel::mounts_beneath(Path::new("/"));
    fixture.plan().mount(&fixture.target).expect("mount");
    let mounts = kernel::mounts_beneath(&fixture.target);
    assert_eq!(kernel::mounts_beneath(Path::new("/")).len(), before.len() + 1, "no layer stays covered");
    assert!(
        mounts[0].contains(fixture.layers[more / 2].to_str().expect("UTF-8")),
        "the kernel shows their names"
    );
    fixture.plan().mount(&fixture.target).expect("adopt");
    let inside = Inside::new();
    assert_eq!(inside.sh(&fixture.target, "ls | wc -l"), (more + 5).to_string());
    assert_eq!(inside.sh(&fixture.target, &format!("stat -c %u {} etc/hostname | xargs", more - 1)), "0 0");
    drop(inside);
    fixture.end();
}

#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn another_map_differs() {
    let fixture = fixture();
    let target = &fixture.target;
    let other = IdMap::new([(0, 200_000, LENGTH)]).expect("a map");
    let plain = || OverlayRoot::over(&fixture.layers).on(&fixture.space);
    fixture.plan().mount(target).expect("mount");
    let line = kernel::mounts_beneath(target);
    for another in [plain(), plain().id_map(&other)] {
        let refused = message(another.mount(target));
        assert!(refused.contains("exists but differs: it has another id map"), "{refused}");
    }
    let refused = message(fixture.plan().read_only().mount(target));
    assert!(refused.contains("it is writable, read-only was asked for"), "{refused}");
    assert_eq!(kernel::mounts_beneath(target), line);
    OverlayRoot::unmount(target).expect("unmount");
    // The volume is that container's.
    for (another, asked) in [(plain(), "none was asked"), (plain().id_map(&other), "another one was asked")] {
        let refused = message(another.mount(target));
        assert!(refused.contains("it was written to by an id map") && refused.contains(asked), "{refused}");
    }
    assert_eq!(kernel::mounts_beneath(target), Vec::<String>::new());
    // Also one that nothing was written down of.
    rustix::fs::removexattr(fixture.space.path(), "trusted.docklet.ids").expect("removexattr");
    let refused = message(plain().id_map(&other).mount(target));
    assert!(
        refused.contains("`upper` belongs to 100000:100000, which the id map does not have"),
        "{refused}"
    );
    // A layer that belongs to nobody of the map.
    fs::create_dir(fixture.sandbox.dir("layers").join("far")).expect("mkdir");
    let far = fixture.sandbox.dir("layers").join("far");
    chown(&far, Some(70_000), Some(0)).expect("chown");
    let volume = pool(&fixture.sandbox).ensure(&spec("second", 32 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    let refused = message(OverlayRoot::over(&[far]).on(&space).id_map(&map()).mount(target));
    assert!(refused.contains("must belong to an id of the map; it has 70000"), "{refused}");
    volume.unmount().expect("unmount");
    fixture.end();
}

/// Overlays themselves cannot be mapped: the error says what can.
#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn layers_that_cannot_be_mapped() {
    let fixture = fixture();
    let under = fixture.sandbox.dir("run").join("under");
    OverlayRoot::over(&fixture.layers).read_only().mount(&under).expect("mount");
    let volume = pool(&fixture.sandbox).ensure(&spec("second", 32 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    let refused = message(OverlayRoot::over(&[&under]).on(&space).id_map(&map()).mount(&fixture.target));
    assert!(
        refused.contains("not possible here: it takes kernel 5.19, and layers on a file system"),
        "{refused}"
    );
    assert_eq!(kernel::mounts_beneath(&fixture.target), Vec::<String>::new());
    volume.unmount().expect("unmount");
    OverlayRoot::unmount(&under).expect("unmount");
    fixture.end();
}

/// A full volume is mounted: somebody has to be able to make room in it.
#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn a_full_volume_is_mounted_with_a_map() {
    let fixture = fixture();
    fixture.plan().mount(&fixture.target).expect("mount");
    OverlayRoot::unmount(&fixture.target).expect("unmount");
    let fill = |bytes: usize, name: &str| fs::write(fixture.space.path().join(name), vec![0; bytes]);
    fill(64 << 20, "large").expect_err("full");
    (0..).map(|n| fill(1, &format!("small-{n}"))).find(Result::is_err);
    fixture.plan().mount(&fixture.target).expect("mount a full volume");
    let inside = Inside::new();
    fs::remove_file(fixture.space.path().join("large")).expect("unlink");
    inside.sh(&fixture.target, "echo x > new");
    drop(inside);
    fixture.end();
}

/// No descriptor, no process, no mount but the one asked for; alone, so that counting is fair.
#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn mapped_overlay_leaves_nothing() {
    if !alone("overlay_mapped::mapped_overlay_leaves_nothing") {
        return;
    }
    let fixture = fixture();
    let children =
        || kernel::run("ps", ["--no-headers", "--ppid", &std::process::id().to_string(), "-o", "comm"]);
    let descriptors = open_descriptors();
    for _ in 0..10 {
        fixture.plan().mount(&fixture.target).expect("mount");
        OverlayRoot::unmount(&fixture.target).expect("unmount");
    }
    assert_eq!(children().trim(), "ps");
    // The last thread may be on its way out.
    let threads = || fs::read_dir("/proc/self/task").expect("tasks").count();
    while threads() > 2 {
        std::thread::yield_now();
    }
    assert_eq!(open_descriptors(), descriptors);
    fixture.end();
}
