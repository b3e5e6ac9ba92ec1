//! One volume: a file with a file system in it, attached to a loop device while it is mounted.
//!
//! The kernel frees the loop device with the last mount of it, also when this process is killed at any point.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{StatVfsMountFlags, statvfs};
use tracing::{debug, debug_span, info_span};

use crate::error::{Error, Result};
use crate::name::VolumeName;
use crate::storage::overlay::options::overlays;
use crate::storage::volume::filesystem::Superblock;
use crate::storage::volume::pool::{LOCK_TIMEOUT, VolumePool, allocated, make_directory, not_found, what};
use crate::storage::volume::spec::{Usage, VolumeSpec};
use crate::sys::lock::FileLock;
use crate::sys::loopdev::{self, LoopDevice};
use crate::sys::mount::{mounted_on, unmount_at, viewers_of};

/// How long an unmounted volume may still be held by a copy of the mount namespace, as a container that is just
/// being started has for a moment.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// A volume of a [`VolumePool`]. Dropping it does nothing to the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    pub(super) pool: VolumePool,
    pub(super) spec: VolumeSpec,
}

/// A volume that was mounted. Dropping it does not unmount it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedVolume {
    path: PathBuf,
    name: VolumeName,
}

impl MountedVolume {
    /// Where the volume is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The volume's name.
    #[must_use]
    pub fn name(&self) -> &VolumeName {
        &self.name
    }
}

/// Waits for the volume's lock, which is its file. `None` if there is no file.
pub(crate) fn lock(path: &Path, name: &VolumeName) -> Result<Option<FileLock>> {
    FileLock::acquire_existing(path, LOCK_TIMEOUT, &what(name))
}

impl Volume {
    pub(crate) fn new(pool: VolumePool, spec: VolumeSpec) -> Self {
        Self { pool, spec }
    }

    /// What the volume is.
    #[must_use]
    pub fn spec(&self) -> &VolumeSpec {
        &self.spec
    }

