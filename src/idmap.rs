//! Which user and group ids a container's ids are on the host (`man 7 user_namespaces`).
//!
//! A module of its own, since it says the same to storage (who owns the files of a root), to the runtime (who the
//! container's processes are) and to whoever keeps it in a manifest. Users and groups have one map; who holds which
//! range of a host is not recorded here.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The most ranges that the kernel takes (`UID_GID_MAP_MAX_EXTENTS`).
const RANGES_MAX: usize = 340;
/// The kernel takes a map in one write, of less than a page.
const TEXT_MAX: usize = 4095;

/// Ids that follow each other, inside and outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    /// The first id in the container.
    pub inside: u32,
    /// What it is on the host.
    pub outside: u32,
    /// How many ids. At least 1.
    pub length: u32,
}

/// A map of user ids, and the same of group ids, between a container and the host: the ranges of a user namespace.
///
/// It maps the container's root, and no id twice. Source: `man 7 user_namespaces`.
///
/// ```
/// # use docklet::idmap::IdMap;
/// let map = IdMap::new([(0, 100_000, 65_536)])?;
/// assert_eq!(map.outside(33), Some(100_033));
/// assert_eq!(map.inside(100_033), Some(33));
/// assert_eq!(map.inside(0), None, "the host's root is nobody inside");
/// assert_eq!(map.to_string(), "0 100000 65536\n");
/// # Ok::<(), docklet::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Plain", into = "Plain")]
pub struct IdMap {
    /// By their first id inside.
    ranges: Vec<IdRange>,
    host_root: bool,
}

/// How a map is written down.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    ranges: Vec<IdRange>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    host_root: bool,
}

impl From<(u32, u32, u32)> for IdRange {
    /// Inside, outside, length: as a line of `/proc/PID/uid_map`.
    fn from((inside, outside, length): (u32, u32, u32)) -> Self {
        Self { inside, outside, length }
    }
}

impl IdMap {
    /// A map of these ranges, in any order. The host's root is in none of them.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a range is empty or goes beyond the last id (4294967294), two overlap inside or outside,
    /// none has the container's root, one has the host's root, or there are more than the kernel takes.
    pub fn new<R: Into<IdRange>>(ranges: impl IntoIterator<Item = R>) -> Result<Self> {
        Self::check(ranges.into_iter().map(Into::into).collect(), false)
    }

    /// As [`IdMap::new`], but ranges may have the host's root: somebody in the container is root outside, then.
    ///
    /// # Errors
    /// As [`IdMap::new`], but for the host's root.
    pub fn with_host_root<R: Into<IdRange>>(ranges: impl IntoIterator<Item = R>) -> Result<Self> {
        Self::check(ranges.into_iter().map(Into::into).collect(), true)
    }

    fn check(mut ranges: Vec<IdRange>, host_root: bool) -> Result<Self> {
        let invalid = |range: &IdRange, rule: &str| Err(Error::invalid("id map", range.to_string(), rule));
        for range in &ranges {
            if range.length == 0 {
                return invalid(range, "a range must have at least one id");
            }
            if range.inside.checked_add(range.length).is_none()
                || range.outside.checked_add(range.length).is_none()
            {
                return invalid(range, "ids end at 4294967294");
            }
            if range.outside == 0 && !host_root {
                return invalid(range, "must not map the host's root, unless made so by `with_host_root`");
            }
        }
        for by in [|range: &IdRange| range.outside, |range: &IdRange| range.inside] {
            ranges.sort_by_key(by);
            if let Some(pair) = ranges.windows(2).find(|pair| by(&pair[0]) + pair[0].length > by(&pair[1])) {
                return invalid(&pair[1], "ranges must not overlap, inside or outside");
            }
        }
        let map = Self { ranges, host_root };
        if map.outside(0).is_none() {
            return Err(Error::invalid("id map", map.to_string(), "must map the container's root (0)"));
        }
        let length = map.to_string().len();
        if map.ranges.len() > RANGES_MAX || length > TEXT_MAX {
            let value = format!("{} ranges, {length} bytes", map.ranges.len());
            let rule = format!("the kernel takes at most {RANGES_MAX} ranges and {TEXT_MAX} bytes of text");
            return Err(Error::invalid("id map", value, rule));
        }
        Ok(map)
    }

