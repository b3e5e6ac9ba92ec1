//! Snapshots and clones of loop files: copies, which share their blocks where the file system can (`man 2
//! ioctl_ficlone`).
//!
//! ```text
//! DIR/snapshots/VOLUME/NAME.img
//! DIR/frozen/VOLUME           there while the mounted volume is held still: whoever finds it lets the volume go on
//! DIR/shared                  files may share blocks: the blocks of each no longer add up
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::debug_span;

use crate::error::{Error, Result};
use crate::name::{SnapshotName, VolumeName};
use crate::storage::volume::backend::file::{open_regular, record_allocation};
use crate::storage::volume::backend::loop_file::LoopFiles;
use crate::storage::volume::backend::{Backend, Draft, RELEASE_TIMEOUT};
use crate::storage::volume::pool::{not_found, promise, what};
use crate::storage::volume::snapshot::{Origin, Snapshot, SnapshotSpec, called};
use crate::storage::volume::spec::VolumeSpec;
use crate::sys::directory::{entries, make_directory, remove_directory};
use crate::sys::fiemap::{self, Extent};
use crate::sys::file::{absent_is_none, publish as publish_text, publish_volatile, remove_file, sync_parent};
use crate::sys::loopdev::{self, LoopDevice};
use crate::sys::mount::mounted_on;
use crate::sys::unnamed::{publish, unnamed};
use crate::sys::{freeze, sparse};

impl LoopFiles {
    pub(super) fn snapshots_of(&self, name: &VolumeName) -> Result<Vec<Snapshot>> {
        let directory = self.snapshot_directory(name);
        if !directory.exists() {
            return Ok(Vec::new());
        }
        let mut snapshots = Vec::new();
        for entry in entries(&directory)? {
            let found = entry.to_str().and_then(|entry| SnapshotName::new(entry.strip_suffix(".img")?).ok());
            let Some(snapshot) = found else { continue };
            let path = directory.join(&entry);
            let metadata = absent_is_none(fs::symlink_metadata(&path))
                .map_err(|e| Error::os("stat", path.display(), e))?;
            let Some(metadata) = metadata.filter(fs::Metadata::is_file) else { continue };
            snapshots.push(Snapshot {
                name: snapshot,
                size_bytes: metadata.len(),
                allocated_bytes: metadata.blocks().saturating_mul(512),
                reserve: None,
            });
        }
        snapshots.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(snapshots)
    }

    pub(super) fn take_snapshot(&self, name: &VolumeName, spec: &SnapshotSpec) -> Result<()> {
        if let Some(reserve) = spec.reserve_bytes {
            let rule = "only a snapshot of a preallocated (linear) logical volume has a reserve";
            return Err(Error::invalid("snapshot reserve", reserve.to_string(), rule));
        }
        let path = self.snapshot_file(name, &spec.name);
        let promised = called(name, &spec.name);
        let size = self.open(name)?.metadata().map_err(|e| Error::os("fstat", name, e))?.len();
        self.check_promise(0, size, &promised)?;
        let directory = self.snapshot_directory(name);
        make_directory(&directory)?;
        let taken = self.copy_of(&Origin { volume: name, snapshot: None }, &directory).and_then(|file| {
            let _lock = self.directory.lock()?;
            self.check_promise(exclusive(&file, &path)?, size, &promised)?;
            publish(&file, &path)
        });
        if !matches!(taken, Ok(true)) && self.snapshots_of(name)?.is_empty() {
            remove_directory(&directory)?;
        }
        if !taken? {
            let difference = "another process was faster".to_owned();
            return Err(Error::Differs { what: promised, difference });
        }
        sync_parent(&path)?;
        sync_parent(&directory)
    }

    pub(super) fn roll_back(&self, spec: &VolumeSpec, snapshot: &SnapshotName) -> Result<()> {
        let path = self.path(&spec.name);
        self.check_detached(&spec.name)?;
        if !self.may_share()? {
            // For a moment the copy is there besides both, in room that others may have been promised.
            let held = fs::symlink_metadata(self.snapshot_file(&spec.name, snapshot))
                .map_or(0, |metadata| metadata.blocks().saturating_mul(512));
            self.check_promise(0, held, &format!("a copy of {}", called(&spec.name, snapshot)))?;
        }
        let origin = Origin { volume: &spec.name, snapshot: Some(snapshot) };
        let file = self.copy_of(&origin, &self.files())?;
        self.finish_copy(&file, spec, &path)?;
        let new = self.new_file(&spec.name);
        remove_file(&new)?;
        publish(&file, &new)?;
        fs::rename(&new, &path).map_err(|e| Error::os("rename", path.display(), e))?;
        sync_parent(&path)
    }

