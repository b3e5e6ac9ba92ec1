//! Images that come from elsewhere into the store, and go out of it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use docklet::Error;
use docklet::name::ImageName;
use docklet::storage::{
    Compression, Image, ImageOptions, ImageSource, ImageStore, ImageTarget, ImportStep, remove_tree,
};

use crate::image::{AT_ONCE, contents, name, store};
use crate::kernel;
use crate::listing::listing;
use crate::sandbox::Sandbox;
use crate::volume::message;

fn import(store: &ImageStore, source: &ImageSource, image: &ImageName) -> docklet::Result<Image> {
    store.import(source, image, &ImageOptions::default(), &mut |_| {})
}

/// A small root directory with several kinds of file.
fn root(sandbox: &Sandbox) -> PathBuf {
    let root = sandbox.dir("root");
    fs::create_dir_all(root.join("etc/dir")).expect("mkdir");
    fs::write(root.join("etc/file"), "content ".repeat(10_000)).expect("write");
    fs::hard_link(root.join("etc/file"), root.join("etc/hard")).expect("link");
    symlink("/nowhere", root.join("etc/link")).expect("symlink");
    kernel::run(
        "mknod",
        [
            "-m".as_ref(),
            "600".as_ref(),
            root.join("null").as_os_str(),
            "c".as_ref(),
            "1".as_ref(),
            "3".as_ref(),
        ],
    );
    kernel::run("chown", ["1000:2000".as_ref(), root.join("etc/dir").as_os_str()]);
    root
}

/// Not when it was last read, which changes with each archive that is made of it.
const NO_ACCESS_TIMES: &str = "--pax-option=delete=atime,delete=ctime";

fn tar(root: &Path, archive: &Path, how: &str) {
    let [archive, root] = [archive, root].map(|path| path.to_str().expect("UTF-8"));
    let options = ["--format=pax", NO_ACCESS_TIMES, "--sort=name", "--numeric-owner"];
    kernel::run("tar", [&["-C", root][..], &options, &[how, archive, "."]].concat());
}

/// A root directory, as itself and in archives of every kind, becomes the same tree; what comes twice is stored once.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_roots_are_imported_in_every_form() {
    let sandbox = Sandbox::new();
    let (store, root) = (store(&sandbox), root(&sandbox));
    let expected = listing(&root);
    let archives = sandbox.dir("archives");
    let mut sources = vec![("directory", ImageSource::Directory(root.clone()))];
    for (kind, how) in [("plain", "-cf"), ("gzip", "-czf"), ("xz", "-cJf"), ("zstd", "--zstd\0-cf")] {
        let archive = archives.join(kind);
        match how.split_once('\0') {
            Some((first, second)) => {
                let [archive, root] = [&archive, &root].map(|path| path.to_str().expect("UTF-8"));
                let args = [
                    "-C",
                    root,
                    "--format=pax",
                    NO_ACCESS_TIMES,
                    "--sort=name",
                    "--numeric-owner",
                    first,
                    second,
                    archive,
                    ".",
                ];
                kernel::run("tar", args);
            }
            None => tar(&root, &archive, how),
        }
        sources.push((kind, ImageSource::Tar(archive)));
    }
    let mut diff_ids = Vec::new();
    for (kind, source) in &sources {
        let mut steps = Vec::new();
        let options = ImageOptions { description: "why".to_owned(), ..ImageOptions::default() };
        let image = store.import(source, &name(kind), &options, &mut |progress| {
            assert_eq!((progress.layer, progress.layers), (1, 1));
            assert!(progress.total_bytes.is_none_or(|total| progress.bytes <= total));
            steps.push(progress.step);
        });
        let image = image.unwrap_or_else(|error| panic!("{kind}: {}", docklet::error::Chain(&error)));
        assert_eq!(listing(&image.layers[0]), expected, "{kind}");
        assert!(steps.contains(&ImportStep::Store), "{kind}: {steps:?}");
        let described = store.describe(&name(kind)).expect("describe");
        assert_eq!(described.history[0].comment.as_deref(), Some("why"));
        assert!(described.layers[0].entries.is_some_and(|entries| entries >= 7));
        diff_ids.push(image.content.layers[0].diff_id);
        assert_eq!(*kind == "directory", diff_ids.len() == 1);
    }
    assert!(diff_ids[2..].iter().all(|diff_id| *diff_id == diff_ids[1]), "one archive, however compressed");
    let (blobs, layers, unfinished) = contents(&sandbox);
    assert_eq!((layers, unfinished), (2, vec![]));
    // Once more under other names: nothing is stored but what tells when.
    for (kind, source) in &sources {
        import(&store, source, &name(&format!("{kind}-again"))).expect("import");
    }
    let archives = store.verify().expect("verify");
    assert_eq!((archives.damaged.len(), contents(&sandbox).1), (0, 2));
    assert!(contents(&sandbox).0 <= blobs + 2 * sources.len());
    let error = import(&store, &sources[0].1, &name("directory")).expect_err("taken");
    assert!(matches!(error, Error::Differs { .. }), "{error}");
    let replace = ImageOptions { replace: true, ..ImageOptions::default() };
    store.import(&sources[1].1, &name("directory"), &replace, &mut |_| {}).expect("replace");
    assert_eq!(store.resolve(&name("directory")).expect("resolve").layers[0].diff_id, diff_ids[1]);
}

