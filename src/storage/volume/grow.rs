//! Growing a volume: its file, its loop device, its file system, in this order.
//!
//! A kernel grows a mounted ext4 for a process with CAP_SYS_RESOURCE only. Without it a volume that is not mounted is
//! grown by `e2fsck` and `resize2fs` (`man 8 resize2fs`), which need nothing but the file.

use std::fs::File;
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};
use tracing::{debug, info_span};

use crate::error::{Error, Result};
use crate::storage::volume::handle::Volume;
use crate::storage::volume::pool::{allocated, not_found, what};
use crate::storage::volume::spec::{Allocation, check_size};
use crate::sys::ext4::{self, Superblock};
use crate::sys::{sparse, tool};

/// On the file while it is growing, so that the next [`ensure`](crate::storage::VolumePool::ensure) finishes what a
/// crash interrupted. The sizes alone do not tell: a file system can end a little before its file for good.
const GROWING_XATTR: &str = "trusted.docklet.growing";

impl Volume {
    /// Makes the volume larger. With CAP_SYS_RESOURCE this is done by the kernel, also while the volume is mounted and
    /// written to; a volume that is not mounted is for a moment. Repeating an interrupted call finishes it; the present
    /// size changes nothing.
    ///
    /// # Errors
    /// - [`Error::Invalid`] if `size_bytes` is less than the present size (volumes never shrink), or breaks the rules of
    ///   [`VolumeSpec::size_bytes`](crate::storage::VolumeSpec::size_bytes).
    /// - [`Error::NoSpace`] if the pool may not promise that much.
    /// - [`Error::Unsupported`] if the volume is mounted and this process has no CAP_SYS_RESOURCE, or if it is not, and
    ///   the programs `e2fsck` and `resize2fs` are missing.
    ///
    /// The first three leave everything as it was.
    pub fn grow(&mut self, size_bytes: u64) -> Result<()> {
        let span = info_span!("grow_volume", volume = %self.spec.name, size_bytes);
        let _entered = span.enter();
        check_size(size_bytes)?;
        let _lock = self.lock()?.ok_or_else(|| not_found(&self.spec.name))?;
        let path = self.file();
        let file = self.open_writable()?;
        let mounted = self.device_of_mount(&file)?.is_some();
        let by_kernel = may_grow_mounted();
        let present = self.length(&file)?;
        if mounted && !by_kernel {
            if size_bytes == present && !is_growing(&file) {
                return self.take_space(&file, size_bytes);
            }
            return Err(Error::Unsupported {
                what: format!("growing {} while it is mounted", what(&self.spec.name)),
                needs: "the capability CAP_SYS_RESOURCE, or to unmount it first".to_owned(),
            });
        }
        self.lengthen(&file, size_bytes)?;
        self.spec.size_bytes = size_bytes;
        if mounted {
            self.grow_mounted(&file, size_bytes)?;
        } else if by_kernel {
            self.mount_locked()?;
            let result = self.grow_mounted(&file, size_bytes);
            self.unmount_locked()?;
            result?;
        } else {
            grow_unmounted(&path)?;
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
        let (path, target) = (self.file(), self.mount_point());
        let device = self.device_of_mount(file)?.ok_or_else(|| not_found(&self.spec.name))?;
        device.update_capacity()?;
        let superblock =
            Superblock::read(file, &path)?.ok_or_else(|| self.differs("its file system is gone"))?;
        let inside = File::open(&target).map_err(|e| Error::os("open", target.display(), e))?;
        ext4::grow_mounted(&inside, size_bytes / superblock.block_bytes, &target)
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

/// Whether this thread has what `EXT4_IOC_RESIZE_FS` asks for.
fn may_grow_mounted() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE))
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

/// `resize2fs` insists on a check before, and an interrupted `resize2fs` needs one.
fn grow_unmounted(path: &Path) -> Result<()> {
    // 1: errors were found and corrected.
    run("e2fsck", &["-f", "-p"], path, &[0, 1])?;
    run("resize2fs", &[], path, &[0])
}

fn run(program: &str, options: &[&str], path: &Path, good: &[i32]) -> Result<()> {
    let mut command = tool::command(program).ok_or_else(|| Error::Unsupported {
        what: "growing a volume".to_owned(),
        needs: format!("CAP_SYS_RESOURCE, or the program {program}: install the package e2fsprogs"),
    })?;
    let output = tool::output(command.args(options).arg(path))?;
    if output.status.code().is_some_and(|code| good.contains(&code)) {
        return Ok(());
    }
    Err(Error::Command {
        program: program.to_owned(),
        status: output.status.to_string(),
        stderr: tool::said(&[output.stdout, output.stderr].concat()),
    })
}
