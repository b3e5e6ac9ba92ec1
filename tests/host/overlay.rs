//! Overlay roots: the right directories, whatever they are called, and only once.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use docklet::storage::{MountMethod, MountedVolume, OverlayRoot, Volume, VolumePool};

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::volume::{MIB, message, pool, spec};

/// Layers named `names` in a directory of the test's own, each with a file `from` that holds its number and a file
/// called by its number.
fn layers(base: &Path, names: &[&str]) -> Vec<PathBuf> {
    names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let layer = base.join(name);
            fs::create_dir(&layer).unwrap_or_else(|e| panic!("{}: {e}", layer.display()));
            fs::write(layer.join("from"), number.to_string()).expect("write");
            fs::write(layer.join(number.to_string()), "").expect("write");
            layer
        })
        .collect()
}

fn mounted(pool: &VolumePool, name: &str) -> (Volume, MountedVolume) {
    let volume = pool.ensure(&spec(name, 32 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    (volume, space)
}

#[test]
#[ignore = "needs root: mounts"]
fn overlay_keeps_the_order_and_writes_to_the_volume() {
    let sandbox = Sandbox::new();
    let (volume, space) = mounted(&pool(&sandbox), "space");
    let layers = layers(&sandbox.dir("layers"), &["top", "middle", "bottom"]);
    fs::set_permissions(&layers[0], fs::Permissions::from_mode(0o751)).expect("chmod");
    std::os::unix::fs::chown(&layers[0], Some(1234), Some(567)).expect("chown");
    fs::remove_file(layers[0].join("from")).expect("unlink");
    let target = sandbox.dir("run").join("root");
    let root = OverlayRoot::over(&layers).on(&space).mount(&target).expect("mount");
    assert_eq!(root.path(), target);
    let mounts = kernel::mounts_beneath(&target);
    assert!(mounts.len() == 1 && mounts[0].contains(" - overlay docklet:layers="), "{mounts:?}");

    let as_layer = fs::metadata(&target).expect("stat");
    assert_eq!((as_layer.mode() & 0o7777, as_layer.uid(), as_layer.gid()), (0o751, 1234, 567));
    assert_eq!(fs::read_to_string(target.join("from")).expect("read"), "1");
    assert!(["0", "1", "2"].iter().all(|name| target.join(name).exists()));
    fs::write(target.join("from"), "changed").expect("write");
    fs::write(target.join("new"), "new").expect("write");
    fs::remove_file(target.join("2")).expect("unlink");
    assert_eq!(fs::read_to_string(space.path().join("upper/from")).expect("read"), "changed");
    assert_eq!(fs::read_to_string(layers[1].join("from")).expect("read"), "1");
    assert!(layers[2].join("2").exists() && !layers[0].join("new").exists());

    // The overlay has its own hold of the volume.
    let refused = message(volume.unmount());
    assert!(refused.contains(&format!("the overlay root {} is on it", target.display())), "{refused}");
    OverlayRoot::unmount(&target).expect("unmount");
    OverlayRoot::unmount(&target).expect("what is not mounted is unmounted");
    OverlayRoot::unmount(&target.join("not/there")).expect("what is not there is unmounted");
    volume.unmount().expect("unmount volume");
    assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()), Vec::<String>::new());

    let space = volume.mount().expect("mount volume");
    OverlayRoot::over(&layers).on(&space).mount(&target).expect("mount");
    assert_eq!(fs::read_to_string(target.join("from")).expect("read"), "changed");
    assert!(target.join("new").exists() && !target.join("2").exists());
    OverlayRoot::unmount(&target).expect("unmount");
    volume.unmount().expect("unmount volume");
}

