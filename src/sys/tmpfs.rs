//! File systems in memory (`man 5 tmpfs`): mounting one of a size, and changing the size.

use std::fs::File;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{MountAttrFlags, MountFlags, MoveMountFlags, mount_remount, move_mount};

use crate::error::{Error, Result};
use crate::sys::mount::FsContext;

/// Each inode takes about a KiB of the kernel's memory, which the size does not count: one for this many bytes.
const BYTES_PER_INODE: u64 = 16 << 10;

fn inodes(size_bytes: u64) -> u64 {
    size_bytes / BYTES_PER_INODE
}

/// A new tmpfs, to be mounted without access times, its root with the mode 0755. Dropping it leaves nothing.
pub(crate) fn unmounted(size_bytes: u64) -> Result<File> {
    let (size, inodes) = (size_bytes.to_string(), inodes(size_bytes).to_string());
    let options = [("size", &*size), ("nr_inodes", &inodes), ("mode", "0755")];
    FsContext::open("tmpfs")
        .and_then(|context| {
            options.iter().try_for_each(|(key, value)| context.text(key, *value))?;
            context.make(MountAttrFlags::MOUNT_ATTR_NOATIME)
        })
        .map(File::from)
        .map_err(|error| error.about("a tmpfs"))
}

/// Mounts `tmpfs` on `target`, which must be a directory and no link.
pub(crate) fn mount(tmpfs: &File, target: &Path) -> Result<()> {
    move_mount(tmpfs, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|e| Error::os("move_mount", target.display(), e))
}

/// Gives the tmpfs that is mounted on `target` another size. `EINVAL` if more than that is stored in it.
pub(crate) fn resize(target: &Path, size_bytes: u64) -> Result<()> {
    let text = format!("size={size_bytes},nr_inodes={}", inodes(size_bytes));
    let text = std::ffi::CString::new(text)
        .map_err(|e| Error::os("mount(MS_REMOUNT)", target.display(), std::io::Error::other(e)))?;
    mount_remount(target, MountFlags::NOATIME, text.as_c_str())
        .map_err(|e| Error::os("mount(MS_REMOUNT)", target.display(), e))
}
