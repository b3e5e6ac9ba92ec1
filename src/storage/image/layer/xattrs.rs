//! Extended attributes that layers have (`man 7 xattr`), and access control lists among them (`man 5 acl`, kernel
//! `include/uapi/linux/posix_acl_xattr.h`).

use std::os::fd::AsFd;

use rustix::fs::{fgetxattr, flistxattr};
use rustix::io::Errno;

use crate::storage::image::layer::pack::MapOwner;

/// The longest list of names, and the longest value, in bytes (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
pub(crate) const MAX: usize = 64 << 10;

/// Attributes that mean the same on any host, and none that would make overlayfs read other directories.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == b"security.capability" || is_acl(name)
}

pub(crate) fn is_acl(name: &[u8]) -> bool {
    matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
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

/// An access control list with other users and groups. `None` if one has no place in the map, or it is no such list.
pub(crate) fn map_acl(mut list: Vec<u8>, owner: (u32, u32), map: MapOwner<'_>) -> Option<Vec<u8>> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    let (_version, entries) = list.split_first_chunk_mut::<4>()?;
    for entry in entries.chunks_mut(8) {
        let [tag_low, tag_high, _, _, id @ ..] = entry else { return None };
        let id: &mut [u8; 4] = id.try_into().ok()?;
        let old = u32::from_le_bytes(*id);
        let new = match u16::from_le_bytes([*tag_low, *tag_high]) {
            USER => map(old, owner.1)?.0,
            GROUP => map(owner.0, old)?.1,
            _ => continue,
        };
        *id = new.to_le_bytes();
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_mapped() {
        // Version 2; the owner's entry, user 1005, group 1006.
        let list = |user: u32, group: u32| {
            let mut list = vec![2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255];
            list.extend([2, 0, 6, 0]);
            list.extend(user.to_le_bytes());
            list.extend([8, 0, 6, 0]);
            list.extend(group.to_le_bytes());
            list
        };
        let map = |user: u32, group: u32| Some((user.checked_sub(1000)?, group.checked_sub(1000)?));
        assert_eq!(map_acl(list(1005, 1006), (1000, 1000), &map), Some(list(5, 6)));
        assert_eq!(map_acl(list(5, 1006), (1000, 1000), &map), None);
        assert_eq!(map_acl(vec![2, 0], (1000, 1000), &map), None);
        assert_eq!(map_acl(vec![2, 0, 0, 0, 1], (1000, 1000), &map), None);
    }
}
