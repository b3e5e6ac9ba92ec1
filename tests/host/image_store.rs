//! The store around images: names, owners, hosts that share it, garbage, damage, and full disks.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use docklet::idmap::{IdMap, IdRange};
use docklet::name::UserName;
use docklet::storage::{Digest, Image, ImageContent, ImageOptions, ImageStore, OverlayRoot, remove_tree};
use docklet::{Error, Result};

use crate::image::{AT_ONCE, contents, name, store};
use crate::kernel;
use crate::listing::xattrs;
use crate::sandbox::{Sandbox, alone};
use crate::volume::{MIB, message, pool, spec};

/// An image of one file.
fn tiny(store: &ImageStore, image: &str, content: &str) -> Image {
    store.build(&name(image), |root| root.write_file("/file", content, 0o644)).expect("build")
}

/// The image `image`, with one more layer that has one file.
fn commit(
    store: &ImageStore,
    sandbox: &Sandbox,
    base: &ImageContent,
    image: &str,
    file: &str,
) -> Result<Image> {
    let upper = sandbox.dir(&format!("upper-{image}"));
    fs::write(upper.join(file), file).expect("write");
    let options = ImageOptions { replace: true, ..ImageOptions::default() };
    let committed = store.commit(base, &upper, &name(image), &options, None);
    remove_tree(upper.parent().expect("parent"), Path::new(upper.file_name().expect("name")))
        .expect("remove");
    committed
}

/// Tells other threads to end, also when this one fails.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Another host: the same shared directory, and a cache of its own.
fn other_host(sandbox: &Sandbox, cache: &str) -> ImageStore {
    ImageStore::new(sandbox.paths.images(), sandbox.dir("hosts").join(cache)).expect("store")
}

fn blob(sandbox: &Sandbox, digest: &Digest) -> PathBuf {
    sandbox.paths.images().join("blobs/sha256").join(digest.hex())
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_names_have_owners() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let [alice, bob] = ["alice", "bob"].map(|user| UserName::new(user).expect("name"));
    let everybodys = tiny(&store, "base", "1");
    let owned = ImageOptions {
        owner: Some(alice.clone()),
        description: "mine".to_owned(),
        ..ImageOptions::default()
    };
    store.tag(&name("base"), &name("private"), &owned).expect("tag");
    store.tag(&name("base"), &name("private"), &owned).expect("the same again");
    assert_eq!(store.open(&name("private")).expect("open").content, everybodys.content);
    assert_eq!(store.list_for(&alice).expect("list"), [name("base"), name("private")]);
    assert_eq!(store.list_for(&bob).expect("list"), [name("base")]);
    store.share(&name("private"), &bob).expect("share");
    store.share(&name("private"), &bob).expect("share again");
    assert_eq!(store.list_for(&bob).expect("list"), [name("base"), name("private")]);
    let described = store.describe(&name("private")).expect("describe");
    assert_eq!((described.owner.as_ref(), described.description.as_str()), (Some(&alice), "mine"));
    assert_eq!(described.shared_with.iter().collect::<Vec<_>>(), [&bob]);
    assert_eq!((described.os.as_str(), described.layers.len(), described.history.len()), ("linux", 1, 1));
    assert!(described.layers[0].unpacked_bytes.is_some_and(|bytes| bytes >= 1024));
    store.unshare(&name("private"), &bob).expect("unshare");
    assert_eq!(store.list_for(&bob).expect("list"), [name("base")]);
    assert!(message(store.share(&name("base"), &bob)).contains("must have an owner"));
    for missing in [store.share(&name("none"), &bob), store.unshare(&name("none"), &bob)] {
        assert!(matches!(missing, Err(Error::NotFound { .. })));
    }
    tiny(&store, "other", "2");
    assert!(message(store.tag(&name("other"), &name("base"), &ImageOptions::default())).contains("differs"));
    assert!(
        message(store.tag(&name("none"), &name("new"), &ImageOptions::default())).contains("does not exist")
    );
    UserName::new("../etc").expect_err("no name");
    // A name that cannot be read is in nobody's way but its own, and keeps everything from being collected.
    let tags = sandbox.paths.images().join("tags");
    fs::write(tags.join("bad.json"), "{").expect("write");
    fs::write(tags.join("newer.json"), r#"{"format": 99}"#).expect("write");
    assert_eq!(store.list().expect("list").len(), 5);
    assert_eq!(store.list_for(&bob).expect("list"), [name("base"), name("other")]);
    assert!(matches!(store.open(&name("bad")), Err(Error::Damaged { .. })));
    assert!(matches!(store.open(&name("newer")), Err(Error::Unsupported { .. })));
    store.collect_garbage(&[], &AT_ONCE).expect_err("what it stands for is unknown");
    assert_eq!(store.verify().expect("verify").damaged.len(), 2);
    for bad in ["bad", "newer"] {
        store.remove(&name(bad)).expect("remove");
    }
    assert_eq!(store.collect_garbage(&[], &AT_ONCE).expect("collect").blobs, 0);
}

/// While a name is moved to and fro, who opens it gets the one or the other, whole.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_names_move_in_one_step() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let two = ["one", "two"].map(|text| tiny(&store, text, text));
    store.tag(&name("one"), &name("moving"), &ImageOptions::default()).expect("tag");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _done = SetAtEnd(&done);
            let replace = ImageOptions { replace: true, ..ImageOptions::default() };
            for round in 0..100 {
                let source = name(["two", "one"][round % 2]);
                store.tag(&source, &name("moving"), &replace).expect("tag");
            }
        });
        let mut opened = 0;
        while !done.load(Ordering::Relaxed) {
            let image = store.open(&name("moving")).expect("open");
            assert!(two.iter().any(|one| one.content == image.content && one.layers == image.layers));
            opened += 1;
        }
        assert!(opened > 10, "{opened}");
    });
    assert_eq!(contents(&sandbox), (6, 2, vec![]));
}

