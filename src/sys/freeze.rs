//! Holding a mounted file system still (`man 8 fsfreeze`, `man 2 ioctl_fsfreeze` where there is one).
//!
//! A frozen file system is whole on its device, and who writes to it waits. It stays frozen when its freezer dies.

#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use linux_raw_sys::ioctl::{FIFREEZE, FITHAW};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys::ioctl;

/// Freezes the file system that `directory` is on. False if it is frozen already.
pub(crate) fn freeze(directory: &Path) -> Result<bool> {
    match request(directory, FIFREEZE)? {
        Ok(()) => Ok(true),
        Err(Errno::BUSY) => Ok(false),
        Err(error) => Err(Error::os("FIFREEZE", directory.display(), error)),
    }
}

/// Lets it go on. False if it was not frozen.
pub(crate) fn unfreeze(directory: &Path) -> Result<bool> {
    match request(directory, FITHAW)? {
        Ok(()) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(Error::os("FITHAW", directory.display(), error)),
    }
}

/// As [`unfreeze`], of a mount that is nowhere.
pub(crate) fn unfreeze_mount(mount: BorrowedFd<'_>) -> Result<bool> {
    // The descriptor itself is one that no request can be made on.
    unfreeze(Path::new(&format!("/proc/thread-self/fd/{}", mount.as_raw_fd())))
}

fn request(directory: &Path, request: u32) -> Result<rustix::io::Result<()>> {
    let file = File::open(directory).map_err(|e| Error::os("open", directory.display(), e))?;
    // SAFETY: neither request looks at its argument.
    Ok(unsafe { ioctl::number(&file, request.into(), 0) }.map(drop))
}
