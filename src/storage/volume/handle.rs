//! One volume: mounting it in its place, and what it holds (`man 2 mount`, `man 3 statvfs`).

use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use tracing::{debug_span, info_span};

use crate::error::{Error, Result};
use crate::name::VolumeName;
use crate::storage::overlay::options::overlays;
use crate::storage::volume::backend::{Backend, Draft, Source};
use crate::storage::volume::filesystem::Superblock;
use crate::storage::volume::limit::SizeLimit;
use crate::storage::volume::pool::{VolumePool, what};
use crate::storage::volume::spec::{Usage, VolumeSpec};
use crate::sys::directory::make_directory;
use crate::sys::lock::FileLock;
use crate::sys::mount::{mounted_on, unmount_at};

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
    /// Whether nobody else can have had it yet.
    is_new: bool,
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

    /// Whether it was made and mounted in one, so that no overlay can be on it.
    pub(crate) fn is_new(&self) -> bool {
        self.is_new
    }
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

    /// The file, block device or directory that the volume is; of a tmpfs, where it is mounted all the time.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.backend().path(&self.spec.name)
    }

    /// What holds it to its size.
    #[must_use]
    pub fn limit(&self) -> SizeLimit {
        self.backend().limit(self.spec.size_bytes)
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
        let _lock = self.lock()?.ok_or_else(|| self.backend().absent(&self.spec.name))?;
        self.mount_locked()
    }

    /// The same for a volume that `draft` has just become. As long as that keeps others out, it is the lock.
    pub(super) fn mount_new(&self, draft: &Draft) -> Result<MountedVolume> {
        let span = info_span!("mount_volume", volume = %self.spec.name);
        let entered = span.enter();
        if mounted_on(&self.mount_point())?.is_none()
            && let Some(source) = self.backend().attach_new(draft, &self.spec.name)?
        {
            return self.mount_source(source).map(|mounted| MountedVolume { is_new: true, ..mounted });
        }
        drop(entered);
        self.mount()
    }

    pub(super) fn mount_locked(&self) -> Result<MountedVolume> {
        let target = self.mount_point();
        let mounted = MountedVolume { path: target.clone(), name: self.spec.name.clone(), is_new: false };
        if self.device_of_mount()?.is_some() {
            let space = statvfs(&target).map_err(|e| Error::os("statvfs", target.display(), e))?;
            if space.f_flag.contains(StatVfsMountFlags::RDONLY) {
                let mender = self.spec.filesystem.kind().mender();
                return Err(self.differs(&format!(
                    "it became read-only after an error: unmount it, and run {mender} on {}",
                    self.file().display()
                )));
            }
            return Ok(mounted);
        }
        self.mount_source(self.backend().attach(&self.spec.name)?)
    }

    fn mount_source(&self, source: Source) -> Result<MountedVolume> {
        let target = self.mount_point();
        make_directory(&target)?;
        debug_span!("mount_filesystem")
            .in_scope(|| source.mount(self.spec.filesystem, &target, &what(&self.spec.name)))?;
        // Only now: until it was mounted, this value alone kept the device attached.
        drop(source);
        Ok(MountedVolume { path: target, name: self.spec.name.clone(), is_new: false })
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
                // Somebody removed it by force; the mount keeps its content alive.
                let target = self.mount_point();
                match mounted_on(&target)? {
                    Some(device) if self.backend().is_shown_by(&self.spec.name, device)? => {
                        self.unmount_target(&target)
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    pub(super) fn unmount_locked(&self) -> Result<()> {
        let device = self.device_of_mount()?;
        if device.is_some() {
            self.unmount_target(&self.mount_point())?;
        }
        self.backend().release(&self.spec.name, device)
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
        let path = self.file();
        let found =
            self.backend().look(&self.spec.name)?.ok_or_else(|| self.backend().absent(&self.spec.name))?;
        let allocated_bytes = found.allocated_bytes;
        let place = self.device_of_mount()?.map(|_| self.mount_point());
        if let Some(place) = place.or_else(|| self.backend().held(&self.spec.name)) {
            let space = statvfs(&place).map_err(|e| Error::os("statvfs", place.display(), e))?;
            return Ok(Usage {
                size_bytes: space.f_blocks.saturating_mul(space.f_frsize),
                used_bytes: space.f_blocks.saturating_sub(space.f_bfree).saturating_mul(space.f_frsize),
                available_bytes: space.f_bavail.saturating_mul(space.f_frsize),
                allocated_bytes,
            });
        }
        let file = self.backend().open(&self.spec.name)?;
        let superblock = Superblock::find(&file, &path, &what(&self.spec.name))?
            .ok_or_else(|| self.differs("its file system is gone"))?;
        Ok(Usage {
            size_bytes: superblock.size_bytes,
            used_bytes: superblock.size_bytes.saturating_sub(superblock.free_bytes),
            available_bytes: superblock.free_bytes,
            allocated_bytes,
        })
    }

    pub(super) fn backend(&self) -> &dyn Backend {
        self.pool.backend()
    }

    pub(super) fn lock(&self) -> Result<Option<FileLock>> {
        self.backend().lock(&self.spec.name)
    }

    /// The device (as in `st_dev`) of the volume if it is mounted. Something else in its place is
    /// [`Error::Differs`].
    pub(super) fn device_of_mount(&self) -> Result<Option<u64>> {
        let target = self.mount_point();
        let Some(device) = mounted_on(&target)? else { return Ok(None) };
        if self.backend().is_shown_by(&self.spec.name, device)? {
            return Ok(Some(device));
        }
        Err(self.differs(&format!("something else is mounted on {}", target.display())))
    }

    pub(super) fn busy(&self, reason: String) -> Error {
        Error::Busy { what: what(&self.spec.name), reason }
    }

    pub(super) fn differs(&self, difference: &str) -> Error {
        Error::Differs { what: what(&self.spec.name), difference: difference.to_owned() }
    }
}
