//! Formatted empty file systems to copy volumes from.
//!
//! A `mkfs` (`man 8 mkfs`) takes ten milliseconds and more; copying what it wrote takes less than one.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::process::geteuid;
use tracing::debug;

use crate::error::{Error, Result};
use crate::storage::volume::backend::open_regular;
use crate::storage::volume::filesystem::{Filesystem, Superblock};
use crate::sys::directory::entries;
use crate::sys::file::{remove_file, sync_parent};
use crate::sys::lock::FileLock;
use crate::sys::sparse;
use crate::sys::unnamed::{publish, unnamed};

/// How many templates are kept; the oldest go first. Each takes some megabytes at most.
const KEPT: usize = 8;
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Opens the template of this kind in `directory`, and makes it first if there is none.
pub(crate) fn open(directory: &Path, filesystem: Filesystem, size_bytes: u64) -> Result<File> {
    let path = directory.join(format!("{filesystem}-{size_bytes}.img"));
    if let Some(file) = open_existing(&path, filesystem, size_bytes)? {
        return Ok(file);
    }
    // One mkfs, even if many volumes of a new size are asked for at once.
    let lock = directory.join("lock");
    let _lock = FileLock::acquire(&lock, LOCK_TIMEOUT, &format!("template `{}`", path.display()))?;
    if let Some(file) = open_existing(&path, filesystem, size_bytes)? {
        return Ok(file);
    }
    let file = unnamed(directory)?;
    file.set_len(size_bytes).map_err(|e| Error::os("ftruncate", path.display(), e))?;
    filesystem.kind().format(&file)?;
    // xfs writes zeros over its whole log, which would all be copied.
    sparse::dig(&file, &path)?;
    file.sync_all().map_err(|e| Error::os("fsync", path.display(), e))?;
    // What is there is no good template, or it would have been opened.
    remove_file(&path)?;
    publish(&file, &path)?;
    sync_parent(&path)?;
    debug!(template = %path.display(), "made template");
    prune(directory)?;
    Ok(file)
}

/// Removes all but the newest templates, and returns what it removed.
pub(crate) fn prune(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut templates: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in entries(directory)? {
        let path = directory.join(entry);
        // Another process may be pruning too.
        if path.extension().is_some_and(|extension| extension == "img")
            && let Ok(made) = fs::symlink_metadata(&path).and_then(|m| m.modified())
        {
            templates.push((made, path));
        }
    }
    templates.sort();
    let surplus = templates.len().saturating_sub(KEPT);
    let removed: Vec<PathBuf> = templates.into_iter().take(surplus).map(|(_, path)| path).collect();
    for path in &removed {
        remove_file(path)?;
    }
    Ok(removed)
}

/// A template that can be believed: of the kind and size that it is called, and of this user alone. All of it is not read for each
/// copy; no crash leaves a part of one, since it gets its name when it is whole and on the disk.
fn open_existing(path: &Path, filesystem: Filesystem, size_bytes: u64) -> Result<Option<File>> {
    let file = match open_regular(path, 0, "a template") {
        Ok(Some(file)) => file,
        // What is no file is no good one, too.
        Ok(None) | Err(Error::Differs { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata().map_err(|e| Error::os("fstat", path.display(), e))?;
    let is_own =
        metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0 && metadata.nlink() == 1;
    let found = Superblock::find(&file, path, "a template");
    let good = is_own
        && metadata.len() == size_bytes
        && matches!(found, Ok(Some(superblock)) if superblock.filesystem == filesystem);
    Ok(good.then_some(file))
}