/// A host unpacks what another one built, once, however many ask; and goes on when the shared part is gone.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_layers_are_unpacked_once_on_each_host() {
    let sandbox = Sandbox::new();
    let (first, second) = (store(&sandbox), other_host(&sandbox, "second"));
    let built = tiny(&first, "one", "content");
    let images: Vec<Image> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..16).map(|_| scope.spawn(|| second.open(&name("one")).expect("open"))).collect();
        threads.into_iter().map(|thread| thread.join().expect("thread")).collect()
    });
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(images[0].content, built.content);
    assert_ne!(images[0].layers, built.layers);
    let layer = &images[0].layers[0];
    assert_eq!(fs::read_to_string(layer.join("file")).expect("read"), "content");
    let cache = fs::read_dir(sandbox.dir("hosts").join("second")).expect("list");
    let names: Vec<String> =
        cache.map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8")).collect();
    assert_eq!(names, [format!("sha256-{}", built.content.layers[0].diff_id.hex())]);
    let inode = fs::metadata(layer).expect("stat").ino();

    second.remove(&name("one")).expect("remove");
    assert!(matches!(first.open(&name("one")), Err(Error::NotFound { .. })));
    first.collect_garbage(&[], &AT_ONCE).expect("collect");
    assert_eq!(contents(&sandbox), (0, 0, vec![]));
    second.collect_garbage(std::slice::from_ref(&built.content), &AT_ONCE).expect("collect");
    assert_eq!(second.layers_of(&built.content).expect("layers"), images[0].layers);
    assert_eq!(fs::metadata(layer).expect("stat").ino(), inode, "not made again: it could not be");
    assert!(matches!(first.layers_of(&built.content), Err(Error::Damaged { .. })));
    assert_eq!(second.collect_garbage(&[], &AT_ONCE).expect("collect").layers, 1);
}

/// Hosts make images on top of others, name and unname them, while others remove everything that is not needed: what has a
/// name has all of its parts.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_garbage_is_only_what_nobody_needs() {
    let sandbox = Sandbox::new();
    let maker = store(&sandbox);
    let base = tiny(&maker, "base", "base");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for host in ["collector-1", "collector-2"] {
            let collector = other_host(&sandbox, host);
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    collector.collect_garbage(&[], &AT_ONCE).expect("collect");
                }
            });
        }
        let _done = SetAtEnd(&done);
        for round in 0..40 {
            // Two contents in turns: what was garbage a moment ago is needed again.
            let file = ["a", "b"][round % 2];
            let image = commit(&maker, &sandbox, &base.content, "changing", file).expect("commit");
            assert_eq!(fs::read_to_string(image.layers[0].join(file)).expect("read"), file);
            let damaged = maker.verify().expect("verify").damaged;
            assert!(!damaged.iter().any(|line| line.contains("image `")), "{damaged:?}");
        }
    });
    maker.remove(&name("changing")).expect("remove");
    maker.collect_garbage(&[], &AT_ONCE).expect("collect");
    assert_eq!(contents(&sandbox), (3, 1, vec![]));
    assert_eq!(maker.verify().expect("verify").damaged, Vec::<String>::new());
}

