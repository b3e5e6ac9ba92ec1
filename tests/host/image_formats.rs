//! Images as `umoci` and `skopeo` write and read them: what those see in them is what a container sees here.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use docklet::storage::{Digest, Image, ImageOptions, ImageSource, ImageStore, ImageTarget};
use docklet::{Error, Result};

use crate::image::name;
use crate::kernel;
use crate::layer::{odd_tree, xattr};
use crate::listing::listing;
use crate::sandbox::Sandbox;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Adds the tree of a scratch directory to the image as one more layer, as GNU tar packs it.
fn add_layer(sandbox: &Sandbox, layout: &Path, name: &str, fill: impl FnOnce(&Path)) {
    let tree = sandbox.dir(name);
    fill(&tree);
    let archive = tree.with_extension("tar");
    let tar = ["--format=pax", "--xattrs", "--xattrs-include=*", "--numeric-owner", "--sort=name", "-cf"];
    kernel::run("tar", tar.into_iter().chain([text(&archive), "-C", text(&tree), "."]));
    kernel::run("umoci", ["raw", "add-layer", "--image", &format!("{}:test", text(layout)), text(&archive)]);
}

/// An image of three layers with one of everything, made by `umoci`.
fn image(sandbox: &Sandbox) -> PathBuf {
    let layout = sandbox.dir("images").join("layout");
    kernel::run("umoci", ["init", "--layout", text(&layout)]);
    kernel::run("umoci", ["new", "--image", &format!("{}:test", text(&layout))]);
    add_layer(sandbox, &layout, "lower", |tree| {
        odd_tree(tree);
        // What stands for overlayfs' marks is in the layers above.
        for name in ["missing", "missing-too"] {
            fs::remove_file(tree.join(name)).expect("unlink");
        }
        rustix::fs::lremovexattr(tree.join("opaque"), "trusted.overlay.opaque").expect("lremovexattr");
        for name in ["gone/a/b", "hidden/below", "replaced/by-a-file", "grows"] {
            fs::create_dir_all(tree.join(name)).expect("mkdir");
        }
        fs::write(tree.join("file-becomes-directory"), "x").expect("write");
        fs::write(tree.join("hidden/below/file"), "x").expect("write");
        fs::write(tree.join("grows/old"), "old").expect("write");
    });
    // The second layer is of `umoci`'s own making, from what was changed in a root.
    let bundle = sandbox.dir("bundles").join("edited");
    kernel::run("umoci", ["unpack", "--image", &format!("{}:test", text(&layout)), text(&bundle)]);
    edit(&bundle.join("rootfs"));
    kernel::run("umoci", ["repack", "--image", &format!("{}:test", text(&layout)), text(&bundle)]);
    add_layer(sandbox, &layout, "opaque-layer", |tree| {
        fs::create_dir_all(tree.join("hidden/below")).expect("mkdir");
        fs::write(tree.join("hidden/below/new"), "new").expect("write");
        // After its directory's other members, by name.
        fs::write(tree.join("hidden/.wh..wh..opq"), "").expect("write");
        fs::create_dir_all(tree.join("opaque")).expect("mkdir");
        fs::write(tree.join("opaque/.wh.old"), "").expect("write");
    });
    layout
}

fn edit(root: &Path) {
    let tree = (root.parent().expect("parent"), root.file_name().expect("name"));
    let remove =
        |name: &str| docklet::storage::remove_tree(tree.0, &Path::new(tree.1).join(name)).expect("remove");
    ["gone", "replaced", "file-becomes-directory", "long-link"].into_iter().for_each(remove);
    fs::write(root.join("replaced"), "a file").expect("write");
    fs::create_dir_all(root.join("file-becomes-directory/x")).expect("mkdir");
    fs::write(root.join("grows/new"), "new").expect("write");
    fs::hard_link(root.join("grows/new"), root.join("grows/new-too")).expect("link");
    xattr(&root.join("grows/new"), "user.new", b"value");
    symlink("new", root.join("grows/link")).expect("symlink");
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o700)).expect("chmod");
}

