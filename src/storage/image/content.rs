//! What an image is made of, as plain data: what names, containers and the collection of garbage go by.
//!
//! The words are those of the OCI image specification (`config.md`, `manifest.md`).

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::storage::image::digest::Digest;

/// The most layers that a kernel puts into one overlay (`OVL_MAX_STACK`).
pub(crate) const LAYERS_MAX: usize = 500;

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

    /// Its layers as an overlay takes them: the uppermost first, each once. Of a layer that occurs twice the upper one
    /// alone shows: it covers every entry of the lower one with the same.
    pub(crate) fn stack(&self) -> Vec<&Layer> {
        let mut stack: Vec<&Layer> = Vec::with_capacity(self.layers.len());
        let mut seen = std::collections::BTreeSet::new();
        stack.extend(self.layers.iter().rev().filter(|layer| seen.insert(&layer.diff_id)));
        stack
    }

    /// Checks that an overlay can be made of it.
    pub(crate) fn check(&self) -> Result<()> {
        let count = self.stack().len();
        if count > LAYERS_MAX {
            let rule = format!("must be {LAYERS_MAX} at most: the kernel puts no more into one overlay");
            return Err(Error::invalid("number of image layers", count.to_string(), rule));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(digit: char) -> Layer {
        let digest: Digest = format!("sha256:{}", digit.to_string().repeat(64)).parse().unwrap();
        Layer { diff_id: digest.clone(), blob: digest, size_bytes: 1 }
    }

    fn content(layers: &str) -> ImageContent {
        let digest = layer('f').blob;
        ImageContent { manifest: digest.clone(), config: digest, layers: layers.chars().map(layer).collect() }
    }

    #[test]
    fn a_stack_has_each_layer_once_and_the_uppermost_first() {
        let check = |layers: &str, expected: &str| {
            let content = content(layers);
            let expected: Vec<Layer> = expected.chars().map(layer).collect();
            assert_eq!(content.stack(), expected.iter().collect::<Vec<_>>(), "{layers}");
        };
        check("", "");
        check("123", "321");
        check("121", "12");
        check("1122", "21");
        assert_eq!(content("12").blobs().count(), 4);
    }
}
