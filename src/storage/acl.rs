//! Access control lists as their extended attributes hold them (`man 5 acl`, kernel
//! `include/uapi/linux/posix_acl_xattr.h`): the ids in them are the host's.

/// The extended attributes that are such lists.
pub(crate) const NAMES: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Whom an entry with an id in it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    User,
    Group,
}

/// Gives each id in `list` to `map`, and puts what that returns in its place. `None`, with a part of the ids replaced, if
/// `map` returns none or it is no such list.
pub(crate) fn map_ids(list: &mut [u8], map: impl Fn(Who, u32) -> Option<u32>) -> Option<()> {
    const USER: u16 = 0x02;
    const GROUP: u16 = 0x08;
    // Four bytes of version, then eight for each entry: tag, permissions, id.
    let (_version, entries) = list.split_first_chunk_mut::<4>()?;
    for entry in entries.chunks_mut(8) {
        let [tag_low, tag_high, _, _, id @ ..] = entry else { return None };
        let id: &mut [u8; 4] = id.try_into().ok()?;
        let who = match u16::from_le_bytes([*tag_low, *tag_high]) {
            USER => Who::User,
            GROUP => Who::Group,
            _ => continue,
        };
        *id = map(who, u32::from_le_bytes(*id))?.to_le_bytes();
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_lists_are_mapped() {
        // Version 2; the owner's entry, a user's, a group's.
        let list = |user: u32, group: u32| {
            let mut list = vec![2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255];
            list.extend([2, 0, 6, 0]);
            list.extend(user.to_le_bytes());
            list.extend([8, 0, 6, 0]);
            list.extend(group.to_le_bytes());
            list
        };
        let mapped = |mut list: Vec<u8>| {
            let map = |who, id: u32| id.checked_sub(if who == Who::User { 1000 } else { 2000 });
            map_ids(&mut list, map).map(|()| list)
        };
        assert_eq!(mapped(list(1005, 2006)), Some(list(5, 6)));
        assert_eq!(mapped(list(5, 2006)), None);
        assert_eq!(mapped(list(1005, 1006)), None);
        assert_eq!(mapped(vec![2, 0]), None);
        assert_eq!(mapped(vec![2, 0, 0, 0, 1]), None);
        assert_eq!(mapped(vec![2, 0, 0, 0]), Some(vec![2, 0, 0, 0]));
    }
}
