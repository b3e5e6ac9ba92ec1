//! Volumes in memory (`man 5 tmpfs`): each a tmpfs, held mounted, and bound to its place while it is mounted there.
//!
//! ```text
//! DIR/held/NAME/          the tmpfs, until it is removed
//! DIR/records/NAME        says that there is one, and of which boot; made last, removed first
//! ```
//!
//! A record without its tmpfs, of this boot or an earlier one, is a volume that was lost; a tmpfs without a record is half
//! of one, which nobody was told of.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;
use rustix::mount::UnmountFlags;
use tracing::debug;

use crate::error::{Error, Result};
use crate::name::VolumeName;
use crate::storage::volume::backend::{Backend, Draft, Found, Source, shrinking};
use crate::storage::volume::directory::PoolDirectory;
use crate::storage::volume::filesystem::Filesystem;
use crate::storage::volume::pool::{not_found, promise, what};
use crate::storage::volume::space::Room;
use crate::storage::volume::spec::{Allocation, VolumeSpec};
use crate::sys::directory::{entries, make_directory, remove_directory};
use crate::sys::file::{remove_file, sync_parent};
use crate::sys::lock::{FileLock, LOCK_TIMEOUT};
use crate::sys::mount::{mounted_on, unmount_at};
use crate::sys::unnamed::{publish, unnamed};
use crate::sys::{kernel, tmpfs};

/// Volumes in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tmpfs {
    pub(crate) directory: PoolDirectory,
}

impl Tmpfs {
    pub(crate) fn ensure(directory: &Path) -> Result<Self> {
        Ok(Self { directory: PoolDirectory::ensure(directory, &["held", "records"])? })
    }

    fn records(&self) -> PathBuf {
        self.directory.path().join("records")
    }

    fn record(&self, name: &VolumeName) -> PathBuf {
        self.records().join(name.as_str())
    }

    /// The size of the tmpfs and what is stored in it; `None` if there is none.
    fn space(&self, name: &VolumeName) -> Result<Option<(u64, u64)>> {
        let held = self.path(name);
        if mounted_on(&held)?.is_none() {
            return Ok(None);
        }
        let space = statvfs(&held).map_err(|e| Error::os("statvfs", held.display(), e))?;
        let used = space.f_blocks.saturating_sub(space.f_bfree);
        Ok(Some((space.f_blocks.saturating_mul(space.f_frsize), used.saturating_mul(space.f_frsize))))
    }

    /// What memory there is. Not counting swap, to which the kernel may write a tmpfs.
    fn room(&self) -> Result<Room> {
        let mut room = Room { available_bytes: kernel::available_memory()?, ..Room::default() };
        for name in self.names()? {
            let Some((size, used)) = self.space(&name)? else { continue };
            room.held_bytes = room.held_bytes.saturating_add(used);
            room.promised_bytes = room.promised_bytes.saturating_add(size);
        }
        Ok(room)
    }

    fn check_room(&self, bytes: u64, what: &str) -> Result<()> {
        self.room()?.check(self.directory.ratio, bytes, what)
    }

    fn write_record(&self, name: &VolumeName) -> Result<()> {
        let path = self.record(name);
        let mut record = unnamed(&self.records())?;
        record
            .write_all(kernel::boot_id()?.as_bytes())
            .and_then(|()| record.sync_all())
            .map_err(|e| Error::os("write", path.display(), e))?;
        publish(&record, &path)?;
        sync_parent(&path)
    }

    /// Takes a tmpfs away for which there is no record. The caller holds the pool's lock.
    fn remove_half(&self, name: &VolumeName) -> Result<bool> {
        let held = self.path(name);
        let mounted = mounted_on(&held)?.is_some();
        if mounted {
            rustix::mount::unmount(&held, UnmountFlags::NOFOLLOW)
                .map_err(|e| Error::os("umount2", held.display(), e))?;
        }
        Ok(remove_directory(&held)? || mounted)
    }
}

impl Backend for Tmpfs {
    fn check(&self, spec: &VolumeSpec) -> Result<()> {
        let (what, needs) = match (spec.filesystem, spec.allocation) {
            (Filesystem::Tmpfs, Allocation::Sparse) => return Ok(()),
            (Filesystem::Tmpfs, Allocation::Preallocated) => {
                ("a preallocated tmpfs".to_owned(), "ask for a sparse one: memory is taken as it is written")
            }
            (other, _) => {
                (format!("{other} in a pool in memory"), "it takes the file system tmpfs, or another pool")
            }
        };
        Err(Error::Unsupported { what, needs: needs.to_owned() })
    }

    /// The volume's lock is its record.
    fn lock(&self, name: &VolumeName) -> Result<Option<FileLock>> {
        FileLock::acquire_existing(&self.record(name), LOCK_TIMEOUT, &what(name))
    }

