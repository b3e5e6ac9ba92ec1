//! How much a disk still takes (`man 3 statvfs`), and telling that it is full.

use std::path::Path;

use rustix::fs::statvfs;

use crate::error::{Error, Result};

/// The bytes that can still be written to the file system that `path` is on.
pub(crate) fn available_bytes(path: &Path) -> Result<u64> {
    let space = statvfs(path).map_err(|e| Error::os("statvfs", path.display(), e))?;
    Ok(space.f_bavail.saturating_mul(space.f_frsize))
}

/// `error`; as [`Error::NoSpace`] about `what` if it says that the disk with `directory`, or a quota, is full.
/// `needed_bytes` is `None` where it is not known how much was still to come.
pub(crate) fn or_no_space(error: Error, what: String, needed_bytes: Option<u64>, directory: &Path) -> Error {
    if !matches!(error.errno(), Some(libc::ENOSPC | libc::EDQUOT)) {
        return error;
    }
    let available_bytes = available_bytes(directory).unwrap_or(0);
    // More than there is, at least.
    let needed_bytes = needed_bytes.unwrap_or(available_bytes.saturating_add(1));
    Error::NoSpace { what, needed_bytes, available_bytes }
}
