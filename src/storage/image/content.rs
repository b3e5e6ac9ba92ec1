//! What an image is made of, as plain data: what names, containers and the collection of garbage go by.
//!
//! The words are those of the OCI image specification (`config.md`, `manifest.md`).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::storage::image::chain::chain_id;
use crate::storage::image::digest::Digest;
use crate::storage::overlay::LAYERS_MAX;

/// What an image is made of. The same content is the same image, whatever its names are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageContent {
    /// The digest of its OCI manifest, which stands for all of it.
    pub manifest: Digest,
    /// The digest of its OCI configuration.
    pub config: Digest,
    /// Its layers, the lowest first, as in the configuration.
    pub layers: Vec<Layer>,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The digest of its archive before it is compressed.
    pub diff_id: Digest,
    /// The digest of its archive as it is stored.
    pub blob: Digest,
    /// The size of its archive as it is stored, in bytes.
    pub size_bytes: u64,
}

impl ImageContent {
    /// Every blob it needs.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Digest> {
        [&self.manifest, &self.config].into_iter().chain(self.layers.iter().map(|layer| &layer.blob))
    }

    /// What each of its layers may be called in a host's cache.
    pub(crate) fn layer_ids(&self) -> BTreeSet<Digest> {
        let mut ids = BTreeSet::new();
        let mut below = None;
        for Layer { diff_id, .. } in &self.layers {
            let chain = chain_id(below.as_ref(), diff_id);
            ids.extend([*diff_id, chain]);
            below = Some(chain);
        }
        ids
    }

    /// Checks that an overlay can be made of it and of so many layers more.
    pub(crate) fn check(&self, more: usize) -> Result<()> {
        check_count(self.layers.iter().map(|layer| &layer.diff_id), more)
    }
}

/// Checks that an overlay can be made of the layers with these DiffIDs, each once, and of so many more.
pub(crate) fn check_count<'a>(diff_ids: impl Iterator<Item = &'a Digest>, more: usize) -> Result<()> {
    let count = diff_ids.collect::<BTreeSet<_>>().len() + more;
    if count > LAYERS_MAX {
        let rule = format!("must be {LAYERS_MAX} at most: the kernel puts no more into one overlay");
        return Err(Error::invalid("number of image layers", count.to_string(), rule));
    }
    Ok(())
}
