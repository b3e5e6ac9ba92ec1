//! The file that a volume is: how it is read, told from other data, and published whole.
//!
//! See `man 2 open` on `O_TMPFILE` and `man 2 linkat`: a file has no name until it is complete and on the disk, so
//! no crash leaves a part of one.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, XattrFlags, fgetxattr, fsetxattr, linkat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::storage::volume::filesystem::{Filesystem, Superblock};
use crate::storage::volume::grow::is_growing;
use crate::storage::volume::spec::{Allocation, VolumeSpec};

/// Remembers how a volume was asked to be allocated: the blocks alone do not tell a full sparse file from a
/// preallocated one, nor one that had parts discarded from a sparse one.
const ALLOCATION_XATTR: &str = "trusted.docklet.allocation";

/// A file in the place of a volume, as it was found.
#[derive(Debug)]
pub(crate) struct VolumeFile {
    pub(crate) size_bytes: u64,
    pub(crate) allocated_bytes: u64,
    pub(crate) superblock: Option<Superblock>,
    pub(crate) allocation: Allocation,
    /// A growth was interrupted.
    pub(crate) growing: bool,
    /// A directory, link, device … is in the place of the file.
    odd: bool,
}

impl VolumeFile {
    /// Looks at `path`. Nothing is changed, not even an access time. `None` if there is nothing. `what` is named in
    /// errors.
    ///
    /// [`Error::Damaged`] if it holds what is left of a file system.
    pub(crate) fn look(path: &Path, what: &str) -> Result<Option<Self>> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOATIME;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => {
                return Ok(Some(Self::odd()));
            }
            Err(error) => return Err(Error::os("open", path.display(), error)),
        };
        let metadata = file.metadata().map_err(|e| Error::os("fstat", path.display(), e))?;
        if !metadata.is_file() {
            return Ok(Some(Self::odd()));
        }
        let allocated_bytes = metadata.blocks().saturating_mul(512);
        Ok(Some(Self {
            size_bytes: metadata.len(),
            allocated_bytes,
            superblock: Superblock::find(&file, path, what)?,
            allocation: recorded_allocation(&file).unwrap_or(if allocated_bytes >= metadata.len() {
                Allocation::Preallocated
            } else {
                Allocation::Sparse
            }),
            growing: is_growing(&file),
            odd: false,
        }))
    }

    fn odd() -> Self {
        Self {
            size_bytes: 0,
            allocated_bytes: 0,
            superblock: None,
            allocation: Allocation::Sparse,
            growing: false,
            odd: true,
        }
    }

    /// What kind of file system it has; `None` if it is none that is known.
    pub(crate) fn filesystem(&self) -> Option<Filesystem> {
        self.superblock.map(|superblock| superblock.filesystem)
    }

    /// What differs from `spec`, field by field; empty if nothing does.
    pub(crate) fn differences(&self, spec: &VolumeSpec) -> Vec<String> {
        if self.odd {
            return vec!["it is not a regular file".to_owned()];
        }
        let mut differences = Vec::new();
        if self.size_bytes != spec.size_bytes {
            differences.push(format!("size_bytes is {}, not {}", self.size_bytes, spec.size_bytes));
        }
        match self.filesystem() {
            Some(filesystem) if filesystem == spec.filesystem => {}
            Some(filesystem) => {
                differences.push(format!("filesystem is {filesystem}, not {}", spec.filesystem))
            }
            None => differences.push(format!(
                "it holds data that is no file system known here, not {}; it is never formatted over",
                spec.filesystem
            )),
        }
        if self.allocation != spec.allocation {
            differences.push(format!("allocation is {}, not {}", self.allocation, spec.allocation));
        }
        differences
    }
}

/// Notes on the file how it was asked to be allocated. On a file system without such notes the blocks tell.
pub(crate) fn record_allocation(file: &File, allocation: Allocation, shown: &Path) -> Result<()> {
    match fsetxattr(file, ALLOCATION_XATTR, allocation.to_string().as_bytes(), XattrFlags::empty()) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        Err(error) => Err(Error::os("fsetxattr", shown.display(), error)),
    }
}

fn recorded_allocation(file: &File) -> Option<Allocation> {
    let mut buffer = [0_u8; 16];
    let length = fgetxattr(file, ALLOCATION_XATTR, &mut buffer[..]).ok()?;
    [Allocation::Sparse, Allocation::Preallocated]
        .into_iter()
        .find(|allocation| allocation.to_string().as_bytes() == &buffer[..length])
}

/// Makes a file without a name in `directory`. It is gone when it is closed, unless it is [published](publish).
pub(crate) fn unnamed(directory: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_TMPFILE)
        .open(directory)
        .map_err(|e| match e.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Error::Unsupported {
                what: format!("a volume pool in `{}`", directory.display()),
                needs: "a file system with O_TMPFILE: ext4, xfs, btrfs or tmpfs".to_owned(),
            },
            _ => Error::os("open(O_TMPFILE)", directory.display(), e),
        })
}

/// Gives an [unnamed] file, already on the disk, its name. False if the name is taken. Not yet durable.
pub(crate) fn publish(file: &File, path: &Path) -> Result<bool> {
    let unnamed = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
    match linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(Error::os("linkat", path.display(), error)),
    }
}
