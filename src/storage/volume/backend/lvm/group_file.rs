//! The file that a volume group can be in, on a loop device that stays (`man 4 loop`).

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::storage::volume::backend::RELEASE_TIMEOUT;
use crate::sys::file::{absent_is_none, sync_parent};
use crate::sys::loopdev::{self, LoopDevice};
use crate::sys::unnamed::{publish, unnamed};
use crate::sys::wait;

/// How long a disk that was just attached may take to be seen.
const APPEAR_TIMEOUT: Duration = Duration::from_secs(5);
/// On a file while its volume group is being made: nothing in it is anybody's yet.
const MAKING_XATTR: &str = "trusted.docklet.making";

/// The file that the group is in, attached: made, with a mark, if it is not there. True if it was not attached.
pub(super) fn adopt_or_make_file(path: &Path, size_bytes: u64) -> Result<bool> {
    match absent_is_none(fs::symlink_metadata(path)).map_err(|e| Error::os("stat", path.display(), e))? {
        Some(found) if !found.is_file() || found.len() != size_bytes => {
            let difference = format!("it is no regular file of {size_bytes} bytes but has {}", found.len());
            return Err(Error::Differs { what: format!("file `{}`", path.display()), difference });
        }
        Some(_) => {}
        None => {
            let file = unnamed(path.parent().unwrap_or(Path::new("/")))?;
            file.set_len(size_bytes).map_err(|e| Error::os("ftruncate", path.display(), e))?;
            mark_making(&file, true, path)?;
            file.sync_all().map_err(|e| Error::os("fsync", path.display(), e))?;
            publish(&file, path)?;
            sync_parent(path)?;
        }
    }
    attach_file(path)
}

/// Detaches the file, and waits for those who only look at a device that changed (udev).
pub(super) fn detach_file(path: &Path) -> Result<()> {
    let Some(device) = LoopDevice::find(&open_file(path)?, path)? else { return Ok(()) };
    let number = device.number();
    device.detach()?;
    drop(device);
    if loopdev::wait_until_free(number, path, RELEASE_TIMEOUT)? {
        return Ok(());
    }
    let reason = format!("another program holds /dev/loop{number}");
    Err(Error::Busy { what: format!("file `{}`", path.display()), reason })
}

pub(super) fn mark_making(file: &File, making: bool, path: &Path) -> Result<()> {
    let result = if making {
        fsetxattr(file, MAKING_XATTR, b"1", XattrFlags::empty())
    } else {
        fremovexattr(file, MAKING_XATTR)
    };
    match result {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::PERM) => Err(Error::Unsupported {
            what: format!("a volume group in `{}`", path.display()),
            needs: "it takes a file system with extended attributes: ext4, xfs, btrfs".to_owned(),
        }),
        Err(error) => Err(Error::os("fsetxattr", path.display(), error)),
    }
}

pub(super) fn open_file(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path);
    absent_is_none(opened).map_err(|e| Error::os("open", path.display(), e))?.ok_or_else(|| Error::NotFound {
        what: format!("file `{}`, which a volume group is in,", path.display()),
    })
}

/// Attaches the file of a group if it is not, whatever loop device it was on. Twice would be two disks with one
/// identity, which LVM refuses. True if it was not.
pub(super) fn attach_file(path: &Path) -> Result<bool> {
    let file = open_file(path)?;
    if LoopDevice::find(&file, path)?.is_some() {
        return Ok(false);
    }
    LoopDevice::attach_to_stay(&file, path).map(|_| true)
}

/// Looks for a group, also a while later if its file was attached just now: LVM may only know of devices that udev knows of.
pub(super) fn find_after<T>(attached: bool, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = wait::deadline(if attached { APPEAR_TIMEOUT } else { Duration::ZERO });
    let found = wait::until(deadline, || match look() {
        Err(Error::NotFound { .. }) => Ok(None),
        found => found.map(Some),
    })?;
    found.map_or_else(look, Ok)
}

pub(super) fn is_making(file: &File) -> bool {
    fgetxattr(file, MAKING_XATTR, &mut [0_u8; 1][..]).is_ok()
}