/// A layer's tree, without the times of what stands for missing files: an archive has none for them.
fn timeless(layer: &Path) -> Vec<String> {
    let whiteout = |line: &String| line.contains(" 20000 ");
    listing(layer)
        .into_iter()
        .map(|line| if whiteout(&line) { line[..12].to_owned() } else { line })
        .collect()
}

/// An image with several layers goes out and comes in with the digests it had; from here by other programs, too.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_digests_survive_the_way_out_and_in() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let mut image = import(&store, &ImageSource::Directory(root(&sandbox)), &name("one")).expect("import");
    for (layer, compression) in [Compression::None, Compression::Gzip].into_iter().enumerate() {
        let upper = sandbox.dir(&format!("upper-{layer}"));
        fs::write(upper.join(layer.to_string()), "x").expect("write");
        kernel::run("mknod", [upper.join("null").to_str().expect("UTF-8"), "c", "0", "0"]);
        let options = ImageOptions { compression, replace: true, ..ImageOptions::default() };
        image = store.commit(&image.content, &upper, &name("one"), &options, None).expect("commit");
    }
    let out = sandbox.dir("out");
    let (layout, archive) = (out.join("layout"), out.join("archive"));
    store.export(&name("one"), &ImageTarget::OciLayout(layout.clone())).expect("export");
    store.export(&name("one"), &ImageTarget::OciArchive(archive.clone())).expect("export");
    assert!(
        message(store.export(&name("none"), &ImageTarget::OciLayout(out.join("none"))))
            .contains("does not exist")
    );
    let expected: Vec<_> = image.layers.iter().map(|layer| timeless(layer)).collect();

    let elsewhere = sandbox.dir("elsewhere");
    let other = ImageStore::new(elsewhere.join("images"), elsewhere.join("layers")).expect("store");
    for (text, path) in [("layout", &layout), ("archive", &archive)] {
        let source = ImageSource::OciLayout { path: path.clone(), reference: Some("one".to_owned()) };
        let imported = import(&other, &source, &name(text)).expect("import");
        assert_eq!(imported.content, image.content, "{text}");
        let found: Vec<_> = imported.layers.iter().map(|layer| timeless(layer)).collect();
        assert_eq!(found, expected, "{text}");
    }
    assert_eq!(fs::read_dir(elsewhere.join("images/blobs/sha256")).expect("list").count(), 5);

    // Docker's archives have no digests of layers' archives: it is the same layers, not the same blobs.
    let saved = out.join("saved.tar");
    let [from, to] =
        [format!("oci:{}:one", layout.display()), format!("docker-archive:{}:one:1", saved.display())];
    kernel::run("skopeo", ["copy", "--quiet", &from, &to]);
    let source = ImageSource::DockerArchive { path: saved, reference: None };
    let imported = import(&other, &source, &name("saved")).expect("import");
    let diff_ids = |image: &Image| image.content.layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>();
    assert_eq!(diff_ids(&imported), diff_ids(&image));
    // Which now has a manifest of our own making.
    other.export(&name("saved"), &ImageTarget::OciLayout(out.join("saved"))).expect("export");
    kernel::run(
        "skopeo",
        [
            "copy",
            "--quiet",
            &format!("oci:{}:saved", out.join("saved").display()),
            &format!("dir:{}", sandbox.dir("dir").display()),
        ],
    );
    assert_eq!(other.verify().expect("verify").damaged, Vec::<String>::new());
}