    /// The file that the volume is.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.pool.file(&self.spec.name)
    }

    pub(super) fn mount_point(&self) -> PathBuf {
        self.pool.mount_point(&self.spec.name)
    }

    /// Mounts the volume in its pool, `noatime`; a mount that is there already is adopted. A loop device that the
    /// file is attached to already is used, whatever its number.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the volume was removed.
    /// - [`Error::Unsupported`] if the host has no loop devices, or the file can only be read.
    /// - [`Error::Differs`] if something else is mounted in its place, or it became read-only after an error.
    /// - [`Error::Busy`] if its loop device shows only a part of the file.
    pub fn mount(&self) -> Result<MountedVolume> {
        let span = info_span!("mount_volume", volume = %self.spec.name);
        let _entered = span.enter();
        let _lock = self.lock()?.ok_or_else(|| not_found(&self.spec.name))?;
        self.mount_locked()
    }

    pub(super) fn mount_locked(&self) -> Result<MountedVolume> {
        let (path, target) = (self.file(), self.mount_point());
        let file = self.open_writable()?;
        let mounted = MountedVolume { path: target.clone(), name: self.spec.name.clone() };
        if self.device_of_mount(&file)?.is_some() {
            let space = statvfs(&target).map_err(|e| Error::os("statvfs", target.display(), e))?;
            if space.f_flag.contains(StatVfsMountFlags::RDONLY) {
                let mender = self.spec.filesystem.kind().mender();
                return Err(self.differs(&format!(
                    "it became read-only after an error: unmount it, and run {mender} on {}",
                    path.display()
                )));
            }
            return Ok(mounted);
        }
        make_directory(&target)?;
        let device = match debug_span!("find_loop").in_scope(|| LoopDevice::find(&file, &path))? {
            Some(device) => {
                debug!(device = %device.path().display(), "adopted loop device");
                // It may have been attached before the file grew, and to stay.
                device.update_capacity()?;
                device.clear_with_last_user()?;
                device
            }
            None => debug_span!("attach_loop").in_scope(|| LoopDevice::attach(&file, &path))?,
        };
        debug_span!("mount_filesystem")
            .in_scope(|| self.spec.filesystem.mount(&device.path(), &target, &what(&self.spec.name)))?;
        // Only now: until it was mounted, this descriptor alone kept the device attached.
        drop(device);
        Ok(mounted)
    }

    /// Unmounts the volume, and waits until its loop device is free. A volume that is not mounted is unmounted.
    ///
    /// # Errors
    /// [`Error::Busy`] with what uses it: an overlay root, processes, or a copy of the mount in another mount
    /// namespace. In the last case it is not mounted in this one any more. [`Error::Differs`] if something else is
    /// mounted in its place, which stays.
    pub fn unmount(&self) -> Result<()> {
        let span = info_span!("unmount_volume", volume = %self.spec.name);
        let _entered = span.enter();
        match self.lock()? {
            Some(_lock) => self.unmount_locked(),
            None => {
                // Somebody deleted the file; the mount keeps its content alive.
                let (path, target) = (self.file(), self.mount_point());
                match mounted_on(&target)? {
                    Some(device) if loopdev::shows_name(device, &path)? => self.unmount_target(&target),
                    _ => Ok(()),
                }
            }
        }
    }

    pub(super) fn unmount_locked(&self) -> Result<()> {
        let (path, target) = (self.file(), self.mount_point());
        let file = File::open(&path).map_err(|e| Error::os("open", path.display(), e))?;
        let device = match self.device_of_mount(&file)? {
            Some(device) => {
                let number = device.number();
                drop(device);
                self.unmount_target(&target)?;
                Some(number)
            }
            // Perhaps an earlier call gave up waiting for the device.
            None => LoopDevice::find(&file, &path)?.map(|device| device.number()),
        };
        match device {
            Some(number) if !loopdev::wait_until_free(number, &path, RELEASE_TIMEOUT)? => {
                let viewers = viewers_of(loopdev::device_number(number));
                let holder = if viewers.is_empty() {
                    "another program holds".to_owned()
                } else {
                    format!("another mount namespace holds, that of process {},", viewers.join(", "))
                };
                Err(self.busy(format!(
                    "it is no longer mounted here, but {holder} /dev/loop{number}; end that, or unmount or detach it \
                     there, and repeat"
                )))
            }
            _ => Ok(()),
        }
    }

    fn unmount_target(&self, target: &Path) -> Result<()> {
        // The overlay keeps its own hold of the volume: unmounting would succeed, and free nothing.
        if let Some(overlay) = overlays()?.iter().find(|overlay| overlay.is_on(target)) {
            return Err(self.busy(format!("the overlay root {} is on it", overlay.target.display())));
        }
        debug_span!("umount_filesystem").in_scope(|| unmount_at(target, &what(&self.spec.name)))
    }

    /// What the volume holds. Of one that is not mounted, what its superblock says, which is exact if it was
    /// unmounted in an orderly way.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the volume was removed; [`Error::Differs`] if its file holds something else now.
    pub fn usage(&self) -> Result<Usage> {
        let (path, target) = (self.file(), self.mount_point());
        let file = File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => not_found(&self.spec.name),
            _ => Error::os("open", path.display(), e),
        })?;
        let allocated_bytes = allocated(&file, &path)?;
        if self.device_of_mount(&file)?.is_some() {
            let space = statvfs(&target).map_err(|e| Error::os("statvfs", target.display(), e))?;
            return Ok(Usage {
                size_bytes: space.f_blocks.saturating_mul(space.f_frsize),
                used_bytes: space.f_blocks.saturating_sub(space.f_bfree).saturating_mul(space.f_frsize),
                available_bytes: space.f_bavail.saturating_mul(space.f_frsize),
                allocated_bytes,
            });
        }
        let superblock = Superblock::find(&file, &path, &what(&self.spec.name))?
            .ok_or_else(|| self.differs("its file system is gone"))?;
        Ok(Usage {
            size_bytes: superblock.size_bytes,
            used_bytes: superblock.size_bytes.saturating_sub(superblock.free_bytes),
            available_bytes: superblock.free_bytes,
            allocated_bytes,
        })
    }

    pub(super) fn lock(&self) -> Result<Option<FileLock>> {
        lock(&self.file(), &self.spec.name)
    }

    pub(super) fn open_writable(&self) -> Result<File> {
        let path = self.file();
        // A descriptor that cannot write would silently make a device that cannot.
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&path).map_err(|e| {
            match e.raw_os_error() {
                Some(libc::EROFS | libc::EACCES | libc::EPERM) => Error::Unsupported {
                    what: format!("writing to {}", what(&self.spec.name)),
                    needs: format!(
                        "a file that can be written: {} is read-only ({e}); see `lsattr` and the mount it is on",
                        path.display()
                    ),
                },
                Some(libc::ENOENT) => not_found(&self.spec.name),
                _ => Error::os("open", path.display(), e),
            }
        })
    }

    /// The loop device that is mounted in the volume's place. Something else there is [`Error::Differs`].
    pub(super) fn device_of_mount(&self, file: &File) -> Result<Option<LoopDevice>> {
        let (path, target) = (self.file(), self.mount_point());
        let Some(mounted) = mounted_on(&target)? else { return Ok(None) };
        let metadata = file.metadata().map_err(|e| Error::os("fstat", path.display(), e))?;
        let device = LoopDevice::showing(mounted, &metadata)?;
        device
            .map(Some)
            .ok_or_else(|| self.differs(&format!("something else is mounted on {}", target.display())))
    }

    pub(super) fn busy(&self, reason: String) -> Error {
        Error::Busy { what: what(&self.spec.name), reason }
    }

    pub(super) fn differs(&self, difference: &str) -> Error {
        Error::Differs { what: what(&self.spec.name), difference: difference.to_owned() }
    }
}
