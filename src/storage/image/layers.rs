//! This host's cache of unpacked layers, which overlays are made over.
//!
//! ```text
//! DIR/sha256-HEX/fs       the layer with this DiffID, whole and on the disk; never changed
//! DIR/sha256-HEX/size     how many bytes and entries it has
//! DIR/.lock-HEX           held by who makes it
//! DIR/.names.lock         held while names are given, or garbage is looked for
//! ```

use std::fs::{self, DirBuilder};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with, syncfs};
use serde::{Deserialize, Serialize};
use tracing::{debug, debug_span};

use crate::error::{Error, Result};
use crate::storage::image::blobs::no_space;
use crate::storage::image::digest::Digest;
use crate::storage::image::layer::{DeviceNodes, Progress, UnpackOptions, unpack_layer};
use crate::storage::image::staging::{self, Staging, entries, modified};
use crate::sys::file::{read_if_exists, sync_parent};
use crate::sys::lock::FileLock;

/// How long to wait for another process that unpacks the same layer.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(30 * 60);
const PREFIX: &str = "sha256-";
const LOCK: &str = ".lock-";
const TREE: &str = "fs";
const SIZE: &str = "size";

/// The cache of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerCache {
    directory: PathBuf,
}

/// How much an unpacked layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

impl LayerCache {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where the layer is, once it is there.
    pub(crate) fn tree(&self, diff_id: &Digest) -> PathBuf {
        self.directory.join(entry(diff_id)).join(TREE)
    }

    pub(crate) fn has(&self, diff_id: &Digest) -> bool {
        self.tree(diff_id).is_dir()
    }

    /// How much the layer is; `None` if it is not there.
    pub(crate) fn size(&self, diff_id: &Digest) -> Result<Option<Size>> {
        let path = self.directory.join(entry(diff_id)).join(SIZE);
        // It is told to people only: one that cannot be read is not told.
        Ok(read_if_exists(&path)?.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Unpacks the layer from `archive`, if it is not there. Of many that ask at once one does it.
    pub(crate) fn ensure<R: Read>(
        &self,
        global: &Path,
        diff_id: &Digest,
        archive: impl FnOnce() -> Result<R>,
    ) -> Result<()> {
        if self.has(diff_id) {
            return Ok(());
        }
        let lock = self.lock(diff_id)?;
        let made = if self.has(diff_id) {
            Ok(())
        } else {
            Staging::with(global, &self.directory, |staging| {
                let made = self.unpack(staging, archive()?, Some(*diff_id), &mut |_| {})?;
                self.publish(&made)
            })
        };
        lock.remove()?;
        made
    }

    /// Unpacks an archive, which must hold `diff_id` if that is known. [`LayerCache::add`] puts it in its place.
    pub(crate) fn unpack(
        &self,
        staging: &mut Staging,
        archive: impl Read,
        diff_id: Option<Digest>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<NewLayer> {
        let directory = self.make(staging)?;
        // The same on every host, whatever was asked for where the layer was made.
        let options = UnpackOptions { diff_id, device_nodes: DeviceNodes::Make, ..UnpackOptions::default() };
        let unpacked = unpack_layer(archive, &NewLayer::tree(&directory), &options, progress)?;
        let size = Size { bytes: unpacked.bytes, entries: unpacked.entries };
        Ok(NewLayer { directory, diff_id: unpacked.diff_id, size })
    }

    /// A directory for a layer that somebody else fills; its tree is there, and empty.
    pub(crate) fn make(&self, staging: &mut Staging) -> Result<PathBuf> {
        let directory = staging.local_path();
        for (path, mode) in [(directory.clone(), 0o700), (directory.join(TREE), 0o755)] {
            DirBuilder::new().mode(mode).create(&path).map_err(|e| Error::os("mkdir", path.display(), e))?;
        }
        Ok(directory)
    }

    /// Puts a layer in its place, unless there is one already.
    pub(crate) fn add(&self, layer: &NewLayer) -> Result<()> {
        let lock = self.lock(&layer.diff_id)?;
        let added = if self.has(&layer.diff_id) { Ok(()) } else { self.publish(layer) };
        lock.remove()?;
        added
    }

    /// The caller holds the layer's lock, and there is no such layer.
    fn publish(&self, layer: &NewLayer) -> Result<()> {
        let failed = |call: &'static str, path: &Path, e: std::io::Error| {
            no_space(Error::os(call, path.display(), e), "a layer", &self.directory)
        };
        let size = layer.directory.join(SIZE);
        let json = serde_json::to_vec(&layer.size).map_err(|e| failed("serialize", &size, e.into()))?;
        fs::write(&size, json).map_err(|e| failed("write", &size, e))?;
        // One flush of the file system instead of one per file.
        let flushed = fs::File::open(&layer.directory).map_err(|e| failed("open", &layer.directory, e))?;
        debug_span!("flush")
            .in_scope(|| syncfs(&flushed))
            .map_err(|e| failed("syncfs", &layer.directory, e.into()))?;
        let path = self.directory.join(entry(&layer.diff_id));
        if path.exists() {
            // Somebody deleted a part of it.
            self.remove(&layer.diff_id)?;
        }
        renameat_with(CWD, &layer.directory, CWD, &path, RenameFlags::NOREPLACE)
            .map_err(|e| failed("renameat2", &path, e.into()))?;
        debug!(layer = %layer.diff_id, "unpacked layer");
        sync_parent(&path)
    }

    fn lock(&self, diff_id: &Digest) -> Result<FileLock> {
        let path = self.directory.join(format!("{LOCK}{}", diff_id.hex()));
        FileLock::acquire(&path, UNPACK_TIMEOUT, &format!("layer {diff_id}"))
    }

    /// Removes the lock files of killed processes.
    pub(crate) fn tidy_locks(&self) -> Result<()> {
        for name in entries(&self.directory)?.iter().filter(|name| name.starts_with(LOCK)) {
            match FileLock::acquire(&self.directory.join(name), Duration::ZERO, name) {
                Ok(lock) => lock.remove()?,
                Err(Error::Busy { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Every layer, with when it was unpacked.
    pub(crate) fn list(&self) -> Result<Vec<(Digest, SystemTime)>> {
        let mut layers = Vec::new();
        for name in entries(&self.directory)? {
            if let Some(diff_id) =
                name.strip_prefix(PREFIX).and_then(|hex| format!("sha256:{hex}").parse().ok())
                && let Some(time) = modified(&self.directory.join(&name))
            {
                layers.push((diff_id, time));
            }
        }
        Ok(layers)
    }

    /// Takes a layer out of use in one step; [`staging::tidy`] deletes it. The caller knows that nobody uses it.
    pub(crate) fn remove(&self, diff_id: &Digest) -> Result<()> {
        staging::hide(&self.directory, &entry(diff_id))
    }
}

/// A layer that is whole, and not in its place yet.
#[derive(Debug)]
pub(crate) struct NewLayer {
    pub(crate) directory: PathBuf,
    pub(crate) diff_id: Digest,
    pub(crate) size: Size,
}

impl NewLayer {
    /// The layer's root.
    pub(crate) fn tree(directory: &Path) -> PathBuf {
        directory.join(TREE)
    }
}

fn entry(diff_id: &Digest) -> String {
    format!("{PREFIX}{}", diff_id.hex())
}
