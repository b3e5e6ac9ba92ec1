//! Documents of images by people who mean harm: altered anywhere, they are an image or a typed error, and nothing else.

use std::cell::Cell;
use std::fs;
use std::path::Path;

use docklet::Error;
use docklet::storage::{Digest, ImageOptions, ImageSource};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tar::EntryType;

use crate::image::{AT_ONCE, contents, name, store};
use crate::sandbox::{Sandbox, open_descriptors};
use crate::tar_archive::TarArchive;

/// A document of an image: which one is altered.
const DOCUMENTS: [&str; 4] = ["config", "manifest", "index", "layout"];

#[derive(Debug, Clone)]
struct Harm {
    document: usize,
    /// Which value in it, in the order of the text, and what is done with it.
    at: prop::sample::Index,
    how: How,
    /// A byte of the text, after that.
    flip: Option<(prop::sample::Index, u8)>,
}

#[derive(Debug, Clone)]
enum How {
    Nothing,
    Replace(Value),
    Remove,
    /// Of a list or an object, with each other.
    Repeat(usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    let value = prop::sample::select(vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("../../../../etc/passwd"),
        json!("/etc/passwd"),
        json!("sha256:../../../../../../../../../../../../../../../../../../../../../../../etc/passwd"),
        json!(format!("sha256:{}", "0".repeat(64))),
        json!(format!("sha256:{}", "A".repeat(64))),
        json!("sha512:00"),
        json!("x".repeat(100_000)),
        json!("\u{0}\u{202e}\n"),
        json!([]),
        json!({}),
        json!([[[[[[]]]]]]),
    ]);
    let how = prop_oneof![
        1 => Just(How::Nothing),
        6 => value.prop_map(How::Replace),
        2 => Just(How::Remove),
        1 => prop::sample::select(vec![2_usize, 600, 1200]).prop_map(How::Repeat),
    ];
    let flip = prop::option::weighted(0.3, (any::<prop::sample::Index>(), 1_u8..));
    (0..DOCUMENTS.len(), any::<prop::sample::Index>(), how, flip).prop_map(|(document, at, how, flip)| Harm {
        document,
        at,
        how,
        flip,
    })
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(values) => values.iter().map(count).sum(),
        Value::Object(values) => values.values().map(count).sum(),
        _ => 0,
    }
}

/// Does it to the value that is `left` values further.
fn alter(value: &mut Value, left: &mut usize, how: &How) {
    if *left == 0 {
        match (how, &mut *value) {
            (How::Replace(other), _) => *value = other.clone(),
            (How::Repeat(times), Value::Array(values)) => {
                *values = std::iter::repeat_n(values.clone(), *times).flatten().collect();
            }
            _ => {}
        }
    }
    let mut is_gone = |value: &mut Value| {
        if *left == 0 {
            return false;
        }
        *left -= 1;
        let is_it = *left == 0;
        alter(value, left, how);
        is_it && matches!(how, How::Remove)
    };
    match value {
        Value::Array(values) => values.retain_mut(|value| !is_gone(value)),
        Value::Object(values) => values.retain(|_, value| !is_gone(value)),
        _ => {}
    }
}

fn altered(which: &str, document: &Value, harm: &Harm) -> Vec<u8> {
    if DOCUMENTS[harm.document] != which {
        return serde_json::to_vec(document).expect("JSON");
    }
    let mut document = document.clone();
    let mut left = harm.at.index(count(&document));
    alter(&mut document, &mut left, &harm.how);
    let mut text = serde_json::to_vec(&document).expect("JSON");
    if let Some((at, bits)) = &harm.flip {
        let at = at.index(text.len());
        text[at] ^= bits;
    }
    text
}

fn config(layer: &[u8]) -> Value {
    let architecture = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let rootfs = json!({ "type": "layers", "diff_ids": [Digest::of(layer)] });
    let history = json!([{ "created_by": "test", "empty_layer": false, "created": "2000-01-01T00:00:00Z" }]);
    json!({ "architecture": architecture, "os": "linux", "rootfs": rootfs, "history": history, "config": { "Env": ["A=b"] } })
}