    fn look(&self, name: &VolumeName) -> Result<Option<Found>> {
        if !self.record(name).exists() {
            return Ok(None);
        }
        Ok(self.space(name)?.map(|(size_bytes, allocated_bytes)| Found {
            size_bytes,
            allocated_bytes,
            filesystem: Some(Filesystem::Tmpfs),
            allocation: Allocation::Sparse,
            growing: false,
            odd: None,
        }))
    }

    fn absent(&self, name: &VolumeName) -> Error {
        let how = match fs::read_to_string(self.record(name)) {
            Ok(boot) if kernel::boot_id().is_ok_and(|now| now == boot) => {
                "which was in memory and was unmounted by somebody else,"
            }
            Ok(_) => "which was in memory and was lost with a reboot,",
            Err(_) => return not_found(name),
        };
        Error::NotFound { what: format!("{}, {how}", what(name)) }
    }

    fn names(&self) -> Result<Vec<VolumeName>> {
        let mut names = Vec::new();
        for name in entries(&self.records())? {
            if let Some(name) = name.to_str().and_then(|name| VolumeName::new(name).ok())
                && mounted_on(&self.path(&name))?.is_some()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn path(&self, name: &VolumeName) -> PathBuf {
        self.directory.path().join("held").join(name.as_str())
    }

    fn held(&self, name: &VolumeName) -> Option<PathBuf> {
        Some(self.path(name))
    }

    fn open(&self, name: &VolumeName) -> Result<File> {
        let held = self.path(name);
        File::open(&held).map_err(|e| Error::os("open", held.display(), e))
    }

    fn prepare(&self, spec: &VolumeSpec) -> Result<Draft> {
        self.check_room(spec.size_bytes, &promise(spec))?;
        tmpfs::unmounted(spec.size_bytes).map(Draft::Unnamed)
    }

    fn publish(&self, draft: &Draft, spec: &VolumeSpec) -> Result<bool> {
        let Draft::Unnamed(tmpfs) = draft else { return Ok(false) };
        let (held, record) = (self.path(&spec.name), self.record(&spec.name));
        let _lock = self.directory.lock()?;
        if record.exists() {
            if mounted_on(&held)?.is_some() {
                return Ok(false);
            }
            // Of one that was lost.
            remove_file(&record)?;
        }
        self.check_room(spec.size_bytes, &promise(spec))?;
        self.remove_half(&spec.name)?;
        make_directory(&held)?;
        tmpfs::mount(tmpfs, &held)?;
        self.write_record(&spec.name)?;
        debug!(held = %held.display(), "created volume");
        Ok(true)
    }

    fn attach(&self, name: &VolumeName) -> Result<Source> {
        let held = self.path(name);
        if mounted_on(&held)?.is_none() {
            return Err(self.absent(name));
        }
        Ok(Source::Held(held))
    }

    fn is_shown_by(&self, name: &VolumeName, device: u64) -> Result<bool> {
        Ok(mounted_on(&self.path(name))? == Some(device))
    }

    fn release(&self, _name: &VolumeName, _device: Option<u64>) -> Result<()> {
        Ok(())
    }

    /// The file system, too: the tmpfs and its size are one thing, and a promise that is not kept yet nobody else sees.
    fn lengthen(&self, spec: &VolumeSpec) -> Result<()> {
        let _lock = self.directory.lock()?;
        let (present, _) = self.space(&spec.name)?.ok_or_else(|| self.absent(&spec.name))?;
        let more = spec.size_bytes.checked_sub(present).ok_or_else(|| shrinking(spec, present))?;
        self.check_room(more, &format!("{more} more bytes of {}", what(&spec.name)))?;
        if more > 0 { tmpfs::resize(&self.path(&spec.name), spec.size_bytes) } else { Ok(()) }
    }

    fn lengthened(&self, _spec: &VolumeSpec) -> Result<()> {
        Ok(())
    }

    /// The record first: what a crash leaves then is half a volume.
    fn remove(&self, name: &VolumeName) -> Result<()> {
        let (held, record) = (self.path(name), self.record(name));
        let _lock = self.directory.lock()?;
        let mounted = mounted_on(&held)?.is_some();
        remove_file(&record)?;
        if mounted && let Err(error) = unmount_at(&held, &what(name)) {
            self.write_record(name)?;
            return Err(error);
        }
        remove_directory(&held)?;
        debug!(held = %held.display(), "removed volume");
        sync_parent(&record)
    }

    fn recover(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn tidy(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for name in entries(&self.directory.path().join("held"))? {
            let Some(name) = name.to_str().and_then(|name| VolumeName::new(name).ok()) else { continue };
            let _lock = self.directory.lock()?;
            if !self.record(&name).exists() && self.remove_half(&name)? {
                removed.push(format!("half a volume in memory {}", self.path(&name).display()));
            }
        }
        Ok(removed)
    }
}