    pub(super) fn delete_snapshot(&self, name: &VolumeName, snapshot: &SnapshotName) -> Result<()> {
        let (path, directory) = (self.snapshot_file(name, snapshot), self.snapshot_directory(name));
        if !directory.exists() {
            return Ok(());
        }
        remove_file(&path)?;
        if entries(&directory)?.is_empty() {
            remove_directory(&directory)?;
            return sync_parent(&directory);
        }
        sync_parent(&path)
    }

    pub(super) fn make_clone(&self, origin: &Origin<'_>, to: &VolumeSpec) -> Result<bool> {
        self.check_promise(0, to.size_bytes, &promise(to))?;
        let (file, path) = (self.copy_of(origin, &self.files())?, self.path(&to.name));
        to.filesystem.kind().make_unique(&file, &path)?;
        self.finish_copy(&file, to, &path)?;
        self.publish(&Draft::Unnamed(file), to)
    }

    /// Takes the space of a preallocated volume, and writes the copy to the disk.
    fn finish_copy(&self, file: &File, spec: &VolumeSpec, path: &Path) -> Result<()> {
        self.take_space(file, spec)?;
        record_allocation(file, spec.allocation, path)?;
        file.sync_all().map_err(|e| Error::os("fsync", path.display(), e))
    }

    /// A file without a name in `directory`, on the disk, with what `origin` holds.
    fn copy_of(&self, origin: &Origin<'_>, directory: &Path) -> Result<File> {
        let path = match origin.snapshot {
            Some(snapshot) => self.snapshot_file(origin.volume, snapshot),
            None => self.path(origin.volume),
        };
        let from =
            open_regular(&path, 0, &path.display().to_string())?.ok_or_else(|| not_found(origin.volume))?;
        let to = unnamed(directory)?;
        let copy = || {
            let _span = debug_span!("copy_volume").entered();
            if self.may_share()? && sparse::share(&from, &to, &path)? {
                return Ok(());
            }
            sparse::copy(&from, &to, &path)
        };
        let copied = if origin.snapshot.is_some() { copy() } else { self.while_still(origin.volume, copy) };
        match copied {
            Err(error) if matches!(error.errno(), Some(libc::ENOSPC | libc::EDQUOT)) => {
                let size = from.metadata().map_or(0, |metadata| metadata.blocks().saturating_mul(512));
                return Err(Error::NoSpace {
                    what: format!("a copy of {}", path.display()),
                    needed_bytes: size,
                    available_bytes: self.room().map_or(0, |room| room.available_bytes),
                });
            }
            copied => copied?,
        }
        to.sync_all().map_err(|e| Error::os("fsync", path.display(), e))?;
        Ok(to)
    }

    /// Notes, before it is so, that files share blocks. False if the file system has nothing of the kind.
    fn may_share(&self) -> Result<bool> {
        let mark = self.shared_mark();
        if mark.exists() {
            return Ok(true);
        }
        // Asked with files of no consequence: on most file systems there is nothing to note.
        let (one, other) = (unnamed(&self.files())?, unnamed(&self.files())?);
        if !sparse::share(&one, &other, &self.files())? {
            return Ok(false);
        }
        let _lock = self.directory.lock()?;
        publish_text(&mark, b"")?;
        sync_parent(&mark)?;
        Ok(true)
    }

    /// Calls `copy` while the volume is held still, if it is mounted.
    fn while_still(&self, name: &VolumeName, copy: impl FnOnce() -> Result<()>) -> Result<()> {
        let target = self.directory.mount_point(name);
        if mounted_on(&target)?.is_none() {
            self.check_detached(name)?;
            return copy();
        }
        let mark = self.frozen_mark(name);
        publish_volatile(&mark, b"")?;
        let copied = match freeze::freeze(&target) {
            Ok(true) => {
                let copied = copy();
                freeze::unfreeze(&target)?;
                copied
            }
            Ok(false) => {
                let reason = "somebody has frozen its file system; see `fsfreeze`".to_owned();
                Err(Error::Busy { what: what(name), reason })
            }
            Err(error) => Err(error),
        };
        remove_file(&mark)?;
        copied
    }

    /// Lets a volume go on that a process held still which then died. The caller holds its lock. Says whether it did.
    pub(super) fn unfreeze_left(&self, name: &VolumeName) -> Result<bool> {
        let mark = self.frozen_mark(name);
        if !mark.exists() {
            return Ok(false);
        }
        let target = self.directory.mount_point(name);
        let unfrozen = if mounted_on(&target)?.is_some() {
            freeze::unfreeze(&target)?
        } else {
            self.unfreeze_device(name)?
        };
        remove_file(&mark)?;
        Ok(unfrozen)
    }

