//! Removing what nothing needs any more, and checking what is kept.
//!
//! A blob that nothing seems to need is first taken out of use (`man 2 rename`), and only removed if, looked at again
//! after that, it is still not needed. Who is about to need a blob says so first and looks whether it is there then
//! ([`Staging::pin`](super::staging::Staging::pin)). So whichever came first, either the blob comes back or whoever needs
//! it stores it again. On file systems that show the changes of other hosts late (NFS: up to a minute) that is not
//! enough; there the grace keeps blobs that were stored or asked for lately.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::{debug, info_span};

use crate::error::{Chain, Error, Result};
use crate::storage::image::content::ImageContent;
use crate::storage::image::digest::Digest;
use crate::storage::image::staging::{self, is_older};
use crate::storage::image::store::ImageStore;
use crate::storage::overlay::options::overlays;
use crate::sys::lock::{FileLock, LOCK_TIMEOUT};

/// What a collection spares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CollectOptions {
    /// What was stored, asked for or unpacked this short a time ago stays. Default: one hour.
    pub grace: Duration,
    /// What another host was at for that long without a change is taken for dead, and removed. Default: one day. An import
    /// whose largest layer takes longer than that must not run at the same time.
    pub abandoned: Duration,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self { grace: Duration::from_secs(3600), abandoned: Duration::from_secs(24 * 3600) }
    }
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Blobs of the shared store.
    pub blobs: u64,
    /// Their size, in bytes.
    pub blob_bytes: u64,
    /// Unpacked layers of this host.
    pub layers: u64,
}

/// What checking the blobs and the unpacked layers found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Blobs that hold what their digest says.
    pub blobs: u64,
    /// Their size, in bytes.
    pub bytes: u64,
    /// Layers of this host that are as they were unpacked.
    pub layers: u64,
    /// What is wrong, one line for each: an altered blob, a missing one with the image that needs it, a layer that somebody wrote
    /// to or whose disk lost something, a name that cannot be read.
    pub damaged: Vec<String>,
}

impl ImageStore {
    /// Removes the blobs that no name needs and the unpacked layers that nothing of this host needs.
    ///
    /// Kept are what a name stands for, what `used` lists (what containers of this host were made from;
    /// [`Host::collect_garbage`](crate::host::Host::collect_garbage) fills it in), layers under an overlay that is
    /// mounted in this mount namespace, what an import, a build or a commit in progress on any host needs, and
    /// what is younger than the grace. Containers of other hosts go on from what those have unpacked: their hosts keep
    /// that, and the blobs may go.
    ///
    /// # Errors
    /// [`Error::Damaged`] if a name cannot be read: nothing it may need is removed then. [`Error::Os`] if something cannot be
    /// removed; repeating goes on.
    pub fn collect_garbage(&self, used: &[ImageContent], options: &CollectOptions) -> Result<Collected> {
        let layers = self.retire_layers(used, options)?;
        let collected = self.collect_blobs(used, options)?;
        self.tidy()?;
        Ok(Collected { layers, ..collected })
    }

    /// Takes the unpacked layers that nothing needs out of use. What this returns quickly, [`ImageStore::tidy`] deletes.
    pub(crate) fn retire_layers(&self, used: &[ImageContent], options: &CollectOptions) -> Result<u64> {
        let _lock = self.lock_names()?;
        let tags = self.tags.all()?;
        let contents = tags.iter().map(|(_, tag)| &tag.content).chain(used);
        let mut needed = staging::pinned(&self.global)?;
        needed.extend(contents.flat_map(ImageContent::layer_ids));
        let overlays = overlays()?;
        let mut retired = 0;
        for (id, tree, time) in self.layers.list()? {
            let mounted = overlays.iter().any(|overlay| overlay.reads(&tree));
            if !needed.contains(&id) && !mounted && is_older(time, options.grace) {
                self.layers.remove(&id)?;
                debug!(layer = %id, "retired layer");
                retired += 1;
            }
        }
        Ok(retired)
    }

    /// Removes the blobs that nothing needs.
    pub(crate) fn collect_blobs(&self, used: &[ImageContent], options: &CollectOptions) -> Result<Collected> {
        let span = info_span!("collect_blobs");
        let _entered = span.enter();
        // Two collections of one host would not harm each other, only do the work twice.
        let path = self.layers.directory().join(".collect.lock");
        let _lock = FileLock::acquire(&path, LOCK_TIMEOUT, "the collection of images' garbage")?;
        staging::abandon(&self.global, options.abandoned)?;
        let needed = self.needed(used)?;
        for (digest, _, time) in self.blobs.list()? {
            if !needed.contains(&digest) && is_older(time, options.grace) {
                self.blobs.condemn(&digest)?;
            }
        }
        // Again: who needs one of them by now found it missing, or is seen here.
        let condemned = self.blobs.list_condemned()?;
        let needed = self.needed(used)?;
        let mut collected = Collected::default();
        for (digest, bytes) in condemned {
            if needed.contains(&digest) {
                self.blobs.restore(&digest)?;
                continue;
            }
            self.blobs.execute(&digest)?;
            debug!(blob = %digest, bytes, "removed blob");
            collected.blobs += 1;
            collected.blob_bytes += bytes;
        }
        Ok(collected)
    }

    fn needed(&self, used: &[ImageContent]) -> Result<BTreeSet<Digest>> {
        // Operations first: one that ends in between has given its name by then.
        let mut needed = staging::pinned(&self.global)?;
        let tags = self.tags.all()?;
        let contents = tags.iter().map(|(_, tag)| &tag.content).chain(used);
        needed.extend(contents.flat_map(ImageContent::blobs));
        Ok(needed)
    }

    /// Reads every blob and every layer that this host has unpacked, and compares them with their digests; and looks whether what
    /// names need is there. Changes nothing. Of a layer each name, owner, mode, time of change, attribute and byte counts.
    ///
    /// # Errors
    /// [`Error::Os`] if the directories cannot be read. What is wrong with blobs and layers is no error: see
    /// [`Verified::damaged`].
    pub fn verify(&self) -> Result<Verified> {
        let mut verified = Verified::default();
        for (digest, _, _) in self.blobs.list()? {
            match self.blobs.verify(&digest) {
                Ok(Some(bytes)) => {
                    verified.blobs += 1;
                    verified.bytes += bytes;
                }
                Ok(None) => {}
                Err(error) => verified.damaged.push(damage(error)?),
            }
        }
        for (id, tree, _) in self.layers.list()? {
            match self.layers.verify(&id, &tree) {
                Ok(whole) => verified.layers += u64::from(whole),
                Err(error) => verified.damaged.push(damage(error)?),
            }
        }
        for name in self.tags.names()? {
            match self.tags.get(&name) {
                Ok(Some(tag)) => verified.damaged.extend(
                    tag.content
                        .blobs()
                        .filter(|digest| !self.blobs.has(digest))
                        .map(|digest| format!("image `{name}`: blob {digest} is missing")),
                ),
                Ok(None) => {}
                Err(error) => verified.damaged.push(Chain(&error).to_string()),
            }
        }
        Ok(verified)
    }
}

/// What is told of a thing that cannot be read, or is not what it was; the error if the host is at fault.
fn damage(error: Error) -> Result<String> {
    match error {
        Error::Os { .. } if error.errno() != Some(libc::EIO) => Err(error),
        _ => Ok(Chain(&error).to_string()),
    }
}
