//! What is known of an image, for people and programs to look at.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::name::{ImageName, UserName};
use crate::storage::image::chain::Chain;
use crate::storage::image::content::{ImageContent, Layer};
use crate::storage::image::layers::LayerCache;
use crate::storage::image::oci::{DOCUMENT_MAX, parse};
use crate::storage::image::store::ImageStore;

/// What is known of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageDescription {
    /// The name it was asked for by.
    pub name: ImageName,
    /// What it is made of.
    pub content: ImageContent,
    /// Whose it is; everybody's if `None`.
    pub owner: Option<UserName>,
    /// Who else may use it.
    pub shared_with: BTreeSet<UserName>,
    /// When it got this name, in seconds since 1970.
    pub created_s: u64,
    /// What was said of it then.
    pub description: String,
    /// The kind of processor it is for, in OCI's words: "amd64".
    pub architecture: String,
    /// The system it is for: "linux".
    pub os: String,
    /// Its layers on this host, the lowest first.
    pub layers: Vec<LayerDescription>,
    /// How it came about, the oldest step first, as its configuration tells it.
    pub history: Vec<HistoryEntry>,
}

/// One layer of an image, as this host has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerDescription {
    /// Which layer it is, and how large its archive is.
    pub layer: Layer,
    /// The size of its archive before it is compressed, in bytes. `None` if this host has not unpacked it.
    pub unpacked_bytes: Option<u64>,
    /// How many members its archive has. `None` if this host has not unpacked it.
    pub entries: Option<u64>,
}

/// One step of how an image came about. What its configuration does not tell is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryEntry {
    /// When, as RFC 3339 writes it.
    pub created: Option<String>,
    /// The command.
    pub created_by: Option<String>,
    /// Why.
    pub comment: Option<String>,
    /// Whether it made no layer.
    pub empty_layer: bool,
}

impl ImageStore {
    /// What is known of the image of that name. Nothing is unpacked for it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none; [`Error::Damaged`] if its configuration is missing or altered.
    pub fn describe(&self, name: &ImageName) -> Result<ImageDescription> {
        let tag = self.tags.open(name)?;
        let config = self.config(&tag.content)?;
        let text = |key: &str| config.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let history: Option<Vec<HistoryEntry>> = config
            .get("history")
            .map(|history| serde_json::from_value(history.clone()))
            .transpose()
            .map_err(|e| Error::Damaged {
                what: format!("image `{name}`"),
                reason: format!("its history: {e}"),
            })?
            .flatten();
        let mut chain = Chain::default();
        let layers = tag.content.layers.iter().map(|layer| {
            let tree = self.layers.find(&chain, &layer.diff_id);
            let size = tree.as_deref().and_then(LayerCache::size);
            chain.push(layer.diff_id, tree.unwrap_or_default());
            let (unpacked_bytes, entries) = (size.map(|size| size.bytes), size.map(|size| size.entries));
            LayerDescription { layer: layer.clone(), unpacked_bytes, entries }
        });
        let layers = layers.collect();
        Ok(ImageDescription {
            name: name.clone(),
            layers,
            content: tag.content,
            owner: tag.owner,
            shared_with: tag.shared_with,
            created_s: tag.created_s,
            description: tag.description,
            architecture: text("architecture"),
            os: text("os"),
            history: history.unwrap_or_default(),
        })
    }

    /// An image's configuration, checked against its digest.
    pub(super) fn config(&self, content: &ImageContent) -> Result<Value> {
        parse("image configuration", &self.blobs.read(&content.config, DOCUMENT_MAX)?)
    }
}
