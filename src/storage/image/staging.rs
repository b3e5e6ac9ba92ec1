//! Where an operation on the image store keeps what is not whole yet (`man 2 flock`, `man 2 rename`).
//!
//! ```text
//! LOCAL/.new-ID/      locked by its maker while that lives; what it unpacks
//! GLOBAL/staging/ID/  what it writes for all hosts, and the names of the blobs that it is going to need
//! ```
//!
//! The local directory comes first and goes last, so this host finds what its own killed processes left in the
//! shared one. Other hosts cannot see the lock; they go by age.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};
use crate::storage::image::digest::Digest;
use crate::sys::directory::{entries_if_exists, make_directory};
use crate::sys::file::{absent_is_none, read_if_exists};
use crate::sys::lock::FileLock;
use crate::sys::random;
use crate::sys::tree::remove_tree;

/// How the names of local directories begin: being made, being removed.
const NEW: &str = ".new-";
const OLD: &str = ".old-";
/// How the names of lists of needed blobs begin.
const PINS: &str = "pins-";

/// An operation's own directories. They stay when this is dropped; [`Staging::end`] removes them.
#[derive(Debug)]
pub(crate) struct Staging {
    id: String,
    local: PathBuf,
    global: PathBuf,
    /// On the local directory.
    _lock: FileLock,
    made: u32,
}

impl Staging {
    /// Makes the local directory in `local`. The one beneath `global` is made when it is needed.
    fn begin(global: &Path, local: &Path) -> Result<Self> {
        // Between making and locking another process can take it for a dead one's, and remove it.
        for _ in 0..100 {
            let id = random::id()?;
            let path = local.join(format!("{NEW}{id}"));
            make_directory(&path)?;
            if let Some(lock) = FileLock::try_existing(&path)? {
                let (local, global) = (local.to_owned(), staging_of(global));
                return Ok(Self { id, local, global, _lock: lock, made: 0 });
            }
        }
        Err(Error::Busy {
            what: format!("layer cache `{}`", local.display()),
            reason: "new directories vanish".to_owned(),
        })
    }

    /// Runs `work` with directories of its own, which are gone afterwards.
    pub(crate) fn with<T>(
        global: &Path,
        local: &Path,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let mut staging = Self::begin(global, local)?;
        let result = work(&mut staging);
        if let Err(error) = staging.end() {
            // What `work` did is done, or its error is the one to tell; `tidy` removes the rest.
            tracing::warn!(%error, "a staging directory is left");
        }
        result
    }

    /// A path of this host that is this operation's own, and that nothing is at yet.
    pub(crate) fn local_path(&mut self) -> PathBuf {
        self.made += 1;
        self.local.join(format!("{NEW}{}", self.id)).join(self.made.to_string())
    }

    /// The same in the directory that all hosts share.
    pub(crate) fn global_path(&mut self) -> Result<PathBuf> {
        self.made += 1;
        Ok(self.shared()?.join(self.made.to_string()))
    }

    /// Keeps every collection, on every host, from removing these blobs, from now until the end of this operation.
    /// Whether they are there is to be asked afterwards.
    pub(crate) fn pin<'a>(&mut self, blobs: impl IntoIterator<Item = &'a Digest>) -> Result<()> {
        let text: String = blobs.into_iter().map(|digest| format!("{digest}\n")).collect();
        let hidden = self.global_path()?;
        let shown = self.shared()?.join(format!("{PINS}{}", self.made));
        fs::write(&hidden, text).map_err(|e| Error::os("write", hidden.display(), e))?;
        fs::rename(&hidden, &shown).map_err(|e| Error::os("rename", shown.display(), e))
    }

    fn shared(&self) -> Result<PathBuf> {
        let path = self.global.join(&self.id);
        make_directory(&path)?;
        Ok(path)
    }

    fn end(self) -> Result<()> {
        remove_shared(&self.global, &self.id)?;
        remove_tree(&self.local, Path::new(&format!("{NEW}{}", self.id)))
    }
}

/// Renames `entry` of `local` to what is being removed, so that it is gone in one step.
pub(crate) fn hide(local: &Path, entry: &str) -> Result<()> {
    let hidden = format!("{OLD}{}", random::id()?);
    let path = local.join(entry);
    absent_is_none(fs::rename(&path, local.join(&hidden)))
        .map(drop)
        .map_err(|e| Error::os("rename", path.display(), e))
}

/// Removes what dead processes of this host left, here and in the shared directory. Says what it removed.
pub(crate) fn tidy(global: &Path, local: &Path) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for name in entries(local)? {
        let path = local.join(&name);
        if let Some(id) = name.strip_prefix(NEW) {
            // Its maker lives.
            let Some(lock) = FileLock::try_existing(&path)? else { continue };
            remove_shared(&staging_of(global), id)?;
            remove_tree(local, Path::new(&name))?;
            drop(lock);
            removed.push(format!("unfinished image {}", path.display()));
        } else if name.starts_with(OLD) {
            remove_tree(local, Path::new(&name))?;
            removed.push(format!("removed layer {}", path.display()));
        }
    }
    Ok(removed)
}

/// The blobs that operations in progress need, on whatever host.
pub(crate) fn pinned(global: &Path) -> Result<BTreeSet<Digest>> {
    let mut digests = BTreeSet::new();
    for operation in entries(&staging_of(global))?.into_iter().map(|id| staging_of(global).join(id)) {
        // It can end meanwhile: what it needed is named by then, or not needed.
        for name in entries(&operation)?.into_iter().filter(|name| name.starts_with(PINS)) {
            let text = read_if_exists(&operation.join(name))?.unwrap_or_default();
            for line in text.lines() {
                digests.insert(line.parse()?);
            }
        }
    }
    Ok(digests)
}

/// Removes the shared directories in which nothing was made or changed for `age`: their host died and did not come back.
pub(crate) fn abandon(global: &Path, age: Duration) -> Result<()> {
    let staging = staging_of(global);
    for id in entries(&staging)? {
        let operation = staging.join(&id);
        let inside = entries(&operation)?.into_iter().map(|name| operation.join(name));
        let newest = inside.chain([operation.clone()]).filter_map(|path| modified(&path)).max();
        if newest.is_some_and(|time| is_older(time, age)) {
            remove_tree(&staging, Path::new(&id))?;
        }
    }
    Ok(())
}

/// When `path` was last changed; `None` if it is gone.
pub(crate) fn modified(path: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Whether `time` is longer ago than `age`. A time to come, by another host's clock, is not.
pub(crate) fn is_older(time: SystemTime, age: Duration) -> bool {
    time.elapsed().is_ok_and(|elapsed| elapsed >= age)
}

/// The names in a directory, sorted; none if there is no such directory.
pub(crate) fn entries(directory: &Path) -> Result<Vec<String>> {
    let names = entries_if_exists(directory)?.into_iter();
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    Ok(names)
}

fn staging_of(global: &Path) -> PathBuf {
    global.join("staging")
}

/// Removes an operation's shared directory, if it has one. Where that can only be read there is none.
fn remove_shared(staging: &Path, id: &str) -> Result<()> {
    if modified(&staging.join(id)).is_some() { remove_tree(staging, Path::new(id)) } else { Ok(()) }
}
