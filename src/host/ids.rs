//! Which ids of the host a container has: a range of its own for each (`man 7 user_namespaces`, `man 5 subuid`).
//!
//! The ranges lie where nobody else takes ids from: above those of `systemd-nspawn` (to 1878982656) and beneath those that
//! systemd calls foreign (from 2147352576). No entry in `/etc/subuid` is needed; what is entered there is left out.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::Host;
use super::record::{Listing, Manifest};
use crate::error::{Error, Result};
use crate::idmap::{IdMap, IdRange};
use crate::paths::Paths;
use crate::sys::directory::entries;
use crate::sys::file::{absent_is_none, read_if_exists};

/// The first id of the first range.
const FIRST: u32 = 0x7000_0000;
/// How many ids a container has: all that Debian's policy knows, and `nobody`.
const LENGTH: u32 = 65_536;
/// How many ranges there are.
const COUNT: u32 = (2_147_352_576 - FIRST) / LENGTH;

/// Where others are given ranges of their own.
const SUBORDINATE: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

impl Host {
    /// A range that no other container has. The caller holds the registry's lock until it is written down, and has read all
    /// `manifests` under it.
    ///
    /// It is the first free one after the last that was given, so that one does not come again soon. The search begins at
    /// a place that depends on the prefix: two prefixes on one host, which know nothing of each other, hardly meet.
    pub(super) fn plan_ids(&self, manifests: &Listing<Manifest>) -> Result<IdMap> {
        let taken = taken(&self.inner.paths, manifests)?;
        let last = self.inner.paths.last_ids();
        let after = match read_last(&last)? {
            Some(number) => number + 1,
            None => u32::from_str_radix(&self.inner.tag, 16).unwrap_or_default(),
        };
        let number = first_free(after, &taken).ok_or_else(|| Error::Busy {
            what: "a range of ids for a container".to_owned(),
            reason: format!(
                "all {COUNT} from {FIRST} on are in use, or given to others in {}: remove a container",
                SUBORDINATE.join(" and ")
            ),
        })?;
        write_last(&last, number)?;
        map(number)
    }
}

/// The ids that containers have, also those that are being removed, and those that are given to others. A container whose
/// manifest cannot be read has a directory of its range's group, which tells.
pub(super) fn taken(paths: &Paths, manifests: &Listing<Manifest>) -> Result<Vec<IdRange>> {
    let manifests = &manifests.records;
    let maps = manifests.iter().filter_map(|manifest| manifest.objects.ids.as_ref());
    let mut taken: Vec<IdRange> = maps.flat_map(|map| map.ranges().iter().copied()).collect();
    let containers = paths.containers();
    let known: HashSet<&str> = manifests.iter().map(|manifest| manifest.id.as_str()).collect();
    for name in entries(&containers)? {
        if name.to_str().is_some_and(|name| known.contains(name)) {
            continue;
        }
        let path = containers.join(name);
        let found =
            absent_is_none(fs::symlink_metadata(&path)).map_err(|e| Error::os("lstat", path.display(), e))?;
        taken.extend(found.map(|found| IdRange { inside: 0, outside: found.gid(), length: 1 }));
    }
    for path in SUBORDINATE {
        taken.extend(subordinate(&read_if_exists(Path::new(path))?.unwrap_or_default()));
    }
    Ok(taken)
}

/// How many ranges have none of the ids that are `taken`, and how many there are.
pub(super) fn free(taken: &[IdRange]) -> (usize, u32) {
    (ranges_without(taken).into_iter().filter(|free| *free).count(), COUNT)
}

/// The map of the range with this number.
pub(super) fn map(number: u32) -> Result<IdMap> {
    IdMap::new([(0, FIRST + number * LENGTH, LENGTH)])
}

/// The number of the first range from number `start` on, and around, that has none of the ids that are `taken`.
fn first_free(start: u32, taken: &[IdRange]) -> Option<u32> {
    let free = ranges_without(taken);
    (0..COUNT).map(|offset| (start % COUNT + offset) % COUNT).find(|number| {
        usize::try_from(*number).is_ok_and(|number| free.get(number).copied().unwrap_or_default())
    })
}