fn descriptor(kind: &str, content: &[u8]) -> Value {
    let media_type = format!("application/vnd.oci.image.{kind}");
    json!({ "mediaType": media_type, "digest": Digest::of(content), "size": content.len(), "annotations": { "a": "b" } })
}

/// An image layout. What names an altered document has the digest of that.
fn layout(path: &Path, layer: &[u8], harm: &Harm) {
    let config = altered("config", &config(layer), harm);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config),
        "layers": [descriptor("layer.v1.tar", layer)],
    });
    let manifest = altered("manifest", &manifest, harm);
    let index = json!({ "schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", &manifest)] });
    let marker = json!({ "imageLayoutVersion": "1.0.0" });
    fs::create_dir_all(path.join("blobs/sha256")).expect("mkdir");
    for content in [layer, &config, &manifest] {
        fs::write(path.join("blobs/sha256").join(Digest::of(content).hex()), content).expect("write");
    }
    fs::write(path.join("index.json"), altered("index", &index, harm)).expect("write");
    fs::write(path.join("oci-layout"), altered("layout", &marker, harm)).expect("write");
}

/// What `docker save` writes; its `manifest.json` is altered in place of the layout's.
fn saved(path: &Path, layer: &[u8], harm: &Harm) {
    let manifest = json!([{ "Config": "config.json", "RepoTags": ["x:latest"], "Layers": ["layer.tar"] }]);
    let archive = TarArchive::default()
        .add(EntryType::Regular, b"manifest.json", b"", &altered("manifest", &manifest, harm))
        .add(EntryType::Regular, b"config.json", b"", &altered("config", &config(layer), harm))
        .add(EntryType::Regular, b"layer.tar", b"", layer);
    fs::write(path, archive.end()).expect("write");
}

#[test]
#[ignore = "needs root: a private mount namespace"]
fn image_documents_altered_anywhere_are_images_or_errors() {
    if !crate::sandbox::alone("image_documents::image_documents_altered_anywhere_are_images_or_errors") {
        return;
    }
    let sandbox = Sandbox::new();
    let store = store(&sandbox);
    let layer = TarArchive::default().file("file", "x").end();
    let (turn, imported) = (Cell::new(0), Cell::new(0));
    let descriptors = open_descriptors();
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&(harm(), any::<bool>()), |(harm, is_layout)| {
        turn.set(turn.get() + 1);
        let path = sandbox.dir("sources").join(turn.get().to_string());
        let source = if is_layout {
            layout(&path, &layer, &harm);
            ImageSource::OciLayout { path, reference: None }
        } else {
            saved(&path, &layer, &harm);
            ImageSource::DockerArchive { path, reference: None }
        };
        match store.import(&source, &name("image"), &ImageOptions::default(), &mut |_| {}) {
            Ok(image) => {
                imported.set(imported.get() + 1);
                for layer in &image.layers {
                    prop_assert!(layer.starts_with(sandbox.paths.layers()), "{}", layer.display());
                }
                let _ = store.describe(&name("image"));
                store.remove(&name("image")).expect("remove");
            }
            Err(
                Error::Invalid { .. }
                | Error::Damaged { .. }
                | Error::NotFound { .. }
                | Error::Unsupported { .. },
            ) => {}
            Err(error) => prop_assert!(false, "{}", docklet::error::Chain(&error)),
        }
        prop_assert_eq!(contents(&sandbox).2, Vec::<String>::new());
        prop_assert_eq!(open_descriptors(), descriptors);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    let (imported, turn) = (imported.get(), turn.get());
    assert!(imported > 0 && imported < turn, "{imported} of {turn}");
    assert_eq!(store.verify().expect("verify").damaged, Vec::<String>::new());
    store.collect_garbage(&[], &AT_ONCE).expect("collect");
    assert_eq!(contents(&sandbox), (0, 0, vec![]));
}
