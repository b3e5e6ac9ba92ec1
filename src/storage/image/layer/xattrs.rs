//! Extended attributes that layers have (`man 7 xattr`), and access control lists among them (`man 5 acl`, kernel
//! `include/uapi/linux/posix_acl_xattr.h`).

use std::os::fd::AsFd;

use rustix::fs::{fgetxattr, flistxattr};
use rustix::io::Errno;

use crate::storage::image::layer::pack::MapOwner;

/// The longest list of names, and the longest value, in bytes (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`).
pub(crate) const MAX: usize = 64 << 10;

pub(crate) const ACCESS_ACL: &str = "system.posix_acl_access";
pub(crate) const DEFAULT_ACL: &str = "system.posix_acl_default";

/// Attributes that mean the same on any host, and none that would make overlayfs read other directories.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == b"security.capability" || is_acl(name)
}

fn is_acl(name: &[u8]) -> bool {
    name == ACCESS_ACL.as_bytes() || name == DEFAULT_ACL.as_bytes()
}

/// Whether the directory has an access control list for what is made in it.
pub(crate) fn has_default_acl(directory: impl AsFd) -> rustix::io::Result<bool> {
    match fgetxattr(directory, DEFAULT_ACL, &mut [0_u8; 0][..]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether overlayfs says by it that a part of the file or directory is elsewhere.
pub(crate) fn refers_below(name: &[u8]) -> bool {
    matches!(name, b"trusted.overlay.redirect" | b"trusted.overlay.metacopy")
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

/// What the attribute `name` of a file of `owner` says with the ids of a map. `None` if one has no place there.
pub(crate) fn mapped(name: &[u8], value: Vec<u8>, owner: (u32, u32), map: MapOwner<'_>) -> Option<Vec<u8>> {
    match name {
        b"security.capability" => map_capability(value, owner, map),
        name if is_acl(name) => map_acl(value, owner, map),
        _ => Some(value),
    }
}

/// An access control list with other users and groups. `None` if one has no place in the map, or it is no such list.
fn map_acl(mut list: Vec<u8>, owner: (u32, u32), map: MapOwner<'_>) -> Option<Vec<u8>> {
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

/// A file's capability with the ids of a map (`linux/capability.h`, `vfs_ns_cap_data`). The third version is the second with
/// a user at its end: the root of the namespace that it counts in. `None` if that has no place in the map.
fn map_capability(mut value: Vec<u8>, owner: (u32, u32), map: MapOwner<'_>) -> Option<Vec<u8>> {
    let Ok([_, _, _, version @ 3, .., a, b, c, d]) = <&mut [u8; 24]>::try_from(value.as_mut_slice()) else {
        return Some(value);
    };
    let root = map(u32::from_le_bytes([*a, *b, *c, *d]), owner.1)?.0;
    if root == 0 {
        // So every container understands it, and so it was before the container's root was somebody else outside.
        *version = 2;
        value.truncate(20);
    } else {
        [*a, *b, *c, *d] = root.to_le_bytes();
    }
    Some(value)
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

    #[test]
    fn capabilities_are_mapped() {
        let version_3 = |root: u32| [&[1, 0, 0, 3, 0, 4][..], &[0; 14], &root.to_le_bytes()].concat();
        let version_2 = [&[1, 0, 0, 2, 0, 4][..], &[0; 14]].concat();
        let map = |user: u32, group: u32| Some((user.checked_sub(1000)?, group.checked_sub(1000)?));
        let check =
            |value: Vec<u8>, expected| assert_eq!(map_capability(value, (1000, 1000), &map), expected);
        check(version_3(1000), Some(version_2.clone()));
        check(version_3(1007), Some(version_3(7)));
        check(version_3(7), None);
        check(version_2.clone(), Some(version_2));
        check(vec![3], Some(vec![3]));
    }
}
