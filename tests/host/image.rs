//! Images: whole or not at all, and nothing leads out of them.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

use docklet::Result;
use docklet::name::ImageName;
use docklet::storage::{CollectOptions, Image, ImageStore, OverlayRoot};

use crate::sandbox::Sandbox;
use crate::volume::{MIB, message, pool, spec};

pub(crate) fn store(sandbox: &Sandbox) -> ImageStore {
    ImageStore::new(sandbox.paths.images(), sandbox.paths.layers()).expect("store")
}

/// How many blobs and unpacked layers there are, what else is in their directories, and what is not finished.
pub(crate) fn contents(sandbox: &Sandbox) -> (usize, usize, Vec<String>) {
    let (images, layers) = (sandbox.paths.images(), sandbox.paths.layers());
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).expect("list").map(|entry| entry.expect("entry").file_name());
        entries.map(|name| name.into_string().expect("UTF-8")).collect()
    };
    let local = names(&layers);
    let unfinished = ["staging", "condemned"].iter().flat_map(|dir| names(&images.join(dir)));
    let odd =
        local.iter().filter(|name| !name.starts_with("sha256-") && !LOCKS.contains(&name.as_str())).cloned();
    let unfinished = unfinished.chain(odd).collect();
    let whole = local.iter().filter(|name| name.starts_with("sha256-")).count();
    (names(&images.join("blobs/sha256")).len(), whole, unfinished)
}

const LOCKS: [&str; 2] = [".names.lock", ".collect.lock"];
/// Without sparing what is young.
pub(crate) const AT_ONCE: CollectOptions =
    CollectOptions { grace: Duration::ZERO, abandoned: Duration::from_secs(3600) };

pub(crate) fn name(text: &str) -> ImageName {
    ImageName::new(text).expect("name")
}

