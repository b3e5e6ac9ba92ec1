//! Volumes that are files, attached to loop devices while they are mounted (`man 4 loop`).
//!
//! ```text
//! DIR/files/NAME.img      the volumes
//! ```
//!
//! The kernel frees a loop device with the last mount of it, also when this process is killed at any point.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tracing::{debug, debug_span};

use crate::error::{Error, Result};
use crate::name::{SnapshotName, VolumeName};
use crate::storage::volume::backend::file::{
    is_growing, look, open_regular, record_allocation, record_growing,
};
use crate::storage::volume::backend::{
    Backend, Draft, Found, RELEASE_TIMEOUT, Source, check_no_snapshots, shrinking, still_held,
};
use crate::storage::volume::directory::PoolDirectory;
use crate::storage::volume::pool::{not_found, promise, what};
use crate::storage::volume::snapshot::{Origin, Snapshot, SnapshotSpec};
use crate::storage::volume::space::Room;
use crate::storage::volume::spec::{Allocation, VolumeSpec};
use crate::storage::volume::template;
use crate::sys::directory::{entries, entries_if_exists, remove_directory};
use crate::sys::file::{absent_is_none, remove_file, sync_parent};
use crate::sys::lock::{self, FileLock, LOCK_TIMEOUT};
use crate::sys::loopdev::{self, LoopDevice};
use crate::sys::space::available_bytes;
use crate::sys::sparse;
use crate::sys::unnamed::{publish, unnamed};

/// Loop files in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoopFiles {
    pub(crate) directory: PoolDirectory,
}

impl LoopFiles {
    pub(crate) fn ensure(directory: &Path) -> Result<Self> {
        Ok(Self { directory: PoolDirectory::ensure(directory, &["files", "snapshots", "frozen"])? })
    }

    pub(super) fn files(&self) -> PathBuf {
        self.directory.path().join("files")
    }

    pub(super) fn room(&self) -> Result<Room> {
        let files = self.files();
        let mut room = Room { available_bytes: available_bytes(&files)?, ..Room::default() };
        let mut all = Vec::new();
        let mut directories = vec![files];
        let snapshots = self.directory.path().join("snapshots");
        directories.extend(entries(&snapshots)?.iter().map(|volume| snapshots.join(volume)));
        for directory in directories {
            // The directories of snapshots come and go meanwhile.
            for name in entries_if_exists(&directory)? {
                let path = directory.join(name);
                let found = absent_is_none(fs::symlink_metadata(&path))
                    .map_err(|e| Error::os("stat", path.display(), e))?;
                let Some(found) = found.filter(fs::Metadata::is_file) else { continue };
                let held = found.blocks().saturating_mul(512).min(found.len());
                room.held_bytes = room.held_bytes.saturating_add(held);
                room.promised_bytes = room.promised_bytes.saturating_add(found.len());
                all.push(path);
            }
        }
        if self.shared_mark().exists() {
            room.held_bytes = self.held_together(&all)?;
        }
        Ok(room)
    }

    /// Whether `bytes` more may be promised to `what`, which has `taken` of them from the disk already.
    pub(super) fn check_promise(&self, taken: u64, bytes: u64, what: &str) -> Result<()> {
        let mut room = self.room()?;
        room.available_bytes = room.available_bytes.saturating_add(taken);
        room.check(self.directory.ratio, bytes, what)
    }

    /// The volume's lock is its file.
    pub(super) fn acquire(&self, name: &VolumeName) -> Result<Option<FileLock>> {
        FileLock::acquire_existing(&self.path(name), LOCK_TIMEOUT, &what(name))
    }

    fn open_writable(&self, name: &VolumeName) -> Result<File> {
        let path = self.path(name);
        // A descriptor that cannot write would silently make a device that cannot.
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&path).map_err(|e| {
            match e.raw_os_error() {
                Some(libc::EROFS | libc::EACCES | libc::EPERM) => Error::Unsupported {
                    what: format!("writing to {}", what(name)),
                    needs: format!(
                        "it takes a file that can be written; {} is read-only ({e}); see `lsattr` and the mount it is on",
                        path.display()
                    ),
                },
                Some(libc::ENOENT) => not_found(name),
                _ => Error::os("open", path.display(), e),
            }
        })
    }

    fn attach_file(&self, file: &File, path: &Path) -> Result<Source> {
        debug_span!("attach_loop").in_scope(|| LoopDevice::attach(file, path)).map(Source::Loop)
    }

    /// Takes the disk space of a preallocated volume.
    pub(super) fn take_space(&self, file: &File, spec: &VolumeSpec) -> Result<()> {
        if spec.allocation == Allocation::Sparse {
            return Ok(());
        }
        let path = self.path(&spec.name);
        let held = allocated(file, &path)?;
        sparse::allocate(file, spec.size_bytes).map_err(|errno| match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Error::NoSpace {
                what: promise(spec),
                needed_bytes: spec.size_bytes.saturating_sub(held),
                available_bytes: self.room().map_or(0, |room| room.available_bytes),
            },
            errno => Error::os("fallocate", path.display(), errno),
        })
    }
}