    /// The ranges, by their first id inside.
    #[must_use]
    pub fn ranges(&self) -> &[IdRange] {
        &self.ranges
    }

    /// What the container's `id` is on the host. `None` if it has no such id.
    #[must_use]
    pub fn outside(&self, id: u32) -> Option<u32> {
        self.ranges.iter().find_map(|range| moved(id, range.inside, range.outside, range.length))
    }

    /// What the host's `id` is in the container. `None` if it is nobody there.
    #[must_use]
    pub fn inside(&self, id: u32) -> Option<u32> {
        self.ranges.iter().find_map(|range| moved(id, range.outside, range.inside, range.length))
    }

    /// What the container's root is on the host.
    #[must_use]
    pub fn root(&self) -> u32 {
        // Every map has it: `check` asks.
        self.outside(0).unwrap_or(u32::MAX)
    }
}

fn moved(id: u32, from: u32, to: u32, length: u32) -> Option<u32> {
    let offset = id.checked_sub(from)?;
    (offset < length).then(|| to + offset)
}

impl fmt::Display for IdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.inside, self.outside, self.length)
    }
}

/// The lines of `/proc/PID/uid_map` and `gid_map`.
impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ranges.iter().try_for_each(|range| writeln!(f, "{range}"))
    }
}

impl TryFrom<Plain> for IdMap {
    type Error = Error;

    fn try_from(plain: Plain) -> Result<Self> {
        Self::check(plain.ranges, plain.host_root)
    }
}

impl From<IdMap> for Plain {
    fn from(map: IdMap) -> Self {
        Self { ranges: map.ranges, host_root: map.host_root }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_maps_are_refused() {
        for (ranges, rule) in [
            (vec![], "must map the container's root"),
            (vec![(1, 100_000, 10)], "must map the container's root"),
            (vec![(0, 100_000, 0)], "at least one id"),
            (vec![(0, 0, 10)], "must not map the host's root"),
            (vec![(0, 100_000, 10), (5, 200_000, 10)], "must not overlap"),
            (vec![(0, 100_000, 10), (50, 100_009, 10)], "must not overlap"),
            (vec![(0, u32::MAX - 5, 5)], ""),
            (vec![(0, u32::MAX - 5, 6)], "ids end at"),
            (vec![(0, 100_000, u32::MAX)], "ids end at"),
            ((0..341).map(|n| (n, 100_000 + n, 1)).collect(), "at most 340 ranges"),
        ] {
            match IdMap::new(ranges.clone()) {
                Ok(_) => assert_eq!(rule, "", "{ranges:?}"),
                Err(error) => {
                    let message = error.to_string();
                    assert!(!rule.is_empty() && message.contains(rule), "{ranges:?}: {message}");
                }
            }
        }
        IdMap::with_host_root([(0, 0, u32::MAX)]).unwrap();
    }

    #[test]
    fn a_map_is_read_as_it_is_written() {
        for (map, text) in [
            (IdMap::new([(0, 100_000, 10)]), r#"{"ranges":[{"inside":0,"outside":100000,"length":10}]}"#),
            (
                IdMap::with_host_root([(0, 0, 1)]),
                r#"{"ranges":[{"inside":0,"outside":0,"length":1}],"host_root":true}"#,
            ),
        ] {
            let map = map.unwrap();
            assert_eq!(serde_json::to_string(&map).unwrap(), text);
            assert_eq!(serde_json::from_str::<IdMap>(text).unwrap(), map);
        }
        for bad in [
            r#"{"ranges":[]}"#,
            r#"{"ranges":[],"x":1}"#,
            r#"{"ranges":[{"inside":0,"outside":0,"length":1}]}"#,
        ] {
            assert!(serde_json::from_str::<IdMap>(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn ids_come_back(first in 1_u32..1_000_000, id in 0_u32..70_000) {
            let map = IdMap::new([(65_534, first, 1), (0, first + 1, 65_534)]).unwrap();
            proptest::prop_assert_eq!(map.outside(id).is_some(), id < 65_535);
            if let Some(outside) = map.outside(id) {
                proptest::prop_assert_eq!(map.inside(outside), Some(id));
            }
        }
    }
}
