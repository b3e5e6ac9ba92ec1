//! Images: what containers start from, stored once for all hosts and unpacked once on each.
//!
//! ```text
//! GLOBAL/blobs/sha256/HEX   layers as archives, configurations, manifests: what is portable
//! GLOBAL/tags/NAME.json     what each name stands for
//! GLOBAL/staging/, GLOBAL/condemned/   what is not whole yet, what is about to go
//! LOCAL/sha256-HEX/fs       the layers that this host has unpacked
//! ```
//!
//! `GLOBAL` may be on a network's file system: it takes renames, links and flushes, and no locks. See `man 2 rename`.

use std::fs;
use std::path::PathBuf;

use tracing::{debug, info_span};

use crate::error::{Error, Result};
use crate::name::{ImageName, UserName};
use crate::storage::image::blobs::Blobs;
use crate::storage::image::chain::Chain;
use crate::storage::image::content::ImageContent;
use crate::storage::image::digest::Digest;
use crate::storage::image::layers::LayerCache;
use crate::storage::image::opened::{Image, ImageOptions};
use crate::storage::image::staging::{self, Staging};
use crate::storage::image::tags::{Tag, Tags};
use crate::sys::directory::make_directory;
use crate::sys::lock::{FileLock, LOCK_TIMEOUT};

/// An archive without entries: what stands in for the layers of an image that has none.
const EMPTY_ARCHIVE: [u8; 1024] = [0; 1024];

/// The images of a cluster as one of its hosts sees them. Several processes may use one at the same time; on several
/// hosts, each with a cache of its own.
///
/// ```no_run
/// # use docklet::storage::{ImageOptions, ImageSource, ImageStore, ImageTarget};
/// # fn example() -> docklet::Result<()> {
/// let images = ImageStore::new("/srv/cluster/images", "/var/lib/layers")?; // of a host: `host.images()`
/// let name = "debian".parse()?;
/// let source = ImageSource::OciLayout { path: "/srv/oci".into(), reference: Some("bookworm".to_owned()) };
/// let image = images.import(&source, &name, &ImageOptions::default(), &mut |_progress| {})?;
/// assert_eq!(image.content, images.resolve(&name)?);
/// images.export(&name, &ImageTarget::OciArchive("/srv/backup/debian.tar".into()))
/// # }
/// ```
///
/// Only root may read what is stored: it holds other people's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageStore {
    pub(super) global: PathBuf,
    pub(super) blobs: Blobs,
    pub(super) tags: Tags,
    pub(super) layers: LayerCache,
}

impl ImageStore {
    /// The images in `global`, which the hosts of a cluster share, with this host's cache in `local`: on a file system of
    /// its own disk that has device nodes and `trusted.*` attributes, as ext4, xfs and btrfs do. What is missing of both
    /// is made (mode 0700); the directories above them must exist.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a path is not absolute or only one level below `/`; [`Error::Os`] if it cannot be made.
    pub fn new(global: impl Into<PathBuf>, local: impl Into<PathBuf>) -> Result<Self> {
        let global = directory("image store", global.into())?;
        let local = directory("layer cache", local.into())?;
        make_directory(&global.join("staging"))?;
        Ok(Self {
            blobs: Blobs::new(&global)?,
            tags: Tags::new(&global)?,
            layers: LayerCache::new(local),
            global,
        })
    }

    /// The image of that name, with its layers on this host: those that are missing are unpacked first.
    ///
    /// An image whose layers are there takes one small file to be read.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none; [`Error::Damaged`] if a layer must be unpacked and its archive is missing or
    /// altered; [`Error::NoSpace`] if there is no room for it.
    pub fn open(&self, name: &ImageName) -> Result<Image> {
        let content = self.tags.open(name)?.content;
        let layers = self.layers_of(&content)?;
        Ok(Image { name: name.clone(), content, layers })
    }

    /// The directories of an image's layers, the uppermost first, for
    /// [`OverlayRoot::over`](crate::storage::OverlayRoot::over). Those that this host does not have are unpacked. The image
    /// needs no name any more, as long as this host has its layers.
    ///
    /// # Errors
    /// As [`ImageStore::open`], but for the name.
    pub fn layers_of(&self, content: &ImageContent) -> Result<Vec<PathBuf>> {
        let mut chain = self.chain(content)?;
        if content.layers.is_empty() {
            // An overlay wants one at least.
            let empty = Digest::of(&EMPTY_ARCHIVE);
            self.layers.ensure(&self.global, &mut chain, &empty, || Ok(&EMPTY_ARCHIVE[..]))?;
        }
        Ok(chain.stack())
    }

    /// An image's layers on this host. Those that are missing are unpacked.
    pub(super) fn chain(&self, content: &ImageContent) -> Result<Chain> {
        let mut chain = Chain::default();
        for layer in &content.layers {
            self.layers.ensure(&self.global, &mut chain, &layer.diff_id, || self.blobs.open(&layer.blob))?;
        }
        Ok(chain)
    }

