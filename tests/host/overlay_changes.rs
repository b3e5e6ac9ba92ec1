//! What has changed on a volume, held against what the kernel shows with and without it; and looking into layers.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use docklet::storage::{Changed, Difference, MountedVolume, OverlayPlan, OverlayRoot, Volume};

use crate::kernel;
use crate::overlay_mapped::map;
use crate::sandbox::Sandbox;
use crate::user_namespace::{Inside, OUTSIDE};
use crate::volume::{MIB, message, pool, spec};

/// A file as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    content: Vec<u8>,
    note: Option<Vec<u8>>,
    modified: (i64, i64),
}

fn shown(path: &Path) -> Shown {
    let found = fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let kind = found.file_type();
    let (kind, content) = if kind.is_dir() {
        ("directory", Vec::new())
    } else if kind.is_symlink() {
        ("link", fs::read_link(path).expect("readlink").into_os_string().into_vec())
    } else if kind.is_file() {
        ("file", fs::read(path).expect("read"))
    } else if kind.is_char_device() {
        ("device", found.rdev().to_le_bytes().to_vec())
    } else {
        ("other", Vec::new())
    };
    let mut value = [0; 64];
    let note =
        rustix::fs::lgetxattr(path, "user.note", &mut value).ok().map(|length| value[..length].to_vec());
    let modified = if kind == "directory" { (0, 0) } else { (found.mtime(), found.mtime_nsec()) };
    Shown { kind, mode: found.mode() & 0o7777, owner: (found.uid(), found.gid()), content, note, modified }
}

fn walk(root: &Path) -> BTreeMap<PathBuf, Shown> {
    let mut all = BTreeMap::from([(PathBuf::new(), shown(root))]);
    let mut waiting = vec![PathBuf::new()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(root.join(&directory)).expect("list") {
            let path = directory.join(entry.expect("entry").file_name());
            let entry = shown(&root.join(&path));
            if entry.kind == "directory" {
                waiting.push(path.clone());
            }
            all.insert(path, entry);
        }
    }
    all
}

/// The changes, applied to what the layers show, are what the root shows; and each says in what it differs.
fn agrees_with_the_kernel(plan: &OverlayPlan, layers: &Path, root: &Path) {
    let (before, after) = (walk(layers), walk(root));
    let mut model = before.clone();
    let mut last = None;
    for change in plan.changes().expect("changes") {
        let change = change.expect("a change");
        let path = &change.path;
        assert!(last.as_ref().is_none_or(|last| last < path), "{last:?} before {path:?}");
        let beneath = |other: &Path| other != path && other.starts_with(path);
        match change.what {
            Changed::Added => {
                assert!(!model.contains_key(path), "{path:?} is there already");
                model.insert(path.clone(), after[path].clone());
            }
            Changed::Removed => {
                assert!(model.remove(path).is_some(), "{path:?} was not there");
                model.retain(|other, _| !beneath(other));
            }
            Changed::Differs(difference) => {
                let (old, new) = (&before[path], &after[path]);
                let expected = Difference {
                    kind: old.kind != new.kind,
                    content: old.kind == new.kind && old.content != new.content,
                    mode: old.kind == new.kind && old.mode != new.mode,
                    owner: old.kind == new.kind && old.owner != new.owner,
                    xattrs: old.kind == new.kind && old.note != new.note,
                    modified: old.kind == new.kind && old.modified != new.modified,
                    opaque: difference.opaque,
                };
                assert_eq!(difference, expected, "{path:?}");
                assert_ne!(difference, Difference::default(), "{path:?}");
                if difference.opaque || difference.kind {
                    model.retain(|other, _| !beneath(other));
                }
                model.insert(path.clone(), new.clone());
            }
            other => panic!("{path:?}: {other:?}"),
        }
        last = Some(change.path);
    }
    assert_eq!(model.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    assert_eq!(model, after);
}

fn odd_names() -> Vec<OsString> {
    let mut names: Vec<OsString> =
        ["a b", "a,b", "a:b", "a\\b", "new\nline", "\"'", "ünï", ".wh.x", "-rf", "x".repeat(255).as_str()]
            .map(OsString::from)
            .to_vec();
    names.push(OsString::from_vec(vec![0xff, 0xfe, b'x']));
    names
}

struct Fixture {
    layers: Vec<PathBuf>,
    volume: Volume,
    space: MountedVolume,
    reference: PathBuf,
    target: PathBuf,
    _sandbox: Sandbox,
}

impl Fixture {
    /// Three layers of which each changes what the ones below have; `reference` shows them without the volume.
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let layers: Vec<PathBuf> =
            ["top", "middle", "bottom"].map(|name| sandbox.dir(&format!("layers/{name}"))).into();
        for (number, layer) in layers.iter().enumerate() {
            for directory in ["kept", "emptied", "again", "gone", "deep/deeper/deepest"] {
                fs::create_dir_all(layer.join(directory)).expect("mkdir");
                for file in ["one", &format!("from-{number}")] {
                    fs::write(layer.join(directory).join(file), format!("{directory} {number}"))
                        .expect("write");
                }
            }
            for name in odd_names() {
                fs::write(layer.join("kept").join(&name), "odd").expect("write");
            }
            symlink("kept/one", layer.join("link")).expect("symlink");
            symlink("nowhere", layer.join("dangling")).expect("symlink");
        }
        // In the middle layer something of the lowest is gone, and a directory hides another.
        kernel::run(
            "mknod",
            [layers[1].join("emptied/from-2").as_os_str(), "c".as_ref(), "0".as_ref(), "0".as_ref()],
        );
        fs::write(layers[2].join("hidden-by-middle"), "x").expect("write");
        kernel::run(
            "mknod",
            [layers[1].join("hidden-by-middle").as_os_str(), "c".as_ref(), "0".as_ref(), "0".as_ref()],
        );
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(layers[1].join("again"), "trusted.overlay.opaque", b"y", flags)
            .expect("setxattr");
        rustix::fs::setxattr(layers[0].join("kept/one"), "user.note", b"1", flags).expect("setxattr");
        let volume = pool(&sandbox).ensure(&spec("space", 64 * MIB)).expect("ensure");
        let space = volume.mount().expect("mount");
        let (reference, target) = (sandbox.dir("run").join("reference"), sandbox.dir("run").join("root"));
        Self { layers, volume, space, reference, target, _sandbox: sandbox }
    }

    fn plan(&self) -> OverlayPlan {
        OverlayRoot::over(&self.layers).on(&self.space)
    }

    fn end(self) {
        OverlayRoot::unmount(&self.reference).expect("unmount");
        OverlayRoot::unmount(&self.target).expect("unmount");
        self.volume.unmount().expect("unmount volume");
    }
}

