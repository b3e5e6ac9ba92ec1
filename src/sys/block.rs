//! Block devices (kernel `include/uapi/linux/fs.h`, `Documentation/ABI/stable/sysfs-block`): zeros, and who has one.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use linux_raw_sys::ioctl::BLKZEROOUT;

use crate::error::{Error, Result};
use crate::sys::file::{absent_is_none, read_if_exists};
use crate::sys::ioctl;

/// Makes `range` of `device` read as zeros, by whatever the device has for it. Bounds are whole sectors.
pub(crate) fn zero_out(device: &File, range: &Range<u64>, shown: &Path) -> Result<()> {
    let mut argument = [range.start, range.end - range.start];
    // SAFETY: the request reads two u64.
    unsafe { ioctl::structure(device, BLKZEROOUT.into(), &mut argument) }
        .map(drop)
        .map_err(|e| Error::os("BLKZEROOUT", shown.display(), e))
}

/// Whether the device at `path` is free: not mounted anywhere, and not part of another. One that is gone is free.
pub(crate) fn is_free(path: &Path) -> Result<bool> {
    match absent_is_none(OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(path)) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
        Err(error) => Err(Error::os("open(O_EXCL)", path.display(), error)),
    }
}

/// The number of the device at `path`, as in `st_dev`. `None` if there is none.
pub(crate) fn number(path: &Path) -> Result<Option<u64>> {
    match absent_is_none(std::fs::metadata(path)) {
        Ok(found) => Ok(found.map(|metadata| metadata.rdev())),
        Err(error) => Err(Error::os("stat", path.display(), error)),
    }
}

/// The name that the device mapper has for device `number`. `None` if it is not the device mapper's.
pub(crate) fn mapped_name(number: u64) -> Result<Option<String>> {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let path = format!("/sys/dev/block/{major}:{minor}/dm/name");
    Ok(read_if_exists(Path::new(&path))?.map(|name| name.trim_end().to_owned()))
}

/// How long it is, in bytes.
pub(crate) fn length(device: &File) -> io::Result<u64> {
    Ok(rustix::fs::seek(device, rustix::fs::SeekFrom::End(0))?)
}