/// What a container with ids of its own wrote is its root's in the image; an owner that is none of its ids is refused.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_owners_are_mapped_back() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let base = tiny(&store, "base", "1").content;
    let map = IdMap::new([IdRange { inside: 0, outside: 200_000, length: 1000 }]).expect("map");
    let upper = sandbox.dir("upper");
    fs::write(upper.join("mine"), "x").expect("write");
    for (path, owner) in [(upper.clone(), [200_000, 200_000]), (upper.join("mine"), [200_007, 200_008])] {
        chown(path, Some(owner[0]), Some(owner[1])).expect("chown");
    }
    // As the kernel writes it for the container's root: it counts where 200000 is root.
    let capability = [&[1, 0, 0, 3, 0, 0x20][..], &[0; 14], &200_000_u32.to_le_bytes()].concat();
    crate::layer::xattr(&upper.join("mine"), "security.capability", &capability);
    let options = ImageOptions::default();
    let image = store.commit(&base, &upper, &name("mapped"), &options, Some(&map)).expect("commit");
    let owner = |path: &str| {
        let found = fs::metadata(image.layers[0].join(path)).expect("stat");
        (found.uid(), found.gid())
    };
    assert_eq!((owner(""), owner("mine")), ((0, 0), (7, 8)));
    let found = &xattrs(&image.layers[0].join("mine"))["security.capability"];
    assert_eq!(found, &[&[1, 0, 0, 2, 0, 0x20][..], &[0; 14]].concat(), "it counts for any container's root");
    fs::write(upper.join("foreign"), "x").expect("write");
    let error = store.commit(&base, &upper, &name("foreign"), &options, Some(&map)).expect_err("refused");
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert_eq!(store.list().expect("list"), [name("base"), name("mapped")]);
    assert_eq!(contents(&sandbox).2, Vec::<String>::new());
}

/// A collection that was cut off half-way loses nothing.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_parts_are_taken_back_from_a_collection_cut_off() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let image = tiny(&store, "one", "1");
    let layer = &image.content.layers[0];
    let condemned = sandbox.paths.images().join("condemned").join(layer.blob.hex());
    fs::rename(blob(&sandbox, &layer.blob), &condemned).expect("rename");
    assert_eq!(
        fs::read_to_string(
            other_host(&sandbox, "other").open(&image.name).expect("open").layers[0].join("file")
        )
        .expect("read"),
        "1"
    );
    assert!(!condemned.exists());
    fs::rename(blob(&sandbox, &layer.blob), &condemned).expect("rename");
    assert_eq!(store.collect_garbage(&[], &AT_ONCE).expect("collect").blobs, 0);
    assert_eq!(store.verify().expect("verify").blobs, 3);
}

/// What does not hold what its digest says is never unpacked, and is found.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_damage_is_found() {
    let sandbox = Sandbox::new();
    let first = store(&sandbox);
    let image = tiny(&first, "one", &"content ".repeat(1000));
    let path = blob(&sandbox, &image.content.layers[0].blob);
    let good = fs::read(&path).expect("read");
    let mut flipped = good.clone();
    flipped[2000] ^= 1;
    for (case, bad) in [("flipped", &flipped[..]), ("truncated", &good[..1500]), ("empty", &[])] {
        fs::write(&path, bad).expect("write");
        let host = other_host(&sandbox, case);
        let error = host.open(&image.name).expect_err("damaged");
        assert!(matches!(error, Error::Damaged { .. }), "{case}: {error}");
        let cache = fs::read_dir(sandbox.dir("hosts").join(case)).expect("list").count();
        assert_eq!(cache, 0, "{case}: nothing is published");
        let verified = first.verify().expect("verify");
        assert_eq!((verified.blobs, verified.damaged.len()), (2, 1), "{case}: {:?}", verified.damaged);
        // This host has unpacked it before.
        assert_eq!(first.open(&image.name).expect("open"), image, "{case}");
    }
    fs::remove_file(&path).expect("remove");
    assert!(first.verify().expect("verify").damaged[0].contains("image `one`: blob"));
    fs::write(&path, &good).expect("write");
    let config = blob(&sandbox, &image.content.config);
    let mut text = fs::read(&config).expect("read");
    text[10] ^= 1;
    fs::write(&config, text).expect("write");
    assert!(matches!(first.describe(&image.name), Err(Error::Damaged { .. })));
    assert!(matches!(commit(&first, &sandbox, &image.content, "two", "x"), Err(Error::Damaged { .. })));
    assert_eq!(first.list().expect("list"), [name("one")]);
}