/// An archive that names a file and not the directories above it leaves those as they are below, under each image alike.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_layers_leave_directories_as_they_are_below() {
    let sandbox = Sandbox::new();
    let (first, second) = (store(&sandbox), sandbox.dir("second"));
    let second = ImageStore::new(sandbox.paths.images(), second).expect("store");
    let top = sandbox.dir("top");
    fs::create_dir_all(top.join("tmp")).expect("mkdir");
    fs::write(top.join("tmp/file"), "x").expect("write");
    let archives = sandbox.dir("archives");
    let [top, file] = [&top, &archives.join("top.tar")].map(|path| path.to_str().expect("UTF-8").to_owned());
    kernel::run("tar", ["-C", &top, "-cf", &file, "tmp/file"]);
    let modes = [("open", 0o1777), ("closed", 0o700)];
    for (text, mode) in modes {
        let lower = sandbox.dir(text);
        fs::create_dir(lower.join("tmp")).expect("mkdir");
        fs::set_permissions(lower.join("tmp"), fs::Permissions::from_mode(mode)).expect("chmod");
        let archive = archives.join(text);
        tar(&lower, &archive, "-cf");
        let layout = sandbox.dir("layouts").join(text);
        let image = format!("{}:test", layout.display());
        kernel::run("umoci", ["init", "--layout", layout.to_str().expect("UTF-8")]);
        kernel::run("umoci", ["new", "--image", &image]);
        for layer in [archive.to_str().expect("UTF-8"), &file] {
            kernel::run("umoci", ["raw", "add-layer", "--image", &image, layer]);
        }
        import(&first, &ImageSource::OciLayout { path: layout, reference: None }, &name(text))
            .expect("import");
    }
    for host in [&first, &second] {
        let images = modes.map(|(text, _)| host.open(&name(text)).expect("open"));
        assert_eq!(images[0].content.layers[1].diff_id, images[1].content.layers[1].diff_id);
        for (image, (text, mode)) in images.iter().zip(modes) {
            let found = fs::metadata(image.layers[0].join("tmp")).expect("stat").permissions().mode();
            assert_eq!(found & 0o7777, mode, "{text}");
        }
        host.collect_garbage(&[], &AT_ONCE).expect("collect");
        assert_eq!(modes.map(|(text, _)| host.open(&name(text)).expect("open")), images);
        assert!(host.describe(&name("open")).expect("describe").layers[1].entries.is_some());
    }
    assert_eq!(contents(&sandbox).1, 4);
    first.remove(&name("closed")).expect("remove");
    first.collect_garbage(&[], &AT_ONCE).expect("collect");
    assert_eq!(contents(&sandbox).1, 2);
}

/// What is not what its digest says gets no name, on whatever side; importing again mends what was altered here.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_imports_verify_and_mend() {
    let sandbox = Sandbox::new();
    let first = store(&sandbox);
    let image = import(&first, &ImageSource::Directory(root(&sandbox)), &name("one")).expect("import");
    let layout = sandbox.dir("out").join("layout");
    first.export(&name("one"), &ImageTarget::OciLayout(layout.clone())).expect("export");
    let source = ImageSource::OciLayout { path: layout.clone(), reference: None };
    let elsewhere = sandbox.dir("elsewhere");
    let other = ImageStore::new(elsewhere.join("images"), elsewhere.join("layers")).expect("store");
    let blobs = image.content.layers.iter().map(|layer| layer.blob);
    for digest in blobs.chain([image.content.config, image.content.manifest]) {
        let path = layout.join("blobs/sha256").join(digest.hex());
        let good = fs::read(&path).expect("read");
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for (case, bad) in [("flipped", &flipped[..]), ("truncated", &good[..good.len() / 2])] {
            fs::write(&path, bad).expect("write");
            let error = import(&other, &source, &name("two")).expect_err("damaged");
            assert!(matches!(error, Error::Damaged { .. }), "{case}: {}", docklet::error::Chain(&error));
            assert_eq!(other.list().expect("list"), []);
            assert_eq!(other.tidy().expect("tidy"), Vec::<String>::new(), "{case}");
        }
        fs::write(&path, good).expect("write");
    }
    other.collect_garbage(&[], &AT_ONCE).expect("collect");
    assert_eq!(fs::read_dir(elsewhere.join("images/blobs/sha256")).expect("list").count(), 0);
    import(&other, &source, &name("two")).expect("import");
    // Altered in the store.
    for digest in image.content.layers.iter().map(|layer| layer.blob).chain([image.content.config]) {
        let path = elsewhere.join("images/blobs/sha256").join(digest.hex());
        fs::write(&path, "altered").expect("write");
    }
    assert_eq!(other.verify().expect("verify").damaged.len(), 2);
    let replace = ImageOptions { replace: true, ..ImageOptions::default() };
    other.import(&source, &name("two"), &replace, &mut |_| {}).expect("import");
    assert_eq!(other.verify().expect("verify").damaged, Vec::<String>::new());
}

