//! This host's cache of unpacked layers, which overlays are made over.
//!
//! ```text
//! DIR/sha256-HEX/fs       the layer with this id, whole and on the disk; never changed
//! DIR/sha256-HEX/record   how many bytes and entries it has, and the digest of its tree
//! DIR/.lock-HEX           held by who makes it
//! DIR/.names.lock         held while names are given, or garbage is looked for
//! ```
//!
//! A layer's id is its DiffID. But where its archive does not say what all of its directories look like, they look as in
//! the layers below, and the tree fits those alone, or the lowest place: then its id is made of all their DiffIDs.

use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with, syncfs};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tracing::{debug, debug_span};

use crate::error::{Error, Result};
use crate::storage::image::chain::Chain;
use crate::storage::image::compression::Compression;
use crate::storage::image::digest::Digest;
use crate::storage::image::layer::{
    DeviceNodes, PackOptions, UnpackOptions, UnpackProgress, pack_layer, unpack_layer,
};
use crate::storage::image::staging::{self, Staging, entries, modified};
use crate::sys::file::{read_if_exists, sync_parent};
use crate::sys::lock::FileLock;
use crate::sys::record;
use crate::sys::space::or_no_space;

/// How long to wait for another process that unpacks the same layer.
const UNPACK_TIMEOUT: Duration = Duration::from_secs(30 * 60);
const PREFIX: &str = "sha256-";
const LOCK: &str = ".lock-";
const TREE: &str = "fs";
const RECORD: &str = "record";

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

/// What is written down of an unpacked layer.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Record {
    size: Size,
    /// What its tree hashes to when it is packed: the same tree gives the same archive.
    tree: Digest,
}

impl LayerCache {
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn tree(&self, id: &Digest) -> PathBuf {
        self.directory.join(entry(id)).join(TREE)
    }

    /// Where the layer is that `chain` would get on top; `None` if it is not there.
    pub(crate) fn find(&self, chain: &Chain, diff_id: &Digest) -> Option<PathBuf> {
        let trees = [*diff_id, chain.id_with(diff_id)].map(|id| self.tree(&id));
        trees.into_iter().find(|tree| tree.is_dir())
    }

    /// How much the layer in `tree` is; `None` if that is not known.
    pub(crate) fn size(tree: &Path) -> Option<Size> {
        // It is told to people only: one that cannot be read is not told.
        Self::record(tree).ok().flatten().map(|record| record.size)
    }

