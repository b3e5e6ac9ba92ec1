//! Extended attributes (`man 7 xattr`), as overlays use them and as a container sees them.
//!
//! Two kinds hold ids of users: capabilities of files (`man 7 capabilities`) and access control lists (`man 5 acl`).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{getxattr, listxattr};
use rustix::io::Errno;

use crate::idmap::IdMap;
use crate::storage::acl;
use crate::sys::file::descriptor_path;

/// All extended attributes of a file but an overlay's own.
pub(super) type Attributes = BTreeMap<OsString, Vec<u8>>;

/// The largest value, and the largest list of names (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const SIZE_MAX: usize = 65_536;

/// Reads those of `file`, which may be any kind, opened with `O_PATH`.
pub(super) fn read(file: &impl AsFd) -> rustix::io::Result<Attributes> {
    // Instead of `fgetxattr`, which wants more than `O_PATH`.
    let path = descriptor_path(file);
    let mut names = vec![0; SIZE_MAX];
    let length = match listxattr(&path, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error),
    };
    let mut attributes = Attributes::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        if let Some(value) = value(&path, OsStr::from_bytes(name))? {
            attributes.insert(OsString::from_vec(name.to_vec()), value);
        }
    }
    Ok(attributes)
}

/// The value of one attribute of `file`, opened as for [`read`].
pub(super) fn one(file: &impl AsFd, name: &str) -> rustix::io::Result<Option<Vec<u8>>> {
    value(&descriptor_path(file), OsStr::new(name))
}

fn value(path: &str, name: &OsStr) -> rustix::io::Result<Option<Vec<u8>>> {
    let mut small = [0; 256];
    match getxattr(path, name, &mut small[..]) {
        Ok(length) => return Ok(Some(small[..length].to_vec())),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    let mut value = vec![0; SIZE_MAX];
    match getxattr(path, name, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        // It went meanwhile.
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The attributes as a container with this map sees them: ids in them are those inside.
pub(super) fn inside(mut attributes: Attributes, map: &IdMap) -> Attributes {
    for (name, value) in &mut attributes {
        if name == "security.capability" {
            capability_inside(value, map);
        } else if acl::NAMES.iter().any(|acl| name == acl) {
            // Who is nobody inside stays as outside: then they differ. So does what is no list.
            let _ = acl::map_ids(value, |_, id| Some(map.inside(id).unwrap_or(id)));
        }
    }
    attributes
}

/// Version 3 is version 2 with an owner: the root of a user namespace.
fn capability_inside(value: &mut Vec<u8>, map: &IdMap) {
    let Ok([_, _, _, version, .., a, b, c, d]) = <&mut [u8; 24]>::try_from(value.as_mut_slice()) else {
        return;
    };
    if *version == 3 && u32::from_le_bytes([*a, *b, *c, *d]) == map.root() {
        *version = 2;
        value.truncate(20);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_in_attributes_are_mapped() {
        let map = IdMap::new([(0, 100_000, 1000)]).unwrap();
        let check = |name: &str, outside: &[u8], expected: &[u8]| {
            let given = Attributes::from([(name.into(), outside.to_vec())]);
            assert_eq!(inside(given, &map)[OsStr::new(name)], expected, "{name}");
        };
        let mut capability = [0; 24];
        (capability[3], capability[5]) = (3, 32);
        let version_2 = |mut bytes: [u8; 24]| {
            bytes[3] = 2;
            bytes[..20].to_vec()
        };
        check("security.capability", &capability, &capability);
        capability[20..].copy_from_slice(&100_000_u32.to_le_bytes());
        check("security.capability", &capability, &version_2(capability));
        check("user.x", &capability, &capability);
        check("security.capability", &[3], &[3]);

        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[7, 0], &id.to_le_bytes()[..]].concat();
        let list = |id: u32| [vec![2, 0, 0, 0], entry(1, u32::MAX), entry(2, id), entry(8, id)].concat();
        check("system.posix_acl_access", &list(100_033), &list(33));
        check("system.posix_acl_access", &list(5), &list(5));
        check("system.posix_acl_access", &[2, 0], &[2, 0]);
    }
}