/// Of each range, whether it has none of the ids that are `taken`.
fn ranges_without(taken: &[IdRange]) -> Vec<bool> {
    let mut free = vec![true; usize::try_from(COUNT).unwrap_or_default()];
    for range in taken {
        let end = u64::from(range.outside) + u64::from(range.length);
        let numbers = (u64::from(range.outside.max(FIRST)) - u64::from(FIRST)) / u64::from(LENGTH)
            ..end.saturating_sub(u64::from(FIRST)).div_ceil(u64::from(LENGTH));
        for number in numbers {
            if let Some(place) = usize::try_from(number).ok().and_then(|number| free.get_mut(number)) {
                *place = false;
            }
        }
    }
    free
}

/// The ranges of a file as `man 5 subuid` has it, whoever they are given to.
fn subordinate(text: &str) -> Vec<IdRange> {
    let range = |line: &str| {
        let mut fields = line.trim().split(':').skip(1).map(|field| field.parse::<u32>().ok());
        let (outside, length) = (fields.next()??, fields.next()??);
        Some(IdRange { inside: 0, outside, length })
    };
    text.lines().filter_map(range).collect()
}

/// The number of the range that was given last. That is no more than where the search begins: what cannot be read is none.
fn read_last(path: &Path) -> Result<Option<u32>> {
    let failed = |e| Error::os("open", path.display(), e);
    let options = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let Some(file) = absent_is_none(options).map_err(failed)? else { return Ok(None) };
    let mut text = String::new();
    let read = file.take(64).read_to_string(&mut text);
    Ok(read.ok().and_then(|_| text.trim().parse().ok()).filter(|number| *number < COUNT))
}

/// In place and by one write, so that a crash leaves no second file; not flushed, for a power cut only makes one come again
/// sooner.
fn write_last(path: &Path, number: u32) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let file: File = options.open(path).map_err(|e| Error::os("open", path.display(), e))?;
    file.write_all_at(format!("{number:010}\n").as_bytes(), 0)
        .map_err(|e| Error::os("write", path.display(), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(ranges: &[(u32, u32)]) -> Vec<IdRange> {
        ranges
            .iter()
            .map(|(outside, length)| IdRange { inside: 0, outside: *outside, length: *length })
            .collect()
    }

    #[test]
    fn the_next_free_range_is_taken() {
        let last = FIRST + (COUNT - 1) * LENGTH;
        for (start, ranges, expected) in [
            (0, vec![], Some(0)),
            (5, vec![], Some(5)),
            (COUNT + 7, vec![], Some(7)),
            (5, vec![(FIRST + 5 * LENGTH, 1)], Some(6)),
            (5, vec![(FIRST + 5 * LENGTH - 1, 1)], Some(5)),
            (5, vec![(FIRST + 5 * LENGTH + 9, LENGTH)], Some(7)),
            (COUNT - 1, vec![(last, LENGTH)], Some(0)),
            (0, vec![(0, FIRST)], Some(0)),
            (0, vec![(0, FIRST + 1)], Some(1)),
            (0, vec![(100_000, 65_536), (0, 0), (1000, 0)], Some(0)),
            (9, vec![(0, u32::MAX)], None),
            (9, vec![(u32::MAX, u32::MAX)], Some(9)),
            (9, vec![(FIRST, (COUNT - 1) * LENGTH)], Some(COUNT - 1)),
        ] {
            assert_eq!(first_free(start, &taken(&ranges)), expected, "{start} {ranges:?}");
        }
        assert_eq!(last + LENGTH, 2_147_352_576);
    }

    #[test]
    fn what_is_given_to_others_is_read() {
        let text = "alice:100000:65536\n1001:1879048192:65536\n# comment\nbob:x:1\nbob:1:\n\n eve:5:6 \n";
        assert_eq!(subordinate(text), taken(&[(100_000, 65_536), (FIRST, 65_536), (5, 6)]));
    }
}