    /// The mount may be in another mount namespace, or have gone with the one that it was in.
    fn unfreeze_device(&self, name: &VolumeName) -> Result<bool> {
        let path = self.path(name);
        let device = match LoopDevice::find(&self.open(name)?, &path) {
            // What a stranger shows it by is not what was mounted.
            Err(Error::Busy { .. }) => return Ok(false),
            found => found?,
        };
        let filesystem = self.look(name)?.and_then(|found| found.filesystem);
        let (Some(device), Some(filesystem)) = (device, filesystem) else { return Ok(false) };
        filesystem.unfreeze(&device.path())
    }

    /// Lets every volume go on that a process held still which then died, and says which.
    pub(super) fn unfreeze_all(&self) -> Result<Vec<String>> {
        let mut unfrozen = Vec::new();
        for entry in entries(&self.frozen())? {
            let Some(entry) = entry.to_str() else { continue };
            let path = self.frozen().join(entry);
            let Ok(name) = VolumeName::new(entry.strip_suffix(".new").unwrap_or(entry)) else { continue };
            let _lock = self.acquire(&name)?;
            if entry.ends_with(".new") {
                remove_file(&path)?;
            } else if self.unfreeze_left(&name)? {
                unfrozen.push(format!("{} held still", what(&name)));
            }
        }
        Ok(unfrozen)
    }

    /// Removes what operations of this file that were cut off left.
    pub(super) fn tidy_copies(&self) -> Result<Vec<String>> {
        let mut removed = self.unfreeze_all()?;
        for entry in entries(&self.files())? {
            let found =
                entry.to_str().and_then(|entry| VolumeName::new(entry.strip_suffix(".img.new")?).ok());
            let Some(name) = found else { continue };
            let _lock = self.lock(&name)?;
            let path = self.new_file(&name);
            remove_file(&path)?;
            removed.push(format!("file {}", path.display()));
        }
        for entry in entries(&self.directory.path().join("snapshots"))? {
            let Some(name) = entry.to_str().and_then(|entry| VolumeName::new(entry).ok()) else { continue };
            let _lock = self.lock(&name)?;
            let directory = self.snapshot_directory(&name);
            if directory.exists() && entries(&directory)?.is_empty() && remove_directory(&directory)? {
                removed.push(format!("directory {}", directory.display()));
            }
        }
        Ok(removed)
    }

    /// The bytes that files take together, what they share counted once.
    pub(super) fn held_together(&self, files: &[PathBuf]) -> Result<u64> {
        let mut shared = BTreeMap::new();
        let mut held = 0_u64;
        for path in files {
            let Some(file) = open_regular(path, 0, &path.display().to_string())? else { continue };
            for Extent { physical, length, shared: is_shared } in fiemap::extents(&file, path)? {
                if !is_shared || shared.insert(physical, length).is_none() {
                    held = held.saturating_add(length);
                }
            }
        }
        Ok(held)
    }

    pub(super) fn snapshot_directory(&self, name: &VolumeName) -> PathBuf {
        self.directory.path().join("snapshots").join(name.as_str())
    }

    fn snapshot_file(&self, name: &VolumeName, snapshot: &SnapshotName) -> PathBuf {
        self.snapshot_directory(name).join(format!("{snapshot}.img"))
    }

    fn new_file(&self, name: &VolumeName) -> PathBuf {
        self.files().join(format!("{name}.img.new"))
    }

    fn frozen(&self) -> PathBuf {
        self.directory.path().join("frozen")
    }

    fn frozen_mark(&self, name: &VolumeName) -> PathBuf {
        self.frozen().join(name.as_str())
    }

    pub(super) fn shared_mark(&self) -> PathBuf {
        self.directory.path().join("shared")
    }

    /// Nobody may write to the file while it is read as a whole. A device that goes with its last user, who may have died
    /// just now, is waited for.
    pub(super) fn check_detached(&self, name: &VolumeName) -> Result<()> {
        let (path, file) = (self.path(name), self.open(name)?);
        let Some(device) = LoopDevice::find(&file, &path)? else { return Ok(()) };
        let (number, goes, shown) = (device.number(), device.clears_with_last_user(), device.path());
        // This descriptor is a user, too.
        drop(device);
        if goes && loopdev::wait_until_free(number, &path, RELEASE_TIMEOUT)? {
            return Ok(());
        }
        let reason = format!("it is attached to {0}; detach it with `losetup -d {0}`", shown.display());
        Err(Error::Busy { what: what(name), reason })
    }
}

/// What `file` takes of the disk that no other file has.
fn exclusive(file: &File, path: &Path) -> Result<u64> {
    match fiemap::extents(file, path) {
        Ok(extents) => Ok(extents.iter().filter(|extent| !extent.shared).map(|extent| extent.length).sum()),
        // Where data cannot be located it cannot be shared either: tmpfs.
        Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => super::loop_file::allocated(file, path),
        Err(error) => Err(error),
    }
}
