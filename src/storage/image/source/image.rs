//! An image that is somewhere else, in one of the forms that images are passed on in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::storage::image::source::files::Files;
use crate::storage::image::source::layer::SourceLayer;
use crate::storage::image::source::{docker_archive, oci_layout};

/// Where an image comes from. Paths are the host's, and absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ImageSource {
    /// A root directory. It becomes one layer.
    Directory(PathBuf),
    /// An archive of a root directory, compressed or not, as `mmdebstrap` and `docker export` write. It becomes one layer.
    Tar(PathBuf),
    /// An OCI image layout: a directory, or a tar archive of one that is not compressed.
    OciLayout {
        /// The directory or archive.
        path: PathBuf,
        /// Which image: its name in the layout, or its digest. Default: the only one for this host's architecture.
        reference: Option<String>,
    },
    /// What `docker save` writes: a tar archive that is not compressed.
    DockerArchive {
        /// The archive.
        path: PathBuf,
        /// Which image: one of its tags, `:latest` if none is given. Default: the only one.
        reference: Option<String>,
    },
}

/// An image at its source. Its documents were read and checked, its layers are still to be read.
#[derive(Debug)]
pub(crate) struct SourceImage {
    /// The configuration as it is there, byte for byte; `None` for a source that has none.
    pub(crate) config: Option<Vec<u8>>,
    /// The OCI or Docker manifest as it is there, byte for byte; `None` for a source that has none.
    pub(crate) manifest: Option<Vec<u8>>,
    /// The layers, the lowest first.
    pub(crate) layers: Vec<SourceLayer>,
}

impl ImageSource {
    /// Looks what is there. Documents are checked against their digests; layers are when they are read.
    pub(crate) fn open(&self) -> Result<SourceImage> {
        match self {
            Self::Directory(path) => Ok(SourceImage::of_one(SourceLayer::directory(path)?)),
            Self::Tar(path) => Ok(SourceImage::of_one(SourceLayer::file(path)?)),
            Self::OciLayout { path, reference } => {
                oci_layout::open(Arc::new(Files::open(path)?), reference.as_deref())
            }
            Self::DockerArchive { path, reference } => {
                docker_archive::open(Arc::new(Files::open(path)?), reference.as_deref())
            }
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Directory(path)
            | Self::Tar(path)
            | Self::OciLayout { path, .. }
            | Self::DockerArchive { path, .. } => path,
        }
    }
}

impl SourceImage {
    fn of_one(layer: SourceLayer) -> Self {
        Self { config: None, manifest: None, layers: vec![layer] }
    }
}
