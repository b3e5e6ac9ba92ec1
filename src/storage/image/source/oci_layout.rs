//! OCI image layouts (`image-layout.md` of `opencontainers/image-spec`).

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::storage::image::digest::Digest;
use crate::storage::image::oci::{Descriptor, Index, Layout, Manifest, Platform, REF_NAME, diff_ids, parse};
use crate::storage::image::source::files::Files;
use crate::storage::image::source::image::SourceImage;
use crate::storage::image::source::layer::SourceLayer;

/// Indexes in indexes.
const NESTING_MAX: usize = 4;

pub(crate) fn open(files: Arc<Files>, reference: Option<&str>) -> Result<SourceImage> {
    let marker: Layout = parse("`oci-layout`", &files.document("oci-layout")?)?;
    if !marker.image_layout_version.starts_with("1.") {
        return Err(Error::Unsupported {
            what: format!("version {} of OCI image layouts", marker.image_layout_version),
            needs: "only version 1 is known".to_owned(),
        });
    }
    let index: Index = parse("`index.json`", &files.document("index.json")?)?;
    let chosen = choose(&files, index, reference)?;
    let manifest = blob(&files, &chosen)?;
    let parsed: Manifest = parse("image manifest", &manifest)?;
    let config = blob(&files, &parsed.config)?;
    let diff_ids = diff_ids(&config, parsed.layers.len())?;
    let layers = parsed.layers.iter().zip(diff_ids);
    let layers = layers.map(|(descriptor, diff_id)| SourceLayer::blob(&files, descriptor, diff_id));
    let layers = layers.collect::<Result<Vec<_>>>()?;
    Ok(SourceImage { config: Some(config), manifest: Some(manifest), layers })
}

/// The descriptor of the manifest that is asked for.
fn choose(files: &Files, index: Index, reference: Option<&str>) -> Result<Descriptor> {
    let all = index.manifests;
    let is_named = |one: &Descriptor| match reference {
        None => true,
        Some(text) => {
            one.annotations.get(REF_NAME).is_some_and(|name| name == text) || one.digest.to_string() == text
        }
    };
    let names = all.iter().map(shown).collect::<Vec<_>>().join(", ");
    let mut candidates: Vec<Descriptor> = all.into_iter().filter(is_named).collect();
    for _ in 0..NESTING_MAX {
        candidates.retain(|one| one.is_manifest() || one.is_index());
        if candidates.len() > 1 {
            // One of an index for several platforms; what says nothing is for any.
            candidates.retain(|one| one.platform.as_ref().is_none_or(|p| *p == Platform::host()));
        }
        let Some(one) = candidates.pop() else {
            let wanted = reference.map(|text| format!(" `{text}`")).unwrap_or_default();
            let what =
                format!("image{wanted} for this host in `{}` (it has: {names})", files.path().display());
            return Err(Error::NotFound { what });
        };
        if !candidates.is_empty() {
            let rule = format!("holds several images, say which: {names}");
            return Err(Error::invalid("OCI layout", files.path().to_string_lossy(), rule));
        }
        if one.is_manifest() {
            return Ok(one);
        }
        let nested: Index = parse("image index", &blob(files, &one)?)?;
        candidates = nested.manifests;
    }
    let reason = "its indexes are nested too deep".to_owned();
    Err(Error::Damaged { what: format!("OCI layout `{}`", files.path().display()), reason })
}

fn shown(one: &Descriptor) -> String {
    one.annotations.get(REF_NAME).cloned().unwrap_or_else(|| one.digest.to_string())
}

/// A document among the blobs, checked.
fn blob(files: &Files, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let content = files.document(&descriptor.blob())?;
    descriptor.check_size(content.len() as u64)?;
    descriptor.digest.check(Digest::of(&content))?;
    Ok(content)
}