/// Sixteen at once make one copy of everything.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_imports_at_once_are_one_copy() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let archive = sandbox.dir("archives").join("root.tar.gz");
    tar(&root(&sandbox), &archive, "-czf");
    let source = ImageSource::Tar(archive);
    let images: Vec<Image> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|n| {
                let (store, source) = (&store, &source);
                scope.spawn(move || import(store, source, &name(&format!("n{n}"))).expect("import"))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("thread")).collect()
    });
    assert!(images.windows(2).all(|pair| pair[0].layers == pair[1].layers));
    assert_eq!((store.list().expect("list").len(), contents(&sandbox).1), (16, 1));
    let blobs = fs::read_dir(sandbox.paths.images().join("blobs/sha256")).expect("list");
    let archives = blobs.filter(|entry| {
        let content = fs::read(entry.as_ref().expect("entry").path()).expect("read");
        content.starts_with(&[0x1f, 0x8b])
    });
    assert_eq!(archives.count(), 1);
    assert_eq!(contents(&sandbox).2, Vec::<String>::new());
}

/// A hostile archive is refused, and nothing of it is left, here or elsewhere.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_of_a_hostile_archive_is_none() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let outside = sandbox.dir("outside");
    let tree = sandbox.dir("hostile");
    fs::write(tree.join("evil"), "x").expect("write");
    let archive = sandbox.dir("archives").join("evil.tar");
    let transform = format!("--transform=s,evil,../../../../../../{}/evil,", outside.display());
    let [from, to] = [&tree, &archive].map(|path| path.to_str().expect("UTF-8"));
    kernel::run("tar", ["-P", "-C", from, &transform, "-cf", to, "evil"]);
    let error = import(&store, &ImageSource::Tar(archive.clone()), &name("evil")).expect_err("refused");
    assert!(matches!(error, Error::Invalid { .. }), "{}", docklet::error::Chain(&error));
    fs::write(&archive, "no archive at all").expect("write");
    let refused = message(import(&store, &ImageSource::Tar(archive.clone()), &name("evil")));
    assert!(refused.starts_with(&format!("layer archive `{to}` is damaged: ")), "{refused}");
    fs::remove_file(&archive).expect("remove");
    let gone = import(&store, &ImageSource::Tar(archive), &name("evil")).expect_err("missing");
    assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
    assert_eq!(fs::read_dir(&outside).expect("list").count(), 0);
    assert_eq!(store.list().expect("list"), []);
    store.collect_garbage(&[], &AT_ONCE).expect("collect");
    assert_eq!(contents(&sandbox), (0, 0, vec![]));
    remove_tree(tree.parent().expect("parent"), Path::new("hostile")).expect("remove");
}

/// A source that is not what it is said to be is told by its path, and by what is wrong with it.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_sources_that_are_none_are_named() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let (missing, file) = (sandbox.dir("archives").join("missing"), sandbox.dir("archives").join("file"));
    fs::write(&file, "no archive at all").expect("write");
    let directory = sandbox.dir("empty");
    let of_path: [fn(PathBuf) -> ImageSource; 4] = [
        ImageSource::Directory,
        ImageSource::Tar,
        |path| ImageSource::OciLayout { path, reference: None },
        |path| ImageSource::DockerArchive { path, reference: None },
    ];
    for source in of_path {
        let refused = message(import(&store, &source("relative/path".into()), &name("x")));
        assert_eq!(refused, "invalid image source \"relative/path\": must be an absolute path");
        let refused = message(import(&store, &source(missing.clone()), &name("x")));
        assert_eq!(refused, format!("`{}` does not exist", missing.display()));
    }
    for (source, expected) in [
        (of_path[0](file.clone()), "must be a directory"),
        (of_path[1](directory.clone()), "must be a regular file"),
        (of_path[1](file.clone()), "is damaged"),
        (of_path[2](directory.clone()), "`oci-layout` in"),
        (of_path[2](file.clone()), "is damaged"),
        (of_path[3](file.clone()), "is damaged"),
    ] {
        let refused = message(import(&store, &source, &name("x")));
        let place = source.path().to_str().expect("UTF-8");
        assert!(refused.contains(expected) && refused.contains(place), "{source:?}: {refused}");
    }
    assert_eq!(store.list().expect("list"), []);
    store.collect_garbage(&[], &AT_ONCE).expect("collect");
    assert_eq!(contents(&sandbox), (0, 0, vec![]));
}
