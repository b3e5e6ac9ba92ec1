//! Images by people who mean harm to other images, and what goes wrong at a bad moment.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use docklet::storage::{Digest, Image, ImageOptions, ImageSource, ImageStore, ImageTarget};
use docklet::{Error, Result};
use serde_json::json;
use tar::EntryType;

use crate::image::{AT_ONCE, contents, name, store};
use crate::kernel;
use crate::sandbox::{Sandbox, alone, open_descriptors};
use crate::tar_archive::TarArchive;

fn import(store: &ImageStore, source: &ImageSource, image: &str) -> Result<Image> {
    store.import(source, &name(image), &ImageOptions::default(), &mut |_| {})
}

/// What `docker save` would write of these layers, the lowest first, by the DiffIDs that it tells.
fn saved(sandbox: &Sandbox, file: &str, layers: &[(Digest, &[u8])]) -> ImageSource {
    let diff_ids: Vec<_> = layers.iter().map(|(diff_id, _)| diff_id).collect();
    let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
    let config = json!({ "architecture": architecture(), "os": "linux", "rootfs": rootfs }).to_string();
    let names: Vec<String> = (0..layers.len()).map(|n| format!("{n}.tar")).collect();
    let manifest = json!([{ "Config": "config.json", "Layers": names }]).to_string();
    let mut archive = TarArchive::default().file("manifest.json", &manifest).file("config.json", &config);
    for (name, (_, layer)) in names.iter().zip(layers) {
        archive = archive.add(EntryType::Regular, name.as_bytes(), b"", layer);
    }
    let path = sandbox.dir("saved").join(file);
    fs::write(&path, archive.end()).expect("write");
    ImageSource::DockerArchive { path, reference: None }
}

fn architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }
}

/// Who only knows what somebody's layer is called does not get it by saying so.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_layers_are_not_given_to_who_only_names_them() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let secret = TarArchive::default().file("secret", "of somebody").end();
    let diff_id = Digest::of(&secret);
    let theirs = import(&store, &saved(&sandbox, "theirs", &[(diff_id, &secret)]), "theirs").expect("import");
    let other = TarArchive::default().file("nothing", "").end();
    let liar = saved(&sandbox, "liar", &[(diff_id, &other)]);
    let error = import(&store, &liar, "liar").expect_err("another layer");
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    // In a layout the archive's digest is right, and the configuration lies.
    let lied = saved(&sandbox, "lied", &[(Digest::of(&other), &other)]);
    let mine = import(&store, &lied, "mine").expect("import");
    let layout = sandbox.dir("out").join("layout");
    store.export(&name("mine"), &ImageTarget::OciLayout(layout.clone())).expect("export");
    point_to(&layout, &mine, &diff_id);
    // Where somebody else may write, too: nothing is waited for, and nothing followed.
    let target = sandbox.dir("out").join("target");
    for trap in ["fifo", "link"] {
        let path = sandbox.dir("out").join(".target.new");
        match trap {
            "fifo" => crate::layer::node(&path, rustix::fs::FileType::Fifo, 0, 0),
            _ => std::os::unix::fs::symlink(&layout, &path).expect("symlink"),
        }
        store.export(&name("mine"), &ImageTarget::OciLayout(target.clone())).expect_err(trap);
        fs::remove_file(path).expect("it stays");
    }
    assert!(layout.join("index.json").exists() && !target.exists());
    let source = ImageSource::OciLayout { path: layout, reference: None };
    let error = import(&store, &source, "liar").expect_err("another layer");
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    // Who has it is given what is there.
    let again = import(&store, &saved(&sandbox, "again", &[(diff_id, &secret)]), "again").expect("import");
    assert_eq!(again.layers, theirs.layers);
    assert_eq!(store.list().expect("list"), [name("again"), name("mine"), name("theirs")]);
    assert_eq!(contents(&sandbox).2, Vec::<String>::new());
}

