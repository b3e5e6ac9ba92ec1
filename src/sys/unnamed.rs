//! Files that have no name until they are complete and on the disk, so that no crash leaves a part of one (`man 2 open` on
//! `O_TMPFILE`, `man 2 linkat`).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, linkat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys::file::descriptor_path;

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
                what: format!("a file that appears whole in `{}`", directory.display()),
                needs: "it takes a file system with O_TMPFILE: ext4, xfs, btrfs or tmpfs".to_owned(),
            },
            _ => Error::os("open(O_TMPFILE)", directory.display(), e),
        })
}

/// Gives an [unnamed] file, already on the disk, its name. False if the name is taken. Not yet durable.
pub(crate) fn publish(file: &File, path: &Path) -> Result<bool> {
    match linkat(CWD, descriptor_path(file), CWD, path, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(Error::os("linkat", path.display(), error)),
    }
}
