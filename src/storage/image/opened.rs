//! An image as it is opened, and how one is to be called.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::name::{ImageName, UserName};
use crate::storage::image::compression::Compression;
use crate::storage::image::content::ImageContent;
use crate::storage::overlay::OverlayRoot;

/// An image whose layers are on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Image {
    /// What it was opened as.
    pub name: ImageName,
    /// What it is made of.
    pub content: ImageContent,
    /// The directories of its layers, the uppermost first. Nothing may write to them.
    pub layers: Vec<PathBuf>,
}

/// How a new image is to be stored, and what is told of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageOptions {
    /// Whose it is: [`ImageStore::list_for`](super::ImageStore::list_for) has it for nobody else until it is
    /// [shared](super::ImageStore::share). `None`, the default: everybody's. Who opens it is not asked: that is the
    /// caller's to check.
    pub owner: Option<UserName>,
    /// What people want to know of it. Default: nothing.
    pub description: String,
    /// Whether a name that is taken is given to the new image, in one step. Default: it is an error.
    pub replace: bool,
    /// How layers that are packed for it are compressed in the store; those that are packed already stay as they are.
    /// Default: gzip.
    pub compression: Compression,
}

impl Image {
    /// Whether `path` is a program in the image: a regular file with a permission to execute. Links are followed as
    /// they will be in the container, so none leads out of the image.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if a layer cannot be read.
    pub fn has_executable(&self, path: &Path) -> Result<bool> {
        let found = OverlayRoot::over(&self.layers).metadata(path)?;
        Ok(found.is_some_and(|found| found.is_file() && found.mode() & 0o111 != 0))
    }
}