/// What a host has unpacked, and somebody changed or the disk lost, is found, whatever it is; deleted, it is made again.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_layers_that_were_changed_are_found() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let image = tiny(&store, "one", "content");
    let tree = &image.layers[0];
    let home = tree.parent().expect("parent");
    let file = tree.join("file");
    let same_time = |change: &dyn Fn()| {
        let before = fs::metadata(&file).expect("stat").modified().expect("mtime");
        change();
        fs::File::open(&file).and_then(|file| file.set_modified(before)).expect("utimens");
    };
    let changes: [(&str, &dyn Fn()); 9] = [
        ("content", &|| same_time(&|| fs::write(&file, "CONTENT").expect("write"))),
        ("length", &|| same_time(&|| fs::write(&file, "").expect("write"))),
        ("owner", &|| chown(&file, Some(1), None).expect("chown")),
        ("mode", &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).expect("chmod")),
        ("attribute", &|| {
            rustix::fs::lsetxattr(&file, "user.x", b"x", rustix::fs::XattrFlags::empty()).expect("setxattr");
        }),
        ("one more", &|| fs::write(tree.join("more"), "").expect("write")),
        ("one less", &|| fs::remove_file(&file).expect("unlink")),
        ("no record", &|| fs::remove_file(home.join("record")).expect("unlink")),
        ("bad record", &|| fs::write(home.join("record"), "{").expect("write")),
    ];
    for (change, make) in changes {
        let verified = store.verify().expect("verify");
        assert_eq!((verified.layers, verified.damaged), (1, vec![]), "before: {change}");
        make();
        let verified = store.verify().expect("verify");
        assert_eq!((verified.layers, verified.damaged.len()), (0, 1), "{change}: {verified:?}");
        assert!(verified.damaged[0].contains("damaged"), "{change}: {verified:?}");
        remove_tree(home.parent().expect("parent"), Path::new(home.file_name().expect("name")))
            .expect("remove");
        assert_eq!(store.open(&image.name).expect("open"), image, "{change}");
    }
}