/// A wrong escape does not fail: it mounts another directory. So each odd name has a decoy beside it.
fn odd_names_work_by(method: MountMethod) {
    let sandbox = Sandbox::new();
    let names = [
        "a b",
        "a,b",
        "a:b",
        "a\\b",
        "a\\:b",
        "a\\,b",
        "a\\\\b",
        "new\nline",
        "tab\tx",
        "end\\",
        "x=y",
        "lowerdir=z",
        "ünï",
        "#\"'",
        "a\\040b",
        "%s",
        ":",
        ",",
        "\\",
    ];
    let base = sandbox.dir("layers");
    let all = layers(&base, &names);
    // Short enough for one text of options, too.
    for (index, name) in names.iter().enumerate() {
        let odd = sandbox.dir("pools").join(format!("pool {name}"));
        for decoy in [name.replace('\\', ""), name.replace(['\\', ':'], ""), name.replace("\\:", ":")] {
            let decoy = sandbox.dir("pools").join(format!("pool {decoy}")).join("mounts/space");
            fs::create_dir_all(decoy.join("upper")).expect("mkdir");
            fs::create_dir_all(decoy.join("work")).expect("mkdir");
        }
        let (volume, space) = mounted(&VolumePool::loop_files(&odd).expect("pool"), "space");
        let mut layers = all.clone();
        layers.rotate_left(index);
        let target = sandbox.dir("targets").join(name);
        let root = OverlayRoot::over(&layers).on(&space).method(method).mount(&target);
        let root = root.unwrap_or_else(|e| panic!("{name:?} {}", docklet::error::Chain(&e)));
        assert_eq!(fs::read_to_string(target.join("from")).expect("read"), index.to_string(), "{name:?}");
        for number in 0..names.len() {
            assert!(target.join(number.to_string()).exists(), "layer {number} below {name:?}");
        }
        fs::write(target.join("written"), "x").expect("write");
        assert!(space.path().join("upper/written").exists(), "{name:?}");
        // What the kernel shows of it is recognized again.
        OverlayRoot::over(&layers).on(&space).mount(&target).unwrap_or_else(|e| panic!("{name:?} {e}"));
        let shown = fs::read("/proc/thread-self/mountinfo").expect("mountinfo");
        let overlays = String::from_utf8_lossy(&shown)
            .lines()
            .filter(|l| l.contains(" - overlay ") && l.contains("/targets/"))
            .count();
        assert_eq!(overlays, 1);
        OverlayRoot::unmount(root.path()).expect("unmount");
        volume.unmount().expect("unmount volume");
    }
}

/// The methods that this kernel knows.
pub(crate) fn methods() -> Vec<MountMethod> {
    let since =
        [(MountMethod::Descriptors, (6, 13)), (MountMethod::Texts, (6, 5)), (MountMethod::Classic, (0, 0))];
    let known = since.into_iter().filter(|(_, (major, minor))| kernel::is_at_least(*major, *minor));
    known.map(|(method, _)| method).collect()
}

/// Runs the test if this kernel knows the method; else that must be what it says.
pub(crate) fn known_or_refused(method: MountMethod, test: fn(MountMethod)) {
    if methods().contains(&method) { test(method) } else { unknown_here(method) }
}

/// A method that this kernel is too old for fails and mounts nothing; without a wish the overlay is mounted all the same.
pub(crate) fn unknown_here(method: MountMethod) {
    let sandbox = Sandbox::new();
    let (volume, space) = mounted(&pool(&sandbox), "space");
    let layers = layers(&sandbox.dir("layers"), &["a", "b"]);
    let target = sandbox.dir("run").join("root");
    let refused = message(OverlayRoot::over(&layers).on(&space).method(method).mount(&target));
    assert!(refused.starts_with("fsconfig on overlay root"), "{refused}");
    assert_eq!(kernel::mounts_beneath(&target), Vec::<String>::new());
    OverlayRoot::over(&layers).on(&space).mount(&target).expect("mount");
    OverlayRoot::unmount(&target).expect("unmount");
    volume.unmount().expect("unmount volume");
}

#[test]
#[ignore = "needs root: mounts"]
fn overlay_odd_names_by_descriptors() {
    known_or_refused(MountMethod::Descriptors, odd_names_work_by);
}

#[test]
#[ignore = "needs root: mounts"]
fn overlay_odd_names_by_texts() {
    known_or_refused(MountMethod::Texts, odd_names_work_by);
}

