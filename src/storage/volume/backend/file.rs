//! The file that a volume is: how it is told from other data, and what is noted on it, as extended attributes
//! (`man 7 xattr`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::storage::volume::backend::Found;
use crate::storage::volume::filesystem::Superblock;
use crate::storage::volume::spec::Allocation;

/// Remembers how a volume was asked to be allocated: the blocks alone do not tell a full sparse file from a
/// preallocated one, nor one that had parts discarded from a sparse one.
const ALLOCATION_XATTR: &str = "trusted.docklet.allocation";
/// On the file while it is growing, so that the next [`ensure`](crate::storage::VolumePool::ensure) finishes what a
/// crash interrupted. The sizes alone do not tell: a file system can end a little before its file for good.
const GROWING_XATTR: &str = "trusted.docklet.growing";

const NOT_REGULAR: &str = "it is not a regular file";

/// Opens a regular file for reading, with `flags` besides: a fifo is not waited for, a link not followed. `None` if there is
/// nothing. Anything else is [`Error::Differs`] about `what`.
pub(crate) fn open_regular(path: &Path, flags: i32, what: &str) -> Result<Option<File>> {
    let odd = || Error::Differs { what: what.to_owned(), difference: NOT_REGULAR.to_owned() };
    let flags = flags | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO | libc::ENODEV)) => {
            return Err(odd());
        }
        Err(error) => return Err(Error::os("open", path.display(), error)),
    };
    let metadata = file.metadata().map_err(|e| Error::os("fstat", path.display(), e))?;
    if metadata.is_file() { Ok(Some(file)) } else { Err(odd()) }
}

/// Looks at `path`. Nothing is changed, not even an access time. `None` if there is nothing. `what` is named in errors.
pub(crate) fn look(path: &Path, what: &str) -> Result<Option<Found>> {
    let odd = Found {
        size_bytes: 0,
        allocated_bytes: 0,
        filesystem: None,
        allocation: Allocation::Sparse,
        growing: false,
        odd: Some(NOT_REGULAR),
    };
    let file = match open_regular(path, libc::O_NOATIME, what) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        Err(Error::Differs { .. }) => return Ok(Some(odd)),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata().map_err(|e| Error::os("fstat", path.display(), e))?;
    let allocated_bytes = metadata.blocks().saturating_mul(512);
    let all = allocated_bytes >= metadata.len();
    let by_blocks = if all { Allocation::Preallocated } else { Allocation::Sparse };
    Ok(Some(Found {
        size_bytes: metadata.len(),
        allocated_bytes,
        filesystem: Superblock::find(&file, path, what)?.map(|found| found.filesystem),
        allocation: recorded_allocation(&file).unwrap_or(by_blocks),
        growing: is_growing(&file),
        odd: None,
    }))
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

/// Notes on the file that its file system is to be as long as it is, or that it is.
pub(crate) fn record_growing(file: &File, growing: bool, shown: &Path) -> Result<()> {
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

/// Whether a growth of the file was interrupted.
pub(crate) fn is_growing(file: &File) -> bool {
    fgetxattr(file, GROWING_XATTR, &mut [0_u8; 1][..]).is_ok()
}