/// Rewrites the configuration of a layout to claim another DiffID, and everything that names it.
fn point_to(layout: &Path, image: &Image, diff_id: &Digest) {
    let blob = |digest: &Digest| layout.join("blobs/sha256").join(digest.hex());
    let replace = |path: PathBuf, from: &Digest, to: &Digest| {
        let text = fs::read_to_string(path).expect("read").replace(&from.to_string(), &to.to_string());
        (Digest::of(text.as_bytes()), text)
    };
    let content = &image.content;
    let (config, text) = replace(blob(&content.config), &content.layers[0].diff_id, diff_id);
    fs::write(blob(&config), text).expect("write");
    let (manifest, text) = replace(blob(&content.manifest), &content.config, &config);
    fs::write(blob(&manifest), text).expect("write");
    let (_, index) = replace(layout.join("index.json"), &content.manifest, &manifest);
    fs::write(layout.join("index.json"), index).expect("write");
}

/// An image whose lowest layer is another image's upper one, and does not say what its directories look like, does not
/// change how that other one looks.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_layers_that_lie_lowest_are_for_that_place() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let base = TarArchive::default()
        .raw(EntryType::Directory, b"root", b"", b"", |header| header.set_mode(0o700))
        .end();
    let top = TarArchive::default().file("root/key", "x").end();
    let layer = |archive| (Digest::of(archive), archive);
    let alone = import(&store, &saved(&sandbox, "alone", &[layer(&top)]), "alone").expect("import");
    let both = [layer(&base[..]), layer(&top[..])];
    let both = import(&store, &saved(&sandbox, "both", &both), "both").expect("import");
    let mode = |image: &Image| {
        fs::metadata(image.layers[0].join("root")).expect("stat").permissions().mode() & 0o7777
    };
    assert_eq!((mode(&alone), mode(&both)), (0o755, 0o700));
    store.collect_garbage(&[], &AT_ONCE).expect("collect");
    assert_eq!(store.open(&name("alone")).expect("open").layers, alone.layers);
    assert_eq!(store.open(&name("both")).expect("open").layers, both.layers);
    assert_eq!(contents(&sandbox).1, 3);
}

/// A collection that comes while an import is at work takes none of the layers that it found here.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_imports_keep_the_layers_that_they_found() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let base =
        TarArchive::default().raw(EntryType::Directory, b"root", b"", b"", |h| h.set_mode(0o700)).end();
    let top = TarArchive::default().file("root/key", "x").end();
    let layer = |archive| (Digest::of(archive), archive);
    import(&store, &saved(&sandbox, "base", &[layer(&base)]), "base").expect("import");
    store.remove(&name("base")).expect("remove");
    let source = saved(&sandbox, "both", &[layer(&base[..]), layer(&top[..])]);
    let mut collections = 0;
    let image = store.import(&source, &name("both"), &ImageOptions::default(), &mut |progress| {
        if progress.layer == 2 {
            let collected = store.collect_garbage(&[], &AT_ONCE).expect("collect");
            assert_eq!(collected.layers, 0, "{progress:?}");
            collections += 1;
        }
    });
    let image = image.expect("import");
    assert!(collections >= 2);
    let found = fs::metadata(image.layers[0].join("root")).expect("stat").permissions().mode();
    assert_eq!(found & 0o7777, 0o700);
}

/// A store that is away is not one without names: its layers stay on this host.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_layers_stay_when_the_store_is_away() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let archive = TarArchive::default().file("file", "x").end();
    let image =
        import(&store, &saved(&sandbox, "one", &[(Digest::of(&archive), &archive)]), "one").expect("import");
    let (images, away) = (sandbox.paths.images(), sandbox.dir("away").join("images"));
    fs::rename(&images, &away).expect("rename");
    fs::create_dir(&images).expect("mkdir");
    let error = store.collect_garbage(&[], &AT_ONCE).expect_err("away");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(image.layers[0].join("file").exists());
    assert_eq!(store.layers_of(&image.content).expect("layers"), image.layers);
    fs::remove_dir(&images).expect("rmdir");
    fs::rename(&away, &images).expect("rename");
    assert_eq!(store.open(&name("one")).expect("open"), image);
}

