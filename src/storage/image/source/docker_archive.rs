//! What `docker save` writes: `manifest.json` and the files it names (`moby/moby`, `image/spec/v1.2.md`, "Combined Image
//! JSON + Filesystem Changeset Format").

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::storage::image::digest::Digest;
use crate::storage::image::oci::{diff_ids, parse};
use crate::storage::image::source::files::Files;
use crate::storage::image::source::image::SourceImage;
use crate::storage::image::source::layer::SourceLayer;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(crate) fn open(files: Arc<Files>, reference: Option<&str>) -> Result<SourceImage> {
    let saved: Vec<Saved> = parse("`manifest.json`", &files.document("manifest.json")?)?;
    let chosen = choose(&files, saved, reference)?;
    let config = files.document(&chosen.config)?;
    // It is called by its digest, as HEX.json or blobs/sha256/HEX.
    let stem = Path::new(&chosen.config).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if let Ok(named) = format!("sha256:{stem}").parse::<Digest>() {
        named.check(Digest::of(&config))?;
    }
    let diff_ids = diff_ids(&config, chosen.layers.len())?;
    let layers = chosen.layers.into_iter().zip(diff_ids);
    let layers = layers.map(|(name, diff_id)| SourceLayer::named(&files, name, diff_id));
    Ok(SourceImage { config: Some(config), manifest: None, layers: layers.collect::<Result<Vec<_>>>()? })
}

fn choose(files: &Files, saved: Vec<Saved>, reference: Option<&str>) -> Result<Saved> {
    let tags = |one: &Saved| one.repo_tags.clone().unwrap_or_default();
    let is_named = |one: &Saved| {
        reference.is_none_or(|wanted| tags(one).iter().any(|tag| full_name(tag) == full_name(wanted)))
    };
    let names = saved.iter().flat_map(tags).collect::<Vec<_>>().join(", ");
    let mut candidates: Vec<Saved> = saved.into_iter().filter(is_named).collect();
    let Some(one) = candidates.pop() else {
        let wanted = reference.map(|text| format!(" `{text}`")).unwrap_or_default();
        let what = format!("image{wanted} in `{}` (it has: {names})", files.path().display());
        return Err(Error::NotFound { what });
    };
    if candidates.is_empty() {
        return Ok(one);
    }
    let rule = format!("holds several images, say which: {names}");
    Err(Error::invalid("Docker archive", files.path().to_string_lossy(), rule))
}

/// A name as Docker means it: `busybox` is `docker.io/library/busybox:latest`.
fn full_name(reference: &str) -> String {
    let first = reference.split('/').next().unwrap_or_default();
    // A registry's host has a dot or a port, or is this one.
    let prefix = if !reference.contains('/') {
        "docker.io/library/"
    } else if first.contains(['.', ':']) || first == "localhost" {
        ""
    } else {
        "docker.io/"
    };
    let last = reference.rsplit('/').next().unwrap_or_default();
    let suffix = if last.contains([':', '@']) { "" } else { ":latest" };
    format!("{prefix}{reference}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        let check = |short: &str, full: &str| assert_eq!(full_name(short), full);
        check("busybox", "docker.io/library/busybox:latest");
        check("busybox:1", "docker.io/library/busybox:1");
        check("some/name", "docker.io/some/name:latest");
        check("docker.io/some/name:1.0", "docker.io/some/name:1.0");
        check("localhost:5000/x", "localhost:5000/x:latest");
        check("localhost/x", "localhost/x:latest");
    }
}