    /// What the image of that name is made of. Nothing is unpacked for it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub fn resolve(&self, name: &ImageName) -> Result<ImageContent> {
        self.tags.open(name).map(|tag| tag.content)
    }

    /// The names that an image has, sorted.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a name cannot be read: it may be one of them.
    pub fn names_of(&self, content: &ImageContent) -> Result<Vec<ImageName>> {
        let tags = self.tags.all()?;
        Ok(tags.into_iter().filter(|(_, tag)| tag.content == *content).map(|(name, _)| name).collect())
    }

    /// The names of all images, sorted.
    ///
    /// # Errors
    /// [`Error::Os`] if the directory cannot be read.
    pub fn list(&self) -> Result<Vec<ImageName>> {
        self.tags.names()
    }

    /// The names of the images that `user` may use, sorted: their own, those shared with them, and those that nobody owns.
    ///
    /// # Errors
    /// [`Error::Os`] if the directory cannot be read.
    pub fn list_for(&self, user: &UserName) -> Result<Vec<ImageName>> {
        let mut names = self.tags.names()?;
        // One that cannot be read is nobody's.
        names.retain(|name| matches!(self.tags.get(name), Ok(Some(tag)) if tag.is_for(user)));
        Ok(names)
    }

    /// Gives the image `source` a second name. With [`ImageOptions::replace`] a name that is taken is moved to it in one step:
    /// who opens it meanwhile gets the one or the other, and what was started from the old one goes on with that.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no image `source`; [`Error::Differs`] if `name` stands for another one, and is not to
    /// be replaced; [`Error::Damaged`] if a part of the image is missing.
    pub fn tag(&self, source: &ImageName, name: &ImageName, options: &ImageOptions) -> Result<()> {
        let span = info_span!("tag_image", image = %source, name = %name);
        let _entered = span.enter();
        let content = self.tags.open(source)?.content;
        self.staged(|staging| {
            self.pin(staging, &content)?;
            match self.give(staging, name, &content, options) {
                Err(Error::Differs { .. }) if self.tags.open(name)?.content == content => Ok(()),
                result => result,
            }
        })
    }

    /// Lets `user` use the image, too.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none; [`Error::Invalid`] if it has no owner: it is everybody's then.
    pub fn share(&self, name: &ImageName, user: &UserName) -> Result<()> {
        self.change(name, |tag| {
            if tag.owner.is_none() {
                return Err(Error::invalid(
                    "image to share",
                    name.as_str(),
                    "must have an owner; it is everybody's",
                ));
            }
            Ok(tag.shared_with.insert(user.clone()))
        })
    }

    /// Takes back what [`ImageStore::share`] gave. Containers that were made from it go on.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such image.
    pub fn unshare(&self, name: &ImageName, user: &UserName) -> Result<()> {
        self.change(name, |tag| Ok(tag.shared_with.remove(user)))
    }

    fn change(&self, name: &ImageName, change: impl FnOnce(&mut Tag) -> Result<bool>) -> Result<()> {
        let _lock = self.lock_names()?;
        let mut tag = self.tags.open(name)?;
        if !change(&mut tag)? {
            return Ok(());
        }
        self.staged(|staging| self.tags.publish(staging, name, &tag, true))
    }

    /// Takes the name away. One that is gone is taken away. What was started from the image goes on; what nothing needs
    /// any more is removed by [`ImageStore::collect_garbage`].
    ///
    /// # Errors
    /// [`Error::Os`] if it cannot be removed.
    pub fn remove(&self, name: &ImageName) -> Result<()> {
        let span = info_span!("remove_image", image = %name);
        let _entered = span.enter();
        let _lock = self.lock_names()?;
        self.tags.remove(name)?;
        debug!(image = %name, "removed image");
        Ok(())
    }

    /// Removes what operations of this host left that were killed. Says what it removed.
    ///
    /// # Errors
    /// [`Error::Os`] if a directory cannot be read or removed.
    pub fn tidy(&self) -> Result<Vec<String>> {
        let local = self.layers.directory();
        let removed = staging::tidy(&self.global, local)?;
        self.layers.tidy_locks()?;
        Ok(removed)
    }

    /// Gives a name to what is whole. The caller has [pinned](Self::pin) it.
    pub(super) fn give(
        &self,
        staging: &mut Staging,
        name: &ImageName,
        content: &ImageContent,
        options: &ImageOptions,
    ) -> Result<()> {
        content.check(0)?;
        // Who changes what is told of a name must not put back the image that it had.
        let _lock = self.lock_names()?;
        let tag = Tag::new(content.clone(), options.owner.clone(), options.description.clone());
        self.tags.publish(staging, name, &tag, options.replace)
    }

    /// Keeps what the image needs from being collected, and checks that it is there.
    pub(super) fn pin(&self, staging: &mut Staging, content: &ImageContent) -> Result<()> {
        staging.pin(content.blobs())?;
        self.keep_layers(staging, &content.layer_ids())?;
        // In this order: what a collection took before it could know of this is missing now, and what is there stays.
        content.blobs().try_for_each(|digest| self.blobs.open(digest).map(drop))
    }

    /// Keeps collections of this host from retiring the layers with these ids until the operation ends. Whether they are
    /// there is to be asked afterwards: a collection that did not see this yet is over by then.
    pub(super) fn keep_layers<'a>(
        &self,
        staging: &mut Staging,
        ids: impl IntoIterator<Item = &'a Digest>,
    ) -> Result<()> {
        let _lock = self.lock_names()?;
        staging.pin(ids)
    }

    /// Runs `work` with directories of its own.
    pub(super) fn staged<T>(&self, work: impl FnOnce(&mut Staging) -> Result<T>) -> Result<T> {
        Staging::with(&self.global, self.layers.directory(), work)
    }

    /// The lock around changes of names by this host. Two hosts that change one name at once are not kept apart: the last
    /// one wins.
    pub(super) fn lock_names(&self) -> Result<FileLock> {
        let path = self.layers.directory().join(".names.lock");
        FileLock::acquire(&path, LOCK_TIMEOUT, "the names of images")
    }
}

/// Makes a directory of the store, and spells it in one way.
fn directory(kind: &'static str, given: PathBuf) -> Result<PathBuf> {
    if !given.is_absolute() || given.components().count() < 3 {
        let rule = "must be an absolute path at least two levels below '/'";
        return Err(Error::invalid(kind, given.to_string_lossy(), rule));
    }
    make_directory(&given)?;
    fs::canonicalize(&given).map_err(|e| Error::os("realpath", given.display(), e))
}
