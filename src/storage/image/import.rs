//! Images that come from elsewhere, and go there: in the formats of [`ImageSource`] and [`ImageTarget`].
//!
//! What comes from outside is hashed before it gets a name (`man 2 rename`), and unpacked before the image does.

use std::io::{self, Read};
use std::path::PathBuf;

use serde::Serialize;
use tracing::{debug, info_span};

use crate::error::Result;
use crate::name::ImageName;
use crate::storage::image::chain::Chain;
use crate::storage::image::content::{ImageContent, Layer};
use crate::storage::image::digest::Digest;
use crate::storage::image::documents::{self, Step};
use crate::storage::image::layer::diff_id;
use crate::storage::image::layer::member::located;
use crate::storage::image::opened::{Image, ImageOptions};
use crate::storage::image::source::{ImageSource, SourceLayer};
use crate::storage::image::staging::Staging;
use crate::storage::image::store::ImageStore;
use crate::storage::image::tags::exists;
use crate::storage::image::target::ImageTarget;

/// Between two calls of the callback at least so much is read, in bytes.
const PROGRESS_STEP: u64 = 4 << 20;

/// How far an import has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ImportProgress {
    /// The layer that is worked on, from 1.
    pub layer: usize,
    /// How many there are.
    pub layers: usize,
    /// What is done with it.
    pub step: ImportStep,
    /// Bytes of its archive, compressed as it is, for which that is done.
    pub bytes: u64,
    /// How many there are, if that is known.
    pub total_bytes: Option<u64>,
}

/// What is done with a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImportStep {
    /// Its archive is stored for all hosts.
    Store,
    /// It is unpacked on this one.
    Unpack,
}

impl ImageStore {
    /// Takes an image in. Its blobs are stored as they come, so that digests stay; a configuration and a manifest are made where
    /// the source has none. All layers are unpacked on this host, so what cannot be unpacked is never named. Layers that are
    /// here already are neither stored nor unpacked again.
    ///
    /// # Errors
    /// There is no image then, or the one that was there.
    /// - [`Error::Differs`] if the name is taken, and not to be replaced.
    /// - [`Error::NotFound`] if there is no such image at its source, or a part of it is missing.
    /// - [`Error::Invalid`] if the path is relative, or no such file or directory as it must be, if there are several images and
    ///   none was chosen, if it has more layers than an overlay can have, or some that may not be passed on; or naming the part of
    ///   a layer that no image may have.
    /// - [`Error::Unsupported`] if it is for another architecture.
    /// - [`Error::Damaged`] if a document is malformed, or something is not what its digest says.
    /// - [`Error::NoSpace`]; [`Error::Os`] otherwise.
    ///
    /// [`Error::Differs`]: crate::Error::Differs
    /// [`Error::NotFound`]: crate::Error::NotFound
    /// [`Error::Invalid`]: crate::Error::Invalid
    /// [`Error::Unsupported`]: crate::Error::Unsupported
    /// [`Error::Damaged`]: crate::Error::Damaged
    /// [`Error::NoSpace`]: crate::Error::NoSpace
    /// [`Error::Os`]: crate::Error::Os
    pub fn import(
        &self,
        source: &ImageSource,
        name: &ImageName,
        options: &ImageOptions,
        progress: &mut dyn FnMut(ImportProgress),
    ) -> Result<Image> {
        let span = info_span!("import_image", image = %name, from = %source.path().display());
        let _entered = span.enter();
        if !options.replace && self.tags.get(name)?.is_some() {
            return Err(exists(name));
        }
        let source = source.open()?;
        self.staged(|staging| {
            let (mut chain, mut layers) = (Chain::default(), Vec::new());
            for (index, layer) in source.layers.iter().enumerate() {
                let mut tell = |step, bytes| {
                    let (layers, total_bytes) = (source.layers.len(), layer.bytes);
                    progress(ImportProgress { layer: index + 1, layers, step, bytes, total_bytes });
                };
                layers.push(self.take_layer(staging, &mut chain, layer, &mut tell)?);
            }
            let config = match source.config {
                Some(bytes) => bytes,
                None => {
                    let mut config = documents::empty_config();
                    let step = Step { by: "docklet import", comment: &options.description };
                    layers
                        .iter()
                        .try_for_each(|layer| documents::add_layer(&mut config, &layer.diff_id, &step))?;
                    documents::bytes(&config)?
                }
            };
            let content = self.write_documents(staging, &config, source.manifest, layers)?;
            self.give(staging, name, &content, options)
        })?;
        debug!(image = %name, "imported image");
        self.open(name)
    }