/// What `umoci` makes of the image.
fn by_umoci(sandbox: &Sandbox, layout: &Path, tag: &str) -> Vec<String> {
    let bundle = sandbox.dir("bundles").join(format!("{}-{tag}", text(layout).replace('/', "-")));
    kernel::run("umoci", ["unpack", "--image", &format!("{}:{tag}", text(layout)), text(&bundle)]);
    listing(&bundle.join("rootfs"))
}

/// A store of its own for each name.
fn store(sandbox: &Sandbox, name: &str) -> ImageStore {
    let base = sandbox.dir(name);
    ImageStore::new(base.join("global"), base.join("local")).expect("store")
}

fn import(store: &ImageStore, source: &ImageSource) -> Result<Image> {
    store.import(source, &name("v1"), &ImageOptions::default(), &mut |_| {})
}

/// What a container sees of the image: an overlay of its layers, unpacked here.
fn by_overlay(sandbox: &Sandbox, name: &str, source: &ImageSource) -> Result<Vec<String>> {
    let layers = import(&store(sandbox, name), source)?.layers;
    if let [one] = layers.as_slice() {
        return Ok(listing(one));
    }
    let merged = sandbox.dir("merged").join(name);
    fs::create_dir(&merged).expect("mkdir");
    let lower: Vec<&str> = layers.iter().map(|layer| text(layer)).collect();
    let options = format!("lowerdir={}", lower.join(":"));
    kernel::run("mount", ["-t", "overlay", "-o", &options, "overlay", text(&merged)]);
    let seen = listing(&merged);
    // Lazily: a child of another test has for a moment what this one had open in it.
    kernel::run("umount", ["-l", text(&merged)]);
    Ok(seen)
}

fn layout_source(path: &Path) -> ImageSource {
    ImageSource::OciLayout { path: path.to_owned(), reference: None }
}

/// Equal but for the inode's attributes that no image has: the root's own, which `umoci` leaves as it made it.
fn assert_same(ours: &[String], theirs: &[String]) {
    for (ours, theirs) in ours.iter().zip(theirs).skip(1) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
}

#[test]
#[ignore = "needs root: owners, devices, mounts"]
fn image_from_umoci_is_what_umoci_sees() {
    let sandbox = Sandbox::new();
    let layout = image(&sandbox);
    let ours = by_overlay(&sandbox, "ours", &layout_source(&layout)).expect("unpack");
    assert_same(&ours, &by_umoci(&sandbox, &layout, "test"));
}

/// Through a Docker archive, and with layers compressed by gzip and by zstd, it is still the same.
#[test]
#[ignore = "needs root: owners, devices, mounts"]
fn image_through_skopeo_is_the_same() {
    let sandbox = Sandbox::new();
    let layout = image(&sandbox);
    let expected = by_umoci(&sandbox, &layout, "test");
    let out = sandbox.dir("out");
    let source = format!("oci:{}:test", text(&layout));
    let docker = out.join("docker.tar");
    kernel::run(
        "skopeo",
        ["copy", "-q", &source, &format!("docker-archive:{}:some/name:1.0", text(&docker))],
    );
    let docker_source = |reference: &str| ImageSource::DockerArchive {
        path: docker.clone(),
        reference: Some(reference.to_owned()),
    };
    assert_same(&by_overlay(&sandbox, "docker", &docker_source("some/name:1.0")).expect("unpack"), &expected);
    for missing in ["some/name", "other:1.0", ""] {
        let error = import(&store(&sandbox, "none"), &docker_source(missing)).expect_err("no such tag");
        assert!(matches!(&error, Error::NotFound { what } if what.contains("some/name:1.0")), "{error}");
    }
    for format in ["gzip", "zstd"] {
        let other = out.join(format);
        let to = format!("oci:{}:test", text(&other));
        kernel::run("skopeo", ["copy", "-q", "--dest-compress-format", format, &source, &to]);
        assert_same(&by_overlay(&sandbox, format, &layout_source(&other)).expect("unpack"), &expected);
    }
    let archive = out.join("layout.tar");
    kernel::run("skopeo", ["copy", "-q", &source, &format!("oci-archive:{}:test", text(&archive))]);
    assert_same(&by_overlay(&sandbox, "archive", &layout_source(&archive)).expect("unpack"), &expected);
}