#[test]
#[ignore = "needs root: mounts"]
fn overlay_odd_names_by_mount() {
    odd_names_work_by(MountMethod::Classic);
}

#[test]
#[ignore = "needs root: mounts"]
fn overlay_is_adopted_or_differs() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    let (volume, space) = mounted(&pool, "space");
    let (other_volume, other_space) = mounted(&pool, "other");
    let layers = layers(&sandbox.dir("layers"), &["a", "b"]);
    let target = sandbox.dir("run").join("root");
    let mount = |layers: &[PathBuf], space: &MountedVolume, target: &Path| {
        OverlayRoot::over(layers).on(space).mount(target)
    };
    let first = mount(&layers, &space, &target).expect("mount");
    let line = kernel::mounts_beneath(&target);
    assert_eq!(mount(&layers, &space, &target).expect("adopt"), first);
    assert_eq!(kernel::mounts_beneath(&target), line);

    let reversed = [layers[1].clone(), layers[0].clone()];
    for (refused, difference) in [
        (mount(&layers[..1], &space, &target), "it was mounted from other layers"),
        (mount(&reversed, &space, &target), "it was mounted from other layers, or in another order"),
        (mount(&layers, &other_space, &target), "it writes to another upper directory"),
    ] {
        let refused = message(refused);
        assert!(refused.contains(&format!("exists but differs: {difference}")), "{refused}");
    }
    let refused = message(mount(&layers, &space, &sandbox.dir("run").join("second")));
    assert!(
        refused.contains(&format!("is busy: the overlay root {} is on it", target.display())),
        "{refused}"
    );
    assert_eq!(kernel::mounts_beneath(&target), line);
    // Somebody exchanges the volume beneath a mounted overlay: the same paths are other directories then.
    kernel::unmount(space.path());
    kernel::run("mount", ["-t".as_ref(), "tmpfs".as_ref(), "x".as_ref(), space.path().as_os_str()]);
    fs::create_dir(space.path().join("upper")).expect("mkdir");
    fs::create_dir(space.path().join("work")).expect("mkdir");
    let refused = message(mount(&layers, &space, &target));
    assert!(refused.contains("it writes to another upper directory, perhaps an earlier one"), "{refused}");
    kernel::unmount(space.path());
    assert_eq!(volume.mount().expect("mount"), space);
    assert_eq!(mount(&layers, &space, &target).expect("adopt"), first);
    OverlayRoot::unmount(&target).expect("unmount");

    let shown = target.to_str().expect("UTF-8");
    kernel::run("mount", ["-t", "tmpfs", "x", shown]);
    assert!(message(mount(&layers, &space, &target)).contains("tmpfs is mounted there, not overlay"));
    assert!(message(OverlayRoot::unmount(&target)).contains("what is mounted there is no overlay"));
    kernel::unmount(shown);
    volume.unmount().expect("unmount");
    let refused = message(mount(&layers, &space, &target));
    assert!(refused.contains("does not exist"), "a volume that is not mounted: {refused}");
    other_volume.unmount().expect("unmount");
}