/// A full disk is said to be full, on either side, and nothing is left of what did not fit.
#[test]
#[ignore = "needs root: mounts"]
fn image_without_room_is_none() {
    // A child process of another test has for a moment all that this one has open, and a removed file keeps its room.
    if !alone("image_store::image_without_room_is_none") {
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.dir("source").join("data");
    fs::write(&source, vec![7; 6 * usize::try_from(MIB).expect("small")]).expect("write");
    for small in ["global", "local"] {
        let at = sandbox.dir(small);
        kernel::run("mount", ["-t", "tmpfs", "-o", "size=4m", "none", at.to_str().expect("UTF-8")]);
        let (global, local) = match small {
            "global" => (at.join("images"), sandbox.paths.layers()),
            _ => (sandbox.paths.images(), at.join("layers")),
        };
        let store = ImageStore::new(&global, &local).expect("store");
        let error =
            store.build(&name("big"), |root| root.copy_file(&source, "/data", 0o644)).expect_err("no room");
        let full = matches!(error, Error::NoSpace { .. }) || error.errno() == Some(28);
        assert!(full, "{small}: {}", docklet::error::Chain(&error));
        let upper = sandbox.dir("upper");
        fs::write(upper.join("data"), fs::read(&source).expect("read")).expect("write");
        let base = tiny(&store, "base", "1");
        let plain =
            ImageOptions { compression: docklet::storage::Compression::None, ..ImageOptions::default() };
        let error = store.commit(&base.content, &upper, &name("big"), &plain, None).expect_err("no room");
        assert!(matches!(error, Error::NoSpace { .. }), "{small}: {}", docklet::error::Chain(&error));
        assert_eq!(store.tidy().expect("tidy"), Vec::<String>::new());
        assert_eq!(store.list().expect("list"), [name("base")]);
        store.remove(&name("base")).expect("remove");
        store.collect_garbage(&[], &AT_ONCE).expect("collect");
        for dir in [global.join("staging"), global.join("blobs/sha256")] {
            assert_eq!(fs::read_dir(dir).expect("list").count(), 0);
        }
        drop(store);
        kernel::unmount(&at);
    }
    assert_eq!(contents(&sandbox), (0, 0, vec![]));
}

/// From a shared part that can only be read, containers are started still.
#[test]
#[ignore = "needs root: mounts"]
fn image_store_may_be_read_only() {
    let sandbox = Sandbox::new();
    let image = tiny(&store(&sandbox), "one", "1");
    let global = sandbox.paths.images();
    kernel::run("mount", ["--bind".as_ref(), global.as_os_str(), global.as_os_str()]);
    kernel::run("mount", ["-o".as_ref(), "remount,ro,bind".as_ref(), global.as_os_str()]);
    let second = other_host(&sandbox, "second");
    assert_eq!(second.open(&image.name).expect("open").content, image.content);
    assert_eq!(second.tidy().expect("tidy"), Vec::<String>::new());
    let error = second.build(&name("two"), |root| root.write_file("/x", "x", 0o644)).expect_err("read-only");
    assert_eq!(error.errno(), Some(30), "{error}");
    second.remove(&name("one")).expect_err("read-only");
    kernel::unmount(&global);
    assert_eq!(contents(&sandbox), (3, 1, vec![]));
}

/// No layers, one twice, and as many as a kernel takes.
#[test]
#[ignore = "needs root: mounts"]
fn image_layers_are_counted() {
    let sandbox = Sandbox::new();
    let at = sandbox.dir("fast");
    kernel::run("mount", ["-t", "tmpfs", "none", at.to_str().expect("UTF-8")]);
    let store = ImageStore::new(at.join("images"), at.join("layers")).expect("store");
    let volume = pool(&sandbox).ensure(&spec("space", 32 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    let target = sandbox.dir("run").join("root");
    let shows = |content: &ImageContent, files: &[&str]| {
        for entry in ["upper", "work"] {
            remove_tree(space.path(), Path::new(entry)).expect("remove");
        }
        let layers = store.layers_of(content).expect("layers");
        OverlayRoot::over(&layers).on(&space).mount(&target).expect("overlay");
        for file in files {
            assert_eq!(fs::read_to_string(target.join(file)).expect("read"), *file);
        }
        let found = fs::read_dir(&target).expect("list").count();
        OverlayRoot::unmount(&target).expect("unmount");
        (layers.len(), found)
    };

    let base = store.build(&name("a"), |root| root.write_file("/a", "a", 0o644)).expect("build").content;
    let none = ImageContent { layers: Vec::new(), ..base.clone() };
    assert_eq!(shows(&none, &[]), (1, 0));
    let two = commit(&store, &sandbox, &base, "ab", "b").expect("commit").content;
    assert_eq!(shows(&two, &["a", "b"]), (2, 2));
    let [a, b] = [&two.layers[0], &two.layers[1]].map(Clone::clone);
    let twice = ImageContent { layers: vec![a.clone(), b.clone(), a.clone(), b, a], ..base.clone() };
    assert_eq!(shows(&twice, &["a", "b"]), (2, 2));

    let mut content = base.clone();
    let names: Vec<String> = (1..500).map(|n| format!("f{n}")).collect();
    for file in &names {
        let one = commit(&store, &sandbox, &base, "many", file).expect("commit").content;
        content.layers.push(one.layers[1].clone());
    }
    // Older kernels take a page of names.
    let most = if kernel::is_at_least(6, 5) { 500 } else { 20 };
    let files: Vec<&str> = names[..most - 1].iter().map(String::as_str).chain(["a"]).collect();
    let some = ImageContent { layers: content.layers[..most].to_vec(), ..content.clone() };
    assert_eq!(shows(&some, &files), (most, most));
    let error = commit(&store, &sandbox, &content, "many", "one-more").expect_err("too many");
    assert!(matches!(error, Error::Invalid { .. }) && error.to_string().contains("500 at most"), "{error}");
    volume.unmount().expect("unmount");
    kernel::unmount(&at);
}