/// What a container's root left for whoever commits it: nothing of it hangs, is read, or takes long.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_of_a_hostile_container() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let base = TarArchive::default().file("file", "x").end();
    let base =
        import(&store, &saved(&sandbox, "base", &[(Digest::of(&base), &base)]), "base").expect("import");
    let upper = sandbox.dir("upper");
    let commit =
        |image: &str| store.commit(&base.content, &upper, &name(image), &ImageOptions::default(), None);
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).expect("bind");
    crate::layer::node(&upper.join("pipe"), rustix::fs::FileType::Fifo, 0, 0);
    fs::write(upper.join("two\nlines"), "x").expect("write");
    fs::hard_link(upper.join("two\nlines"), upper.join("-rf \u{202e}\t")).expect("link");
    let image = commit("odd").expect("commit");
    let names = fs::read_dir(&image.layers[0]).expect("list").count();
    assert_eq!((names, image.layers.len()), (3, 2));
    // Terabytes of nothing.
    let sparse = |file: &str, size: u64| {
        fs::File::create(upper.join(file)).and_then(|file| file.set_len(size)).expect("truncate");
    };
    sparse("huge", 8 << 40);
    assert!(matches!(commit("huge"), Err(Error::Invalid { .. })));
    fs::remove_file(upper.join("huge")).expect("remove");
    assert_eq!(store.list().expect("list"), [name("base"), name("odd")]);
    assert_eq!(contents(&sandbox).2, Vec::<String>::new());
}

/// Everything at once, by two hosts with a shared store, and collections that spare nothing young: no operation finds
/// half of something, and what is named in the end is whole.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_storm() {
    let sandbox = Sandbox::new();
    let stores =
        [store(&sandbox), ImageStore::new(sandbox.paths.images(), sandbox.dir("other")).expect("store")];
    let layer = |text: &str| TarArchive::default().file(&format!("dir/{text}"), text).end();
    let archives: Vec<Vec<u8>> = ["a", "b", "c"].map(layer).to_vec();
    let sources: Vec<ImageSource> = (0..6)
        .map(|n| {
            let layers =
                [n % 3, (n + 1 + n / 3) % 3].map(|at| (Digest::of(&archives[at]), &archives[at][..]));
            saved(&sandbox, &format!("n{n}"), &layers)
        })
        .collect();
    let replace = ImageOptions { replace: true, ..ImageOptions::default() };
    let (replace, sources, stores) = (&replace, &sources, &stores);
    let unexpected = |what: &str, result: Result<()>| match result {
        // Others take names away, and collect what nothing names.
        Ok(()) | Err(Error::NotFound { .. }) => None,
        Err(error) => Some(format!("{what}: {}", docklet::error::Chain(&error))),
    };
    let found: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|thread| {
                scope.spawn(move || {
                    let store = &stores[thread % 2];
                    let mut all = Vec::new();
                    for turn in 0..12 {
                        let n = (thread / 2 * 5 + turn) % 6;
                        let (one, two) = (name(&format!("n{n}")), name(&format!("t{n}")));
                        all.extend(match (thread / 2 + turn) % 6 {
                            0 | 1 => unexpected(
                                "import",
                                store.import(&sources[n], &one, replace, &mut |_| {}).map(drop),
                            ),
                            2 => unexpected("tag", store.tag(&one, &two, replace)),
                            3 => unexpected("remove", store.remove(&two)),
                            4 => unexpected("collect", store.collect_garbage(&[], &AT_ONCE).map(drop)),
                            _ => unexpected("open", store.open(&one).map(drop)),
                        });
                    }
                    all
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("thread")).collect()
    });
    assert_eq!(found, Vec::<String>::new());
    for store in stores {
        assert_eq!(store.verify().expect("verify").damaged, Vec::<String>::new());
        for name in store.list().expect("list") {
            let image = store.open(&name).expect("open");
            let layer = &image.layers[0];
            assert_eq!(fs::read_dir(layer.join("dir")).expect("list").count(), 1, "{name}");
        }
        store.collect_garbage(&[], &AT_ONCE).expect("collect");
    }
    assert_eq!(contents(&sandbox).2, Vec::<String>::new());
}

