//! Extended attributes that layers have (`man 7 xattr`).

use std::os::fd::AsFd;

use rustix::fs::{fgetxattr, flistxattr};
use rustix::io::Errno;

use crate::storage::acl;

/// The longest list of names, and the longest value, in bytes (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
pub(crate) const MAX: usize = 64 << 10;

/// Attributes that mean the same on any host, and none that would make overlayfs read other directories.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == b"security.capability" || is_acl(name)
}

pub(crate) fn is_acl(name: &[u8]) -> bool {
    acl::NAMES.iter().any(|acl| name == acl.as_bytes())
}

/// The names of all attributes, sorted. `buffer` holds [`MAX`] bytes.
pub(crate) fn names(fd: impl AsFd, buffer: &mut [u8]) -> rustix::io::Result<Vec<Vec<u8>>> {
    let length = match flistxattr(fd, &mut *buffer) {
        Err(Errno::OPNOTSUPP) => 0,
        result => result?,
    };
    let listed = buffer[..length].split(|&b| b == 0).filter(|name| !name.is_empty());
    let mut names: Vec<Vec<u8>> = listed.map(<[u8]>::to_vec).collect();
    names.sort_unstable();
    Ok(names)
}

/// The value of one. `buffer` holds [`MAX`] bytes.
pub(crate) fn value(fd: impl AsFd, name: &[u8], buffer: &mut [u8]) -> rustix::io::Result<Vec<u8>> {
    let length = fgetxattr(fd, name, &mut *buffer)?;
    Ok(buffer[..length].to_vec())
}