#[test]
#[ignore = "needs root: mounts"]
fn overlay_takes_many_layers_or_says_why_not() {
    let sandbox = Sandbox::new();
    let (volume, space) = mounted(&pool(&sandbox), "space");
    let names: Vec<String> = (0..501).map(|i| format!("layer-{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let layers = layers(&sandbox.dir("layers"), &names);
    let target = sandbox.dir("run").join("root");
    // What one text holds, before 6.5.
    let most = if kernel::is_at_least(6, 5) { 500 } else { 32 };
    OverlayRoot::over(&layers[..most]).on(&space).mount(&target).expect("as many as there can be");
    assert_eq!(fs::read_dir(&target).expect("list").count(), most + 1);
    OverlayRoot::over(&layers[..most]).on(&space).mount(&target).expect("adopt");
    OverlayRoot::unmount(&target).expect("unmount");
    let refused = message(OverlayRoot::over(&layers).on(&space).mount(&target));
    assert_eq!(refused, "invalid overlay layers \"501 layers\": must be at most 500");
    if most < 500 {
        let refused = message(OverlayRoot::over(&layers[..500]).on(&space).mount(&target));
        assert!(refused.contains("overlay of 500 layers") && refused.contains("kernel 6.5"), "{refused}");
    }
    let classic = OverlayRoot::over(&layers[..500]).on(&space).method(MountMethod::Classic);
    let refused = message(classic.mount(&target));
    assert!(
        refused.contains("overlay of 500 layers") && refused.contains("mount(2) takes 4095"),
        "{refused}"
    );
    assert_eq!(kernel::mounts_beneath(&target), Vec::<String>::new());
    volume.unmount().expect("unmount");
}

#[test]
#[ignore = "needs root: mounts"]
fn overlay_bad_input_changes_nothing() {
    let sandbox = Sandbox::new();
    let (volume, space) = mounted(&pool(&sandbox), "space");
    let base = sandbox.dir("layers");
    let layer = layers(&base, &["a"])[0].clone();
    symlink(&layer, base.join("link")).expect("symlink");
    fs::write(base.join("file"), "").expect("write");
    let target = sandbox.dir("run").join("root");
    for (layers, rule) in [
        (vec![], "must have at least one layer"),
        (vec![PathBuf::from("relative")], "must be an absolute path"),
        (vec![base.join("missing")], "must exist"),
        (vec![base.join("file")], "must be a directory"),
        (vec![layer.clone(), layer.clone()], "must not be given twice"),
        (vec![layer.clone(), base.join("link")], "must not be given twice"),
        (vec![layer.clone(), base.join("link/../a")], "must not be given twice"),
    ] {
        let refused = message(OverlayRoot::over(&layers).on(&space).mount(&target));
        assert!(refused.starts_with("invalid overlay layer") && refused.contains(rule), "{refused}");
    }
    for (bad, rule) in [
        (PathBuf::from("root"), "must be an absolute path"),
        (base.join("file"), "must be a directory"),
        (base.join("missing/root"), "mkdir on"),
    ] {
        let refused = message(OverlayRoot::over(&[&layer]).on(&space).mount(&bad));
        assert!(refused.contains(rule), "{refused}");
    }
    assert!(!target.exists() && !space.path().join("upper").exists());
    assert_eq!(kernel::mounts_beneath(&sandbox.dir("run")), Vec::<String>::new());
    volume.unmount().expect("unmount");
}

#[test]
#[ignore = "needs root: mounts"]
fn overlay_in_use_says_by_what() {
    let sandbox = Sandbox::new();
    let (volume, space) = mounted(&pool(&sandbox), "space");
    let layers = layers(&sandbox.dir("layers"), &["a"]);
    let target = sandbox.dir("run").join("root");
    OverlayRoot::over(&layers).on(&space).mount(&target).expect("mount");
    let mut sleeper = Command::new("sleep").arg("60").current_dir(&target).spawn().expect("sleep");
    let refused = message(OverlayRoot::unmount(&target));
    sleeper.kill().expect("kill");
    sleeper.wait().expect("wait");
    assert!(refused.contains(&format!("{} (sleep) uses it", sleeper.id())), "{refused}");
    OverlayRoot::unmount(&target).expect("unmount");
    volume.unmount().expect("unmount");
}

/// Many at once on one volume: one mount.
#[test]
#[ignore = "needs root: mounts"]
fn overlay_races_make_one_mount() {
    let sandbox = Sandbox::new();
    let (volume, space) = mounted(&pool(&sandbox), "space");
    let layers = layers(&sandbox.dir("layers"), &["a"]);
    let target = sandbox.dir("run").join("root");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| OverlayRoot::over(&layers).on(&space).mount(&target).expect("mount"));
        }
    });
    assert_eq!(kernel::mounts_beneath(&target).len(), 1);
    OverlayRoot::unmount(&target).expect("unmount");
    volume.unmount().expect("unmount");
}