/// An archive that is one image to one reader and another to the next is none.
#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_archives_with_two_of_one_name_are_refused() {
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let path = sandbox.dir("saved").join("twice");
    let long = format!("/{}", "x".repeat(200_000));
    for (archive, rule) in [
        (TarArchive::default().file("index.json", "{}").file("./index.json", "[]"), "is there twice"),
        (TarArchive::default().pax(&[("path", long.as_bytes())]).file("x", ""), "at most 4095 bytes"),
        (TarArchive::default().pax(&[("linkpath", long.as_bytes())]).symlink("x", ""), "at most 4095 bytes"),
        (
            TarArchive::default().symlink("oci-layout", "index.json").symlink("index.json", "oci-layout"),
            "not exist",
        ),
        (TarArchive::default().symlink("oci-layout", "../../../../etc/passwd"), "not exist"),
    ] {
        fs::write(&path, archive.end()).expect("write");
        let source = ImageSource::OciLayout { path: path.clone(), reference: None };
        let error = import(&store, &source, "twice").expect_err("refused");
        assert!(error.to_string().contains(rule), "{error}");
    }
}

/// A disk that is full of files, at whatever moment: nothing is named, nothing is left, no descriptor is lost; and with one
/// more it goes further, up to a whole image.
#[test]
#[ignore = "needs root: mounts"]
fn image_imports_on_a_disk_that_fills_at_any_moment() {
    // A child process of another test has for a moment all that this one has open.
    if !alone("image_hostile::image_imports_on_a_disk_that_fills_at_any_moment") {
        return;
    }
    let sandbox = Sandbox::new();
    let layer = |text: &str| TarArchive::default().file(&format!("{text}/{text}"), text).end();
    let layers = [layer("a"), layer("b")];
    let layers: Vec<_> = layers.iter().map(|layer| (Digest::of(layer), &layer[..])).collect();
    let source = saved(&sandbox, "two", &layers);
    for small in ["global", "local"] {
        let mut whole = false;
        for inodes in 8..40 {
            let at = sandbox.dir(small);
            let options = format!("size=4m,nr_inodes={inodes}");
            kernel::run("mount", ["-t", "tmpfs", "-o", &options, "none", at.to_str().expect("UTF-8")]);
            let other = sandbox.dir("other").join(inodes.to_string());
            let (global, local) = match small {
                "global" => (at.join("images"), other),
                _ => (other, at.join("layers")),
            };
            if let Ok(store) = ImageStore::new(&global, &local) {
                let before = open_descriptors();
                let imported = import(&store, &source, "two");
                assert_eq!(open_descriptors(), before, "{small}: {inodes}");
                let names = store.list().expect("list").len();
                match imported {
                    Ok(image) => {
                        whole = true;
                        assert_eq!(image.layers.len(), 2);
                        store.remove(&name("two")).expect("remove");
                    }
                    Err(error) => {
                        assert_eq!(names, 0, "{small}: {inodes}");
                        let full = matches!(error, Error::NoSpace { .. }) || error.errno() == Some(28);
                        assert!(full, "{small}: {inodes}: {}", docklet::error::Chain(&error));
                    }
                }
                assert_eq!(store.tidy().expect("tidy"), Vec::<String>::new(), "{small}: {inodes}");
                store.collect_garbage(&[], &AT_ONCE).expect("collect");
                for dir in ["staging", "condemned", "blobs/sha256", "tags"] {
                    assert_eq!(
                        fs::read_dir(global.join(dir)).expect("list").count(),
                        0,
                        "{small}: {inodes}: {dir}"
                    );
                }
                let odd = fs::read_dir(&local).expect("list").map(|entry| entry.expect("entry").file_name());
                let odd: Vec<_> = odd
                    .filter(|name| !name.to_string_lossy().ends_with("s.lock") && *name != ".collect.lock")
                    .collect();
                assert_eq!(odd, Vec::<std::ffi::OsString>::new(), "{small}: {inodes}");
            }
            kernel::run("umount", ["-l".as_ref(), at.as_os_str()]);
        }
        assert!(whole, "{small}: it never fit");
    }
}