/// What a root is changed to, by hand.
fn change(root: &Path) {
    let at = |path: &str| root.join(path);
    fs::write(at("kept/one"), "changed").expect("write");
    fs::set_permissions(at("kept/from-0"), fs::Permissions::from_mode(0o4711)).expect("chmod");
    chown(at("kept/from-1"), Some(OUTSIDE + 5), Some(OUTSIDE + 6)).expect("chown");
    fs::remove_file(at("kept/from-2")).expect("unlink");
    fs::remove_file(at("emptied/one")).expect("unlink");
    // The same bytes, written anew.
    fs::write(at("emptied/from-0"), "emptied 0").expect("write");
    kernel::run("rm", ["-r".as_ref(), at("gone").as_os_str(), at("again").as_os_str()]);
    fs::create_dir(at("again")).expect("mkdir");
    fs::write(at("again/one"), "other").expect("write");
    fs::create_dir_all(at("deep/deeper/new")).expect("mkdir");
    fs::rename(at("deep/deeper/deepest/one"), at("deep/deeper/new/one")).expect("rename");
    fs::remove_file(at("link")).expect("unlink");
    symlink("elsewhere", at("link")).expect("symlink");
    fs::remove_file(at("dangling")).expect("unlink");
    fs::create_dir(at("dangling")).expect("mkdir");
    fs::write(at("dangling/now-a-directory"), "").expect("write");
    fs::write(at("hidden-by-middle"), "new").expect("write");
    for (number, name) in odd_names().iter().enumerate() {
        match number % 3 {
            0 => fs::remove_file(at("kept").join(name)),
            1 => fs::write(at("kept").join(name), "odder"),
            _ => fs::write(root.join(name), "new"),
        }
        .unwrap_or_else(|e| panic!("{name:?}: {e}"));
    }
    kernel::run("mkfifo", [at("fifo").as_os_str()]);
    rustix::fs::setxattr(at("emptied/from-1"), "user.note", b"2", rustix::fs::XattrFlags::empty())
        .expect("setxattr");
}