impl Backend for LoopFiles {
    fn check(&self, spec: &VolumeSpec) -> Result<()> {
        spec.filesystem.check_on_device()
    }

    fn lock(&self, name: &VolumeName) -> Result<Option<FileLock>> {
        let lock = self.acquire(name)?;
        if lock.is_some() {
            self.unfreeze_left(name)?;
        }
        Ok(lock)
    }

    fn look(&self, name: &VolumeName) -> Result<Option<Found>> {
        look(&self.path(name), &what(name))
    }

    fn names(&self) -> Result<Vec<VolumeName>> {
        let name = |file: &std::ffi::OsString| VolumeName::new(file.to_str()?.strip_suffix(".img")?).ok();
        Ok(entries(&self.files())?.iter().filter_map(name).collect())
    }

    fn path(&self, name: &VolumeName) -> PathBuf {
        self.files().join(format!("{name}.img"))
    }

    fn open(&self, name: &VolumeName) -> Result<File> {
        open_regular(&self.path(name), 0, &what(name))?.ok_or_else(|| not_found(name))
    }

    /// A file without a name that holds the file system, on the disk.
    fn prepare(&self, spec: &VolumeSpec) -> Result<Draft> {
        let path = self.path(&spec.name);
        let what = promise(spec);
        let available_bytes = available_bytes(&self.files())?;
        let out_of_space = |errno| match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => {
                Error::NoSpace { what: what.clone(), needed_bytes: spec.size_bytes, available_bytes }
            }
            errno => Error::os("fallocate", path.display(), errno),
        };
        if spec.allocation == Allocation::Preallocated {
            // Not first taken from everyone else and then given back. What a sparse one promises is checked when it is made.
            self.room()?.check(self.directory.ratio, spec.size_bytes, &what)?;
            if spec.size_bytes > available_bytes {
                return Err(out_of_space(Errno::NOSPC));
            }
        }
        let template = template::open(&self.directory.templates(), spec.filesystem, spec.size_bytes)?;
        let file = unnamed(&self.files())?;
        debug_span!("copy_template").in_scope(|| sparse::copy(&template, &file, &path))?;
        spec.filesystem.kind().make_unique(&file, &path)?;
        if spec.allocation == Allocation::Preallocated {
            sparse::allocate(&file, spec.size_bytes).map_err(out_of_space)?;
        }
        record_allocation(&file, spec.allocation, &path)?;
        // Before it gets its name: a name with half a file system behind it could never be told from a real one.
        debug_span!("flush")
            .in_scope(|| file.sync_all())
            .map_err(|e| Error::os("fsync", path.display(), e))?;
        Ok(Draft::Unnamed(file))
    }

    fn publish(&self, draft: &Draft, spec: &VolumeSpec) -> Result<bool> {
        let Draft::Unnamed(file) = draft else { return Ok(false) };
        let path = self.path(&spec.name);
        // The volume's lock is its file: whoever finds it by its name waits until the draft is gone.
        lock::take_new(file).map_err(|e| Error::os("flock", path.display(), e))?;
        {
            let _entered = debug_span!("check_and_link").entered();
            let _lock = self.directory.lock()?;
            self.check_promise(allocated(file, &path)?, spec.size_bytes, &promise(spec))?;
            if !publish(file, &path)? {
                return Ok(false);
            }
        }
        sync_parent(&path)?;
        debug!(file = %path.display(), "created volume");
        Ok(true)
    }

    fn attach(&self, name: &VolumeName) -> Result<Source> {
        let (path, file) = (self.path(name), self.open_writable(name)?);
        if let Some(device) = debug_span!("find_loop").in_scope(|| LoopDevice::find(&file, &path))? {
            debug!(device = %device.path().display(), "adopted loop device");
            // It may have been attached before the file grew, and to stay.
            device.update_capacity()?;
            device.clear_with_last_user()?;
            return Ok(Source::Loop(device));
        }
        self.attach_file(&file, &path)
    }

    fn attach_new(&self, draft: &Draft, name: &VolumeName) -> Result<Option<Source>> {
        let Draft::Unnamed(_) = draft else { return Ok(None) };
        // Opened by its name: so the kernel tells it from then on.
        self.attach_file(&self.open_writable(name)?, &self.path(name)).map(Some)
    }

    fn is_shown_by(&self, name: &VolumeName, device: u64) -> Result<bool> {
        let path = self.path(name);
        let found = absent_is_none(fs::metadata(&path)).map_err(|e| Error::os("stat", path.display(), e))?;
        match found {
            Some(metadata) => Ok(LoopDevice::showing(device, &metadata)?.is_some()),
            // Somebody deleted the file; the mount keeps its content alive.
            None => loopdev::shows_name(device, &path),
        }
    }

    fn release(&self, name: &VolumeName, device: Option<u64>) -> Result<()> {
        let path = self.path(name);
        let number = match device {
            Some(device) => loopdev::number_of(device),
            // Perhaps an earlier call gave up waiting for the device.
            None => LoopDevice::find(&self.open(name)?, &path)?.map(|device| device.number()),
        };
        let Some(number) = number else { return Ok(()) };
        if loopdev::wait_until_free(number, &path, RELEASE_TIMEOUT)? {
            return Ok(());
        }
        let device = PathBuf::from(format!("/dev/loop{number}"));
        Err(still_held(name, &device, Some(loopdev::device_number(number))))
    }

    /// The file first, durably: a file system that ends before its file is grown by the next call, one that ends
    /// behind it is lost.
    fn lengthen(&self, spec: &VolumeSpec) -> Result<()> {
        let (path, file) = (self.path(&spec.name), self.open_writable(&spec.name)?);
        {
            let _lock = self.directory.lock()?;
            let present =
                file.metadata().map(|m| m.len()).map_err(|e| Error::os("fstat", path.display(), e))?;
            let more = spec.size_bytes.checked_sub(present).ok_or_else(|| shrinking(spec, present))?;
            let set_len =
                |length| file.set_len(length).map_err(|e| Error::os("ftruncate", path.display(), e));
            // Gives back what an interrupted call took behind the end.
            set_len(present)?;
            if more > 0 {
                let what = format!("{more} more bytes of {}", what(&spec.name));
                self.check_promise(0, more, &what)?;
                let was_growing = is_growing(&file);
                record_growing(&file, true, &path)?;
                if let Err(error) = self.take_space(&file, spec) {
                    set_len(present)?;
                    record_growing(&file, was_growing, &path)?;
                    return Err(error);
                }
                set_len(spec.size_bytes)?;
            }
            file.sync_all().map_err(|e| Error::os("fsync", path.display(), e))?;
        }
        LoopDevice::find(&file, &path)?.map_or(Ok(()), |device| device.update_capacity())
    }

    fn lengthened(&self, spec: &VolumeSpec) -> Result<()> {
        let (path, file) = (self.path(&spec.name), self.open_writable(&spec.name)?);
        // Inode tables of the new part were zeroed, which loop devices do by making holes.
        self.take_space(&file, spec)?;
        record_growing(&file, false, &path)
    }

    fn remove(&self, name: &VolumeName) -> Result<()> {
        let path = self.path(name);
        check_no_snapshots(name, &self.snapshots_of(name)?)?;
        match self.check_detached(name) {
            Err(Error::NotFound { .. }) => return Ok(()),
            checked => checked?,
        }
        let directory = self.snapshot_directory(name);
        if directory.exists() {
            remove_directory(&directory)?;
        }
        debug_span!("unlink").in_scope(|| remove_file(&path))?;
        sync_parent(&path)?;
        debug!(file = %path.display(), "removed volume");
        Ok(())
    }

    fn recover(&self) -> Result<Vec<String>> {
        self.unfreeze_all()
    }

    fn tidy(&self) -> Result<Vec<String>> {
        self.tidy_copies()
    }

    fn snapshots(&self, name: &VolumeName) -> Result<Vec<Snapshot>> {
        self.snapshots_of(name)
    }

    fn snapshot(&self, name: &VolumeName, spec: &SnapshotSpec) -> Result<()> {
        self.take_snapshot(name, spec)
    }

    fn rollback(&self, spec: &VolumeSpec, snapshot: &SnapshotName) -> Result<()> {
        self.roll_back(spec, snapshot)
    }

    fn remove_snapshot(&self, name: &VolumeName, snapshot: &SnapshotName) -> Result<()> {
        self.delete_snapshot(name, snapshot)
    }

    fn clone_volume(&self, origin: &Origin<'_>, to: &VolumeSpec) -> Result<bool> {
        self.make_clone(origin, to)
    }
}

pub(super) fn allocated(file: &File, path: &Path) -> Result<u64> {
    let metadata = file.metadata().map_err(|e| Error::os("fstat", path.display(), e))?;
    Ok(metadata.blocks().saturating_mul(512))
}