/// The digest of a layout's only manifest, by what the layout says.
fn manifest_of(layout: &Path) -> Digest {
    let index = fs::read_to_string(layout.join("index.json")).expect("index.json");
    let index: serde_json::Value = serde_json::from_str(&index).expect("JSON");
    index["manifests"][0]["digest"].as_str().expect("text").parse().expect("a digest")
}

/// What is written here is read by others as the image that it was, manifest and all.
#[test]
#[ignore = "needs root: owners, devices, mounts"]
fn exported_image_is_read_by_others() {
    let sandbox = Sandbox::new();
    let layout = image(&sandbox);
    let expected = by_umoci(&sandbox, &layout, "test");
    let digest = manifest_of(&layout);
    let store = store(&sandbox, "store");
    assert_eq!(import(&store, &layout_source(&layout)).expect("import").content.manifest, digest);
    let out = sandbox.dir("out");
    let exported = ImageTarget::OciLayout(out.join("exported"));
    let archive = ImageTarget::OciArchive(out.join("exported.tar"));
    for target in [&exported, &archive] {
        store.export(&name("v1"), target).expect("export");
        let error = store.export(&name("v1"), target).expect_err("it is there");
        assert!(matches!(error, Error::Differs { .. }), "{error}");
    }
    assert_eq!(fs::read_dir(&out).expect("list").count(), 2, "nothing else is left");
    assert_same(&by_umoci(&sandbox, exported.path(), "v1"), &expected);
    for reference in ["oci:exported:v1", "oci-archive:exported.tar:v1"] {
        let (transport, rest) = reference.split_once(':').expect("two");
        let source = format!("{transport}:{}/{rest}", text(&out));
        let seen = kernel::json("skopeo", ["inspect", &source]);
        assert_eq!(seen["Digest"], digest.to_string(), "{seen}");
        let docker = out.join(format!("{transport}.docker.tar"));
        kernel::run("skopeo", ["copy", "-q", &source, &format!("docker-archive:{}:x:y", text(&docker))]);
        let source = ImageSource::DockerArchive { path: docker, reference: None };
        assert_same(&by_overlay(&sandbox, transport, &source).expect("unpack"), &expected);
    }
}

/// One blob after the other is altered, cut, lengthened or removed: none goes in or out unnoticed.
#[test]
#[ignore = "needs root: owners, devices, mounts"]
fn damaged_blobs_are_noticed() {
    let sandbox = Sandbox::new();
    let layout = image(&sandbox);
    let source = layout_source(&layout);
    let whole = store(&sandbox, "whole");
    let content = import(&whole, &source).expect("whole").content;
    let target = ImageTarget::OciLayout(sandbox.dir("out").join("exported"));
    let mut tries = 0;
    let mut refused = || {
        tries += 1;
        import(&store(&sandbox, &format!("try{tries}")), &source).expect_err("damaged")
    };
    let mut needed = vec![content.manifest, content.config];
    needed.extend(content.layers.iter().map(|layer| layer.blob));
    assert_eq!(needed.len(), 5, "three layers, a configuration, a manifest");
    for digest in needed {
        let there = layout.join("blobs/sha256").join(digest.hex());
        let here = sandbox.dir("whole").join("global/blobs/sha256").join(digest.hex());
        let good = fs::read(&there).expect("read");
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for damaged in [flipped, good[..good.len() - 1].to_vec(), [good.as_slice(), b"\0"].concat()] {
            fs::write(&there, &damaged).expect("write");
            let error = refused();
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
            fs::write(&here, &damaged).expect("write");
            let error = whole.export(&name("v1"), &target).expect_err("damaged");
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
        }
        fs::remove_file(&there).expect("unlink");
        let error = refused();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
        fs::remove_file(&here).expect("unlink");
        let error = whole.export(&name("v1"), &target).expect_err("missing");
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        fs::write(&there, &good).expect("write");
        fs::write(&here, &good).expect("write");
    }
    assert_eq!(
        fs::read_dir(sandbox.dir("out")).expect("list").count(),
        0,
        "nothing is left of failed exports"
    );
    whole.export(&name("v1"), &target).expect("whole again");
}