#[test]
#[ignore = "needs root: mounts"]
fn changes_are_what_the_kernel_shows() {
    let fixture = Fixture::new();
    OverlayRoot::over(&fixture.layers).read_only().mount(&fixture.reference).expect("mount");
    fixture.plan().mount(&fixture.target).expect("mount");
    assert_eq!(fixture.plan().changes().expect("changes").count(), 0, "a new volume");
    change(&fixture.target);
    agrees_with_the_kernel(&fixture.plan(), &fixture.reference, &fixture.target);
    let of = |path: &str| {
        let mut changes = fixture.plan().changes().expect("changes").map(|change| change.expect("a change"));
        changes.find(|change| change.path == Path::new(path)).map(|change| change.what)
    };
    assert_eq!(of("gone"), Some(Changed::Removed));
    assert_eq!(of("gone/one"), None, "it went with its directory");
    assert_eq!(
        of("hidden-by-middle"),
        Some(Changed::Added),
        "a whiteout of a layer hides the layers below it"
    );
    assert!(matches!(of("again"), Some(Changed::Differs(Difference { opaque: true, .. }))));
    assert!(matches!(of("dangling"), Some(Changed::Differs(Difference { kind: true, .. }))));
    assert_eq!(of("kept"), None, "only what is in it has changed");
    // Unmounted, it is the same.
    let mounted: Vec<_> = fixture.plan().changes().expect("changes").map(|c| c.expect("a change")).collect();
    OverlayRoot::unmount(&fixture.target).expect("unmount");
    let unmounted: Vec<_> =
        fixture.plan().changes().expect("changes").map(|c| c.expect("a change")).collect();
    assert_eq!(mounted, unmounted);
    // Nothing of an overlay's own is a change, and a file that has lost its last change is none.
    let refused = message(OverlayRoot::over(&fixture.layers).read_only().changes().map(drop));
    assert!(refused.contains("must have a volume"), "{refused}");
    fixture.end();
}

/// As above, for what happened to come: a few hundred operations on names that collide often.
#[test]
#[ignore = "needs root: mounts"]
fn random_changes_are_what_the_kernel_shows() {
    let fixture = Fixture::new();
    OverlayRoot::over(&fixture.layers).read_only().mount(&fixture.reference).expect("mount");
    fixture.plan().mount(&fixture.target).expect("mount");
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).expect("fits") % below
    };
    for _ in 0..4 {
        for _ in 0..75 {
            let paths: Vec<PathBuf> =
                walk(&fixture.target).into_keys().filter(|p| p != Path::new("")).collect();
            let some = |index: usize| fixture.target.join(&paths[index]);
            let one = some(random(paths.len()));
            let other = some(random(paths.len()));
            // Many of these fail, as they should: what the kernel then shows is what counts.
            let _ = match random(8) {
                0 => fs::write(&one, random(1000).to_string()),
                1 => fs::remove_file(&one),
                2 => fs::remove_dir(&one),
                3 => fs::create_dir(other.join(random(4).to_string())),
                4 => fs::rename(&one, &other),
                5 => fs::rename(&one, other.join(random(4).to_string())),
                6 => fs::hard_link(&one, other.with_file_name(format!("hard-{}", random(4)))),
                _ => symlink("one", other.join(format!("link-{}", random(4)))),
            };
        }
        agrees_with_the_kernel(&fixture.plan(), &fixture.reference, &fixture.target);
    }
    fixture.end();
}

/// `u::rw-,u:ID:r--,g::r--,m::r--,o::r--` (`man 5 acl`), as an extended attribute.
fn access_list(id: u32) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    for (tag, permissions, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 4, id), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 4, u32::MAX)]
    {
        bytes.extend_from_slice(
            &[&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat(),
        );
    }
    bytes
}

/// With a map the ids are compared as the container sees them.
#[test]
#[ignore = "needs root: mounts, user namespaces"]
fn changes_of_a_mapped_root() {
    let fixture = Fixture::new();
    let plan = || fixture.plan().id_map(&map());
    let listed = fixture.layers[1].join("kept/from-1");
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&listed, "system.posix_acl_access", &access_list(33), flags).expect("setxattr");
    OverlayRoot::over(&fixture.layers).read_only().id_map(&map()).mount(&fixture.reference).expect("mount");
    plan().mount(&fixture.target).expect("mount");
    let prefix = fixture._sandbox.paths.prefix();
    kernel::run("chmod", ["755".as_ref(), prefix.as_os_str(), prefix.join("scratch").as_os_str()]);
    let inside = Inside::new();
    inside.sh(
        &fixture.target,
        "touch -r kept/from-0 t && chmod 600 kept/from-0 && chmod 644 kept/from-0 && rm t",
    );
    // Opening to append copies it up, too.
    inside.sh(&fixture.target, ": >> kept/from-1");
    let list = |path: &Path| {
        let mut value = [0; 64];
        let length = rustix::fs::getxattr(path, "system.posix_acl_access", &mut value)
            .expect("an access control list");
        value[..length].to_vec()
    };
    let upper = fixture.space.path().join("upper/kept/from-1");
    assert_eq!(list(&upper), access_list(OUTSIDE + 33), "on the volume with the host's id");
    assert_eq!(plan().changes().expect("changes").count(), 0, "copied up, but the same");
    inside.sh(
        &fixture.target,
        "chown 33 kept/from-0 && echo x > new && rm -r gone && rm -r again && mkdir again",
    );
    drop(inside);
    agrees_with_the_kernel(&plan(), &fixture.reference, &fixture.target);
    assert_eq!(plan().changes().expect("changes").count(), 4);
    fixture.end();
}