fn build(store: &ImageStore, text: &str) -> Result<Image> {
    store.build(&name(text), |image| {
        image.directory("/tmp", 0o1777)?;
        image.write_file("/bin/program", "#!\n", 0o755)?;
        image.write_file("/etc/text", "text", 0o644)?;
        image.copy_file("/bin/true", "/usr/bin/true", 0o711)?;
        image.symlink("/sbin", "/bin")?;
        image.symlink("/bin/link", "../../../../bin/program")?;
        image.symlink("/bin/outside", "/usr/bin/env")
    })
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_is_built_whole() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let image = build(&store, "one").expect("build");
    let layer = image.layers[0].clone();
    assert!(layer.starts_with(sandbox.paths.layers()));
    assert_eq!(contents(&sandbox), (3, 1, vec![]), "a layer, a configuration and a manifest");
    for (path, mode) in [
        ("", 0o755),
        ("tmp", 0o1777),
        ("bin", 0o755),
        ("bin/program", 0o755),
        ("etc/text", 0o644),
        ("usr/bin/true", 0o711),
    ] {
        assert_eq!(fs::metadata(layer.join(path)).expect("stat").mode() & 0o7777, mode, "{path}");
    }
    assert_eq!(fs::read(layer.join("usr/bin/true")).expect("read"), fs::read("/bin/true").expect("read"));
    assert_eq!(fs::read_link(layer.join("sbin")).expect("link"), Path::new("/bin"));
    assert_eq!(store.open(&name("one")).expect("open"), image);
    assert_eq!(store.list().expect("list"), [name("one")]);
    assert!(message(build(&store, "one")).contains("image `one` exists but differs"));
    assert_eq!(store.ensure(&name("one"), |_| panic!("it exists")).expect("ensure"), image);
    assert_eq!(message(store.open(&name("two"))), "image `two` does not exist");
    store.remove(&name("one")).expect("remove");
    store.remove(&name("one")).expect("what is gone is removed");
    let collected = store.collect_garbage(&[], &AT_ONCE).expect("collect");
    assert_eq!((collected.blobs, collected.layers), (3, 1));
    assert_eq!(contents(&sandbox), (0, 0, vec![]));
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_programs_are_found_inside_only() {
    let sandbox = Sandbox::new();
    let image = build(&store(&sandbox), "one").expect("build");
    for (path, expected) in [
        ("/bin/program", true),
        ("bin/program", true),
        ("/sbin/program", true),
        ("/sbin/link", true),
        ("/../bin/program", true),
        ("/usr/bin/true", true),
        ("/bin/outside", false),
        ("/etc/text", false),
        ("/tmp", false),
        ("/", false),
        ("", false),
        ("/bin/sh", false),
    ] {
        assert_eq!(image.has_executable(Path::new(path)).expect("lookup"), expected, "{path}");
    }
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_cannot_be_left_while_it_is_built() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let outside = sandbox.dir("outside");
    let refused = |fill: &dyn Fn(&mut docklet::storage::ImageBuilder) -> Result<()>| {
        message(store.build(&name("bad"), |image| {
            image.symlink("/out", &outside)?;
            image.symlink("/up", "../../../../../..")?;
            fill(image)
        }))
    };
    for refusal in [
        refused(&|image| image.write_file("/out/x", "x", 0o644)),
        refused(&|image| image.write_file("/up/x", "x", 0o644)),
        refused(&|image| image.write_file("/out", "x", 0o644)),
        refused(&|image| image.directory("/out/x", 0o755)),
        refused(&|image| image.directory("/out", 0o700)),
        refused(&|image| image.symlink("/out/x", "/")),
        refused(&|image| image.copy_file("/bin/true", "/out/x", 0o755)),
    ] {
        assert!(refusal.contains(" failed: "), "{refusal}");
    }
    assert!(refused(&|image| image.write_file("/a/../../x", "x", 0o644)).contains("must not contain '..'"));
    assert!(refused(&|image| image.copy_file("bin/true", "/x", 0o755)).contains("must be an absolute path"));
    assert!(refused(&|image| image.copy_file("/bin", "/x", 0o755)).contains("must be a regular file"));
    assert!(refused(&|image| image.copy_file("/missing", "/x", 0o755)).contains("open on /missing failed"));
    assert_eq!(fs::read_dir(&outside).expect("list").count(), 0);
    assert_eq!(contents(&sandbox), (0, 0, vec![]), "nothing is left of a failure");
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_races_build_one() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let images: Vec<Image> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|i| {
                let store = &store;
                scope.spawn(move || {
                    store
                        .ensure(&name("one"), |image| image.write_file("/who", i.to_string(), 0o644))
                        .expect("ensure")
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("thread")).collect()
    });
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
    store.collect_garbage(&[], &AT_ONCE).expect("what the others stored goes");
    assert_eq!(contents(&sandbox), (3, 1, vec![]));
}

/// What a killed process leaves goes, on this host's disk and on the shared one; what a living one is building stays.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_store_is_tidied() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let (images, layers) = (sandbox.paths.images(), sandbox.paths.layers());
    for dead in [".new-0123456789abcdef", ".old-0123456789abcdef"] {
        fs::create_dir_all(layers.join(dead).join("1/fs/etc")).expect("mkdir");
        symlink("/etc", layers.join(dead).join("1/fs/link")).expect("symlink");
    }
    let shared = images.join("staging/0123456789abcdef");
    let another_hosts = images.join("staging/fedcba9876543210");
    for staging in [&shared, &another_hosts] {
        fs::create_dir(staging).expect("mkdir");
        fs::write(staging.join("1"), "half a blob").expect("write");
    }
    fs::write(layers.join(format!(".lock-{}", "0".repeat(64))), "").expect("write");
    let image = store
        .build(&name("one"), |image| {
            image.write_file("/before", "x", 0o644)?;
            let removed = store.tidy()?;
            assert_eq!(removed.len(), 2, "{removed:?}");
            image.write_file("/after", "x", 0o644)
        })
        .expect("build");
    assert!(image.layers[0].join("before").exists() && image.layers[0].join("after").exists());
    assert_eq!(store.tidy().expect("tidy"), Vec::<String>::new());
    assert_eq!(contents(&sandbox), (3, 1, vec!["fedcba9876543210".to_owned()]));
    store.collect_garbage(&[], &AT_ONCE).expect("collect");
    assert!(another_hosts.exists(), "it may be alive");
    store.collect_garbage(&[], &CollectOptions { abandoned: Duration::ZERO, ..AT_ONCE }).expect("collect");
    assert_eq!(contents(&sandbox), (3, 1, vec![]));
    assert!(Path::new("/etc/passwd").exists());
}

/// A name goes at once; the layers under a mounted root stay as long as that.
#[test]
#[ignore = "needs root: mounts"]
fn image_in_use_stays() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let image = build(&store, "one").expect("build");
    let volume = pool(&sandbox).ensure(&spec("space", 32 * MIB)).expect("ensure");
    let target = sandbox.dir("run").join("root");
    OverlayRoot::over(&image.layers).on(&volume.mount().expect("mount")).mount(&target).expect("overlay");
    store.remove(&image.name).expect("remove");
    let collected = store.collect_garbage(&[], &AT_ONCE).expect("collect");
    assert_eq!((collected.blobs, collected.layers), (3, 0));
    assert_eq!(fs::read_to_string(target.join("etc/text")).expect("read"), "text");
    OverlayRoot::unmount(&target).expect("unmount");
    volume.unmount().expect("unmount");
    assert_eq!(store.collect_garbage(&[], &AT_ONCE).expect("collect").layers, 1);
    assert_eq!(contents(&sandbox), (0, 0, vec![]));
    for (path, rule) in [("images", "must be an absolute path"), ("/images", "two levels")] {
        assert!(message(ImageStore::new(path, sandbox.paths.layers())).contains(rule));
        assert!(message(ImageStore::new(sandbox.paths.images(), path)).contains(rule));
    }
}
