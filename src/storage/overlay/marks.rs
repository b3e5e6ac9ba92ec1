//! How overlayfs marks, in a layer, what is missing or hidden, and what is elsewhere (kernel
//! `Documentation/filesystems/overlayfs.rst`).

use std::os::fd::AsFd;

use rustix::fs::{FileType, Stat};

use crate::storage::overlay::attributes::one;

/// With the value `y` on a directory: it hides those of its name below.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
/// A part of the file or directory is in another layer, under this or another name.
pub(crate) const ELSEWHERE: [&str; 2] = ["trusted.overlay.redirect", "trusted.overlay.metacopy"];

/// Whether it is a device 0:0, which says that there is nothing of its name below.
pub(crate) fn is_whiteout_device(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice && found.st_rdev == 0
}

/// Whether this file of a layer says that there is nothing of its name below. It may be opened with `O_PATH`.
pub(super) fn is_whiteout(file: &impl AsFd, found: &Stat) -> rustix::io::Result<bool> {
    if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile && found.st_size == 0 {
        // The other form, for layers that are themselves kept in an overlay. Kernel 6.7.
        return Ok(one(file, "trusted.overlay.whiteout")?.is_some());
    }
    Ok(is_whiteout_device(found))
}

/// Whether this directory of a layer hides those below it. It may be opened with `O_PATH`.
pub(crate) fn is_opaque(directory: &impl AsFd) -> rustix::io::Result<bool> {
    Ok(one(directory, OPAQUE)?.as_deref() == Some(b"y"))
}