/// What other overlays' options leave is not taken for content.
#[test]
#[ignore = "needs root: mounts"]
fn changes_that_are_elsewhere_are_refused() {
    let fixture = Fixture::new();
    fixture.plan().mount(&fixture.target).expect("mount");
    OverlayRoot::unmount(&fixture.target).expect("unmount");
    let upper = fixture.space.path().join("upper");
    let options = format!(
        "redirect_dir=on,lowerdir={},upperdir={},workdir={}",
        fixture.layers[2].display(),
        upper.display(),
        fixture.space.path().join("work").display()
    );
    fs::create_dir_all(&fixture.target).expect("mkdir");
    kernel::run(
        "mount",
        ["-t", "overlay", "-o", &options, "x", fixture.target.to_str().expect("UTF-8")].map(OsStr::new),
    );
    let refused = message(fixture.plan().mount(&fixture.target));
    assert!(
        refused.contains("was not mounted by docklet") && refused.contains("redirect_dir=on"),
        "{refused}"
    );
    fs::rename(fixture.target.join("kept"), fixture.target.join("moved")).expect("rename");
    OverlayRoot::unmount(&fixture.target).expect("unmount");
    let found = fixture.plan().changes().expect("changes").find_map(Result::err).expect("an error");
    assert!(found.to_string().contains("trusted.overlay.redirect"), "{found}");
    fixture.end();
}

/// Nested deeper than one path of the kernel is long.
#[test]
#[ignore = "needs root: mounts"]
fn changes_in_deep_directories() {
    let fixture = Fixture::new();
    fixture.plan().mount(&fixture.target).expect("mount");
    let name = "d".repeat(250);
    let mut directory = rustix::fs::open(
        &fixture.target,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY,
        rustix::fs::Mode::empty(),
    )
    .expect("open");
    for _ in 0..40 {
        rustix::fs::mkdirat(&directory, &name, rustix::fs::Mode::RWXU).expect("mkdir");
        directory = rustix::fs::openat(
            &directory,
            &name,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY,
            rustix::fs::Mode::empty(),
        )
        .expect("open");
    }
    drop(directory);
    let paths: Vec<PathBuf> =
        fixture.plan().changes().expect("changes").map(|c| c.expect("a change").path).collect();
    assert_eq!(paths.len(), 40);
    assert_eq!(paths[39].as_os_str().len(), 40 * 251 - 1);
    fs::write(fixture.target.join("later"), "x").expect("write");
    let last = fixture.plan().changes().expect("changes").last().expect("one").expect("a change");
    assert_eq!(last.path, Path::new("later"), "the way back up ends at the root");
    fixture.end();
}

#[test]
#[ignore = "needs root: devices"]
fn layers_are_looked_into_as_an_overlay_would() {
    let fixture = Fixture::new();
    let (top, bottom) = (&fixture.layers[0], &fixture.layers[2]);
    symlink("/deep/../kept/one", bottom.join("absolute")).expect("symlink");
    symlink("../../../../kept", bottom.join("deep/climbing")).expect("symlink");
    symlink("circle", top.join("circle")).expect("symlink");
    symlink("/etc/passwd", top.join("passwd")).expect("symlink");
    OverlayRoot::over(&fixture.layers).read_only().mount(&fixture.reference).expect("mount");
    let found = |path: &str| OverlayRoot::over(&fixture.layers).metadata(Path::new(path)).expect("metadata");
    for path in [
        "/",
        "/kept",
        "kept/one",
        "/kept/from-2",
        "/emptied/from-2",
        "/emptied/from-1",
        "/again/from-2",
        "/again/from-1",
        "/hidden-by-middle",
        "/link",
        "/link/x",
        "/dangling",
        "/absolute",
        "/deep/climbing/from-2",
        "/circle",
        "/passwd",
        "/kept/one/x",
        "/../kept/one",
        "/nothing",
    ] {
        let kernels = in_root(&fixture.reference, path);
        assert_eq!(found(path).map(|found| (found.mode(), found.size())), kernels, "{path}");
    }
    fixture.end();
}

/// What the kernel finds at `path` with `root` for a root.
fn in_root(root: &Path, path: &str) -> Option<(u32, u64)> {
    let root = fs::File::open(root).expect("open");
    let relative = path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    let file = rustix::fs::openat2(
        &root,
        relative,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
        rustix::fs::ResolveFlags::IN_ROOT,
    )
    .ok()?;
    let found = fs::File::from(file).metadata().expect("stat");
    Some((found.mode(), found.size()))
}
