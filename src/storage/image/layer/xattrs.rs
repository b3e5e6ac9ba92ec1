//! Extended attributes that layers have (`man 7 xattr`).

use std::os::fd::AsFd;

use rustix::fs::{fgetxattr, flistxattr};
use rustix::io::Errno;

use crate::storage::acl::{self, Who};
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
    acl::NAMES.iter().any(|acl| name == acl.as_bytes())
}

/// Whether the directory has an access control list for what is made in it.
pub(crate) fn has_default_acl(directory: impl AsFd) -> rustix::io::Result<bool> {
    match fgetxattr(directory, DEFAULT_ACL, &mut [0_u8; 0][..]) {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
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
        name if is_acl(name) => {
            let mut list = value;
            let mapped = |who, id| match who {
                Who::User => Some(map(id, owner.1)?.0),
                Who::Group => Some(map(owner.0, id)?.1),
            };
            acl::map_ids(&mut list, mapped).map(|()| list)
        }
        _ => Some(value),
    }
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