    /// Stores a layer and unpacks it on top of `chain`, as far as that is not done yet.
    fn take_layer(
        &self,
        staging: &mut Staging,
        chain: &mut Chain,
        source: &SourceLayer,
        tell: &mut dyn FnMut(ImportStep, u64),
    ) -> Result<Layer> {
        let store: &mut dyn FnMut(u64) = &mut |bytes| tell(ImportStep::Store, bytes);
        let (blob, size_bytes) = match source.digest {
            Some(digest) => {
                let ensured =
                    self.blobs.ensure(staging, &digest, move || Ok(Counting::new(source.open()?, store)));
                (digest, ensured?)
            }
            None => self.blobs.copy(staging, Counting::new(source.open()?, store))?,
        };
        let archive = self.blobs.open(&blob)?;
        if let Some(diff_id) = source.diff_id
            && let Some(tree) = self.find_kept(staging, chain, &diff_id)?
        {
            // Not because a configuration says so: who asks for a layer by its DiffID alone may not have it, and it may be
            // one that is not for everybody.
            let unpack: &mut dyn FnMut(u64) = &mut |bytes| tell(ImportStep::Unpack, bytes);
            diff_id::check(Counting::new(archive, unpack), &diff_id)?;
            chain.push(diff_id, tree);
            return Ok(Layer { diff_id, blob, size_bytes });
        }
        let mut unpacking = |progress: super::UnpackProgress| tell(ImportStep::Unpack, progress.bytes);
        let new = self
            .layers
            .unpack(staging, chain, archive, source.diff_id, &mut unpacking)
            .map_err(|e| located(e, source.place()))?;
        self.layers.add(chain, &new)?;
        Ok(Layer { diff_id: new.diff_id, blob, size_bytes })
    }

    /// Where the layer is that `chain` would get on top, if it is on this host. No collection takes it from there, whether it
    /// is there now or made later, before this operation ends.
    fn find_kept(&self, staging: &mut Staging, chain: &Chain, diff_id: &Digest) -> Result<Option<PathBuf>> {
        self.keep_layers(staging, [diff_id, &chain.id_with(diff_id)])?;
        Ok(self.layers.find(chain, diff_id))
    }

    /// Stores an image's documents. A manifest is made if there is none.
    pub(super) fn write_documents(
        &self,
        staging: &mut Staging,
        config: &[u8],
        manifest: Option<Vec<u8>>,
        layers: Vec<Layer>,
    ) -> Result<ImageContent> {
        let config_bytes = config.len() as u64;
        let config = self.blobs.add(staging, config)?;
        let manifest = match manifest {
            Some(bytes) => bytes,
            None => {
                let compressions =
                    layers.iter().map(|layer| self.compression(layer)).collect::<Result<Vec<_>>>()?;
                let described: Vec<_> = layers.iter().zip(compressions).collect();
                documents::manifest(&config, config_bytes, &described)?
            }
        };
        let manifest = self.blobs.add(staging, &manifest)?;
        self.blobs.sync()?;
        Ok(ImageContent { manifest, config, layers })
    }

    /// Writes the image to a place outside of the store, for other programs and other clusters.
    ///
    /// # Errors
    /// Nothing is there then, or what was there.
    /// - [`Error::NotFound`] if there is no such image; [`Error::Damaged`] if a blob of it is missing or altered.
    /// - [`Error::Invalid`] if the path is not absolute, or at the top of the file system; [`Error::Differs`] if something is
    ///   there; [`Error::Busy`] if another process is writing it.
    /// - [`Error::NoSpace`] if the disk is full; [`Error::Os`] otherwise.
    ///
    /// [`Error::Differs`]: crate::Error::Differs
    /// [`Error::NotFound`]: crate::Error::NotFound
    /// [`Error::Invalid`]: crate::Error::Invalid
    /// [`Error::Damaged`]: crate::Error::Damaged
    /// [`Error::Busy`]: crate::Error::Busy
    /// [`Error::NoSpace`]: crate::Error::NoSpace
    /// [`Error::Os`]: crate::Error::Os
    pub fn export(&self, name: &ImageName, target: &ImageTarget) -> Result<()> {
        let content = self.resolve(name)?;
        target.write(name.as_str(), &content.manifest, &|digest: &Digest| self.blobs.open(digest))
    }
}

/// Tells now and then how much was read.
struct Counting<'a, R> {
    inner: R,
    tell: &'a mut dyn FnMut(u64),
    bytes: u64,
    told: u64,
}

impl<'a, R> Counting<'a, R> {
    fn new(inner: R, tell: &'a mut dyn FnMut(u64)) -> Self {
        Self { inner, tell, bytes: 0, told: 0 }
    }
}

impl<R: Read> Read for Counting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.bytes += read as u64;
        if self.bytes - self.told >= PROGRESS_STEP || (read == 0 && self.bytes > self.told) {
            self.told = self.bytes;
            (self.tell)(self.bytes);
        }
        Ok(read)
    }
}
