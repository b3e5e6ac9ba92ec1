//! Images that are made here: built from a host's files, or committed from what a container wrote.
//!
//! Blobs first, then the configuration, the manifest, and at last the name: each is on the disk before the next
//! (`man 2 rename`), so that a name never stands for half an image.

use std::io::Read;
use std::path::Path;

use serde_json::Value;
use tracing::{debug, info_span};

use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::name::ImageName;
use crate::storage::image::builder::ImageBuilder;
use crate::storage::image::chain::Chain;
use crate::storage::image::compression::Compression;
use crate::storage::image::content::{ImageContent, Layer};
use crate::storage::image::documents::{self, Step};
use crate::storage::image::layer::{MapOwner, PackOptions, Packed, pack_layer};
use crate::storage::image::layers::{NewLayer, Size};
use crate::storage::image::opened::{Image, ImageOptions};
use crate::storage::image::staging::Staging;
use crate::storage::image::store::ImageStore;
use crate::storage::image::tags::exists;

impl ImageStore {
    /// Builds an image of one layer, which is everybody's: `fill` puts everything into it. It appears whole, on the disk, or
    /// not at all.
    ///
    /// # Errors
    /// [`Error::Differs`] if there is an image of that name, which stays; what `fill` returns; [`Error::NoSpace`],
    /// [`Error::Os`] if it cannot be stored. Nothing is left then, except by a crash: see [`ImageStore::tidy`].
    pub fn build(
        &self,
        name: &ImageName,
        fill: impl FnOnce(&mut ImageBuilder) -> Result<()>,
    ) -> Result<Image> {
        let span = info_span!("build_image", image = %name);
        let _entered = span.enter();
        if self.tags.get(name)?.is_some() {
            return Err(exists(name));
        }
        self.staged(|staging| {
            let directory = self.layers.make(staging)?;
            let tree = NewLayer::tree(&directory);
            let mut builder = ImageBuilder::new(&tree)?;
            // Of its own accord, not by what the umask left of it: it becomes the container's `/`.
            builder.directory("/", 0o755)?;
            fill(&mut builder)?;
            drop(builder);
            // Whoever builds waits for it: compressing would take most of the time.
            let plain = PackOptions { compression: Compression::None, map_owner: None };
            let (layer, packed) = self.pack(staging, &tree, &plain)?;
            let size = Size { bytes: packed.uncompressed_bytes, entries: packed.entries };
            let diff_id = layer.diff_id;
            self.layers.add(&mut Chain::default(), &NewLayer { directory, diff_id, id: diff_id, size })?;
            let step = Step { by: "docklet build", comment: "" };
            let content =
                self.describe_layers(staging, documents::empty_config(), Vec::new(), layer, &step)?;
            self.give(staging, name, &content, &ImageOptions::default())
        })?;
        debug!(image = %name, "built image");
        self.open(name)
    }

    /// The image of that name, or a new one from `fill` if there is none.
    ///
    /// # Errors
    /// As [`ImageStore::build`], but for the image being there.
    pub fn ensure(
        &self,
        name: &ImageName,
        fill: impl FnOnce(&mut ImageBuilder) -> Result<()>,
    ) -> Result<Image> {
        match self.open(name) {
            Err(Error::NotFound { .. }) => {}
            result => return result,
        }
        match self.build(name, fill) {
            // Another process was faster.
            Err(Error::Differs { .. }) => self.open(name),
            result => result,
        }
    }

    /// Makes an image of `base` and what was written over it: `upper` is the upper directory of an overlay over its layers,
    /// to which nobody writes meanwhile. With `ids` its owners are mapped back to what the container saw; without, they stay.
    ///
    /// Of a container: [`Host::commit`](crate::host::Host::commit).
    ///
    /// # Errors
    /// [`Error::Differs`] if the name is taken, and not to be replaced; [`Error::Invalid`] if `upper` has something that no
    /// layer can describe, or an owner that `ids` does not map, or `base` has as many layers as there can be; [`Error::Damaged`] if a blob of `base` is missing;
    /// [`Error::NoSpace`]. There is no image then, or the one that was there.
    pub fn commit(
        &self,
        base: &ImageContent,
        upper: &Path,
        name: &ImageName,
        options: &ImageOptions,
        ids: Option<&IdMap>,
    ) -> Result<Image> {
        let span = info_span!("commit_image", image = %name);
        let _entered = span.enter();
        if !options.replace && self.tags.get(name)?.is_some() {
            return Err(exists(name));
        }
        base.check(1)?;
        self.staged(|staging| {
            self.pin(staging, base)?;
            let config = self.config(base)?;
            let inside = |user, group| Some((ids?.inside(user)?, ids?.inside(group)?));
            let map_owner: Option<MapOwner<'_>> = if ids.is_some() { Some(&inside) } else { None };
            let packing = PackOptions { compression: options.compression, map_owner };
            let (layer, _) = self.pack(staging, upper, &packing)?;
            // What cannot be unpacked again is never named.
            let mut chain = self.chain(base)?;
            self.layers.ensure(&self.global, &mut chain, &layer.diff_id, || self.blobs.open(&layer.blob))?;
            let step = Step { by: "docklet commit", comment: &options.description };
            let content = self.describe_layers(staging, config, base.layers.clone(), layer, &step)?;
            self.give(staging, name, &content, options)
        })?;
        debug!(image = %name, "committed image");
        self.open(name)
    }

    /// Packs `tree` into a blob.
    pub(super) fn pack(
        &self,
        staging: &mut Staging,
        tree: &Path,
        options: &PackOptions<'_>,
    ) -> Result<(Layer, Packed)> {
        let (blob, packed) = self.blobs.write(staging, |file| {
            let packed = pack_layer(tree, file, options)?;
            Ok((packed.digest, packed))
        })?;
        Ok((Layer { diff_id: packed.diff_id, blob, size_bytes: packed.bytes }, packed))
    }

    /// Stores the configuration and the manifest of `layers` with `top` on them.
    fn describe_layers(
        &self,
        staging: &mut Staging,
        mut config: Value,
        mut layers: Vec<Layer>,
        top: Layer,
        step: &Step<'_>,
    ) -> Result<ImageContent> {
        documents::add_layer(&mut config, &top.diff_id, step)?;
        layers.push(top);
        self.write_documents(staging, &documents::bytes(&config)?, None, layers)
    }

    /// How a layer's archive is compressed, by its first bytes.
    pub(super) fn compression(&self, layer: &Layer) -> Result<Compression> {
        let mut start = Vec::new();
        let file = self.blobs.open(&layer.blob)?;
        file.take(8).read_to_end(&mut start).map_err(|e| Error::os("read", layer.blob, e))?;
        Ok(Compression::detect(&start))
    }
}