    fn record(tree: &Path) -> Result<Option<Record>> {
        let path = tree.with_file_name(RECORD);
        let Some(text) = read_if_exists(&path)? else { return Ok(None) };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|e| Error::Damaged { what: path.display().to_string(), reason: e.to_string() })
    }

    /// Whether the layer in `tree` is as it was when it was unpacked. All of it is read. False if it is gone.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not, or nothing was written down about it.
    pub(crate) fn verify(&self, id: &Digest, tree: &Path) -> Result<bool> {
        let checked = Self::record(tree).and_then(|record| Ok((record, hash(tree)?)));
        if !tree.is_dir() {
            return Ok(false);
        }
        let reason = match checked? {
            (None, _) => "it is not known what it was when it was unpacked".to_owned(),
            (Some(record), found) if record.tree == found => return Ok(true),
            (Some(_), _) => "it is not what it was when it was unpacked".to_owned(),
        };
        let remedy = "with no container on it, delete that directory, and open an image that it is of";
        Err(Error::Damaged {
            what: format!("unpacked layer {id}"),
            reason: format!("{reason}; {remedy}: {}", self.directory.join(entry(id)).display()),
        })
    }

    /// Puts a layer on top of `chain`. It is unpacked from `archive`, if it is not there. Of many that ask at once one does
    /// it.
    pub(crate) fn ensure<R: Read>(
        &self,
        global: &Path,
        chain: &mut Chain,
        diff_id: &Digest,
        archive: impl FnOnce() -> Result<R>,
    ) -> Result<()> {
        if let Some(tree) = self.find(chain, diff_id) {
            chain.push(*diff_id, tree);
            return Ok(());
        }
        let lock = self.lock(diff_id)?;
        let made = match self.find(chain, diff_id) {
            Some(tree) => Ok(tree),
            None => Staging::with(global, &self.directory, |staging| {
                let new = self.unpack(staging, chain, archive()?, Some(*diff_id), &mut |_| {})?;
                self.publish(&new)
            }),
        };
        lock.remove()?;
        chain.push(*diff_id, made?);
        Ok(())
    }

    /// Unpacks an archive to go on top of `chain`; it must hold `diff_id` if that is known. [`LayerCache::add`] puts it in
    /// its place.
    pub(crate) fn unpack(
        &self,
        staging: &mut Staging,
        chain: &Chain,
        archive: impl Read,
        diff_id: Option<Digest>,
        progress: &mut dyn FnMut(UnpackProgress),
    ) -> Result<NewLayer> {
        let directory = self.make(staging)?;
        // The same on every host, whatever was asked for where the layer was made.
        let (lower, device_nodes) = (chain.stack(), DeviceNodes::Make);
        let options = UnpackOptions { diff_id, lower, device_nodes, ..UnpackOptions::default() };
        let unpacked = unpack_layer(archive, &NewLayer::tree(&directory), &options, progress)?;
        // One that was deleted meanwhile told too little about its directories. It is moved away before anything in it goes.
        if unpacked.implied_directories > 0
            && let Some(gone) = options.lower.iter().find(|tree| !tree.is_dir())
        {
            return Err(Error::Busy {
                what: format!("layer {}", unpacked.diff_id),
                reason: format!(
                    "{} was removed while it was unpacked on top of that; repeat it",
                    gone.display()
                ),
            });
        }
        let size = Size { bytes: unpacked.bytes, entries: unpacked.entries };
        let diff_id = unpacked.diff_id;
        let id = if unpacked.implied_directories == 0 { diff_id } else { chain.id_with(&diff_id) };
        Ok(NewLayer { directory, diff_id, id, size })
    }

    /// A directory for a layer that somebody else fills; its tree is there, and empty.
    pub(crate) fn make(&self, staging: &mut Staging) -> Result<PathBuf> {
        let directory = staging.local_path();
        for (path, mode) in [(directory.clone(), 0o700), (directory.join(TREE), 0o755)] {
            DirBuilder::new().mode(mode).create(&path).map_err(|e| Error::os("mkdir", path.display(), e))?;
        }
        Ok(directory)
    }

    /// Puts a layer in its place, unless there is one already, and on top of `chain`.
    pub(crate) fn add(&self, chain: &mut Chain, layer: &NewLayer) -> Result<()> {
        let lock = self.lock(&layer.diff_id)?;
        let added = match self.find(chain, &layer.diff_id) {
            Some(tree) => Ok(tree),
            None => self.publish(layer),
        };
        lock.remove()?;
        chain.push(layer.diff_id, added?);
        Ok(())
    }

    /// The caller holds the layer's lock, and there is no such layer. Returns where it is then.
    fn publish(&self, layer: &NewLayer) -> Result<PathBuf> {
        let failed = |call: &'static str, path: &Path, e: std::io::Error| {
            let what = format!("a layer in {}", self.directory.display());
            or_no_space(Error::os(call, path.display(), e), what, None, &self.directory)
        };
        let path = layer.directory.join(RECORD);
        let opened = fs::File::open(&layer.directory).map_err(|e| failed("open", &layer.directory, e))?;
        // One flush of the file system instead of one per file. Meanwhile the tree is read, out of memory.
        let (flushed, tree) = thread::scope(|scope| {
            let flushing = scope.spawn(|| debug_span!("flush").in_scope(|| syncfs(&opened)));
            let tree = hash(&NewLayer::tree(&layer.directory));
            (flushing.join().unwrap_or(Err(Errno::CANCELED)), tree)
        });
        flushed.map_err(|e| failed("syncfs", &layer.directory, e.into()))?;
        let record = record::encode(&Record { size: layer.size, tree: tree? }, &path)?;
        let mut file = fs::File::create(&path).map_err(|e| failed("open", &path, e))?;
        file.write_all(&record).and_then(|()| file.sync_all()).map_err(|e| failed("write", &path, e))?;
        let path = self.directory.join(entry(&layer.id));
        if path.exists() {
            // Somebody deleted a part of it.
            self.remove(&layer.id)?;
        }
        renameat_with(CWD, &layer.directory, CWD, &path, RenameFlags::NOREPLACE)
            .map_err(|e| failed("renameat2", &path, e.into()))?;
        debug!(layer = %layer.diff_id, "unpacked layer");
        sync_parent(&path)?;
        Ok(NewLayer::tree(&path))
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

    /// Every layer by its id, with where it is and when it was unpacked.
    pub(crate) fn list(&self) -> Result<Vec<(Digest, PathBuf, SystemTime)>> {
        let mut layers = Vec::new();
        for name in entries(&self.directory)? {
            if let Some(id) = name.strip_prefix(PREFIX).and_then(|hex| format!("sha256:{hex}").parse().ok())
                && let Some(time) = modified(&self.directory.join(&name))
            {
                layers.push((id, self.tree(&id), time));
            }
        }
        Ok(layers)
    }

    /// Takes the layer with this id out of use in one step; [`staging::tidy`] deletes it. The caller knows that nobody uses
    /// it.
    pub(crate) fn remove(&self, id: &Digest) -> Result<()> {
        staging::hide(&self.directory, &entry(id))
    }
}

/// A layer that is whole, and not in its place yet.
#[derive(Debug)]
pub(crate) struct NewLayer {
    pub(crate) directory: PathBuf,
    pub(crate) diff_id: Digest,
    /// What it is called in the cache.
    pub(crate) id: Digest,
    pub(crate) size: Size,
}

impl NewLayer {
    /// The layer's root.
    pub(crate) fn tree(directory: &Path) -> PathBuf {
        directory.join(TREE)
    }
}

/// The digest of a layer's tree: names, attributes and contents.
fn hash(tree: &Path) -> Result<Digest> {
    let options = PackOptions { compression: Compression::None, map_owner: None };
    pack_layer(tree, io::sink(), &options).map(|packed| packed.diff_id)
}

fn entry(id: &Digest) -> String {
    format!("{PREFIX}{}", id.hex())
}
