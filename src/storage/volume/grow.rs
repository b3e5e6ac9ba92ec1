//! Growing a volume: its file, its loop device, its file system, in this order.
//!
//! Kernels grow mounted file systems only, ext4 for a process with CAP_SYS_RESOURCE only. Without it an ext4 that is not
//! mounted is grown by `e2fsck` and `resize2fs` (`man 8 resize2fs`), which need nothing but the file.

use std::fs::File;
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;
use tracing::{debug, info_span};

use crate::error::{Error, Result};
use crate::storage::volume::filesystem::GrowUnmounted;
use crate::storage::volume::handle::Volume;
use crate::storage::volume::pool::{allocated, not_found, what};
use crate::storage::volume::spec::{Allocation, check_size};
use crate::sys::sparse;

/// On the file while it is growing, so that the next [`ensure`](crate::storage::VolumePool::ensure) finishes what a
/// crash interrupted. The sizes alone do not tell: a file system can end a little before its file for good.
const GROWING_XATTR: &str = "trusted.docklet.growing";

impl Volume {
    /// Makes the volume larger. This is done by the kernel, also while the volume is mounted and written to; a volume that
    /// is not mounted is for a moment. ext4 takes CAP_SYS_RESOURCE for it; without, `resize2fs` grows it while it is not
    /// mounted. Repeating an interrupted call finishes it; the present size changes nothing.
    ///
    /// # Errors
    /// - [`Error::Invalid`] if `size_bytes` is less than the present size (volumes never shrink), or breaks the rules of
    ///   [`VolumeSpec::size_bytes`](crate::storage::VolumeSpec::size_bytes).
    /// - [`Error::NoSpace`] if the pool may not promise that much.
    /// - [`Error::Unsupported`] if it is a mounted ext4 and this process has no CAP_SYS_RESOURCE, or an unmounted one and
    ///   the programs `e2fsck` and `resize2fs` are missing, too.
    ///
    /// The first three leave everything as it was.
    pub fn grow(&mut self, size_bytes: u64) -> Result<()> {
        let span = info_span!("grow_volume", volume = %self.spec.name, size_bytes);
        let _entered = span.enter();
        check_size(self.spec.filesystem, size_bytes)?;
        let _lock = self.lock()?.ok_or_else(|| not_found(&self.spec.name))?;
        let path = self.file();
        let file = self.open_writable()?;
        let mounted = self.device_of_mount(&file)?.is_some();
        let unmounted_only = self.spec.filesystem.kind().grows_unmounted_only();
        let present = self.length(&file)?;
        if let Some(GrowUnmounted { lacking, .. }) = &unmounted_only
            && mounted
        {
            if size_bytes == present && !is_growing(&file) {
                return self.take_space(&file, size_bytes);
            }
            return Err(Error::Unsupported {
                what: format!("growing {} while it is mounted", what(&self.spec.name)),
                needs: format!("the capability {lacking}, or to unmount it first"),
            });
        }
        self.lengthen(&file, size_bytes)?;
        self.spec.size_bytes = size_bytes;
        if mounted {
            self.grow_mounted(&file, size_bytes)?;
        } else if let Some(unmounted) = unmounted_only {
            (unmounted.grow)(&path)?;
        } else {
            self.mount_locked()?;
            let result = self.grow_mounted(&file, size_bytes);
            self.unmount_locked()?;
            result?;
        }
        // Inode tables of the new part were zeroed, which loop devices do by making holes.
        self.take_space(&file, size_bytes)?;
        set_growing(&file, false, &path)?;
        debug!(file = %path.display(), size_bytes, "grew volume");
        Ok(())
    }

    /// The file first, durably: a file system that ends before its file is grown by the next call, one that ends
    /// behind it is lost.
    fn lengthen(&self, file: &File, size_bytes: u64) -> Result<()> {
        let path = self.file();
        let _lock = self.pool.lock()?;
        let present = self.length(file)?;
        if size_bytes < present {
            let rule = format!("volumes never shrink: {} has {present} bytes", what(&self.spec.name));
            return Err(Error::invalid("volume size", size_bytes.to_string(), rule));
        }
        let more = size_bytes - present;
        if more > 0 {
            let what = format!("{more} more bytes of {}", what(&self.spec.name));
            self.pool.room()?.check(self.pool.ratio(), more, &what)?;
            if let Err(error) = self.take_space(file, size_bytes) {
                // Gives back what was taken behind the end.
                file.set_len(present).map_err(|e| Error::os("ftruncate", path.display(), e))?;
                return Err(error);
            }
            set_growing(file, true, &path)?;
            file.set_len(size_bytes).map_err(|e| Error::os("ftruncate", path.display(), e))?;
        }
        file.sync_all().map_err(|e| Error::os("fsync", path.display(), e))
    }

    fn length(&self, file: &File) -> Result<u64> {
        file.metadata().map(|m| m.len()).map_err(|e| Error::os("fstat", self.file().display(), e))
    }

    fn grow_mounted(&self, file: &File, size_bytes: u64) -> Result<()> {
        let target = self.mount_point();
        let device = self.device_of_mount(file)?.ok_or_else(|| not_found(&self.spec.name))?;
        device.update_capacity()?;
        let inside = File::open(&target).map_err(|e| Error::os("open", target.display(), e))?;
        self.spec.filesystem.kind().grow_mounted(&inside, size_bytes, &target)
    }

    /// Takes the disk space of a preallocated volume.
    pub(super) fn take_space(&self, file: &File, size_bytes: u64) -> Result<()> {
        if self.spec.allocation == Allocation::Sparse {
            return Ok(());
        }
        let path = self.file();
        let held = allocated(file, &path)?;
        sparse::allocate(file, size_bytes).map_err(|errno| match errno {
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Error::NoSpace {
                what: format!("{} of {size_bytes} bytes", what(&self.spec.name)),
                needed_bytes: size_bytes.saturating_sub(held),
                available_bytes: self.pool.room().map_or(0, |room| room.available_bytes),
            },
            errno => Error::os("fallocate", path.display(), errno),
        })
    }
}

pub(crate) fn is_growing(file: &File) -> bool {
    fgetxattr(file, GROWING_XATTR, &mut [0_u8; 1][..]).is_ok()
}

fn set_growing(file: &File, growing: bool, shown: &Path) -> Result<()> {
    let (call, result) = if growing {
        ("fsetxattr", fsetxattr(file, GROWING_XATTR, b"1", XattrFlags::empty()))
    } else {
        ("fremovexattr", fremovexattr(file, GROWING_XATTR))
    };
    match result {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::NODATA) => Ok(()),
        Err(error) => Err(Error::os(call, shown.display(), error)),
    }
}
