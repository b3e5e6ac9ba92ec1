//! A large network, shared out as smaller ones (CIDR, RFC 4632) by a buddy system.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::iter;

use serde::{Deserialize, Serialize, Serializer};

use super::block::Block;
use super::family::Family;
use super::free_blocks::FreeBlocks;
use super::{FORMAT, check_format};
use crate::error::{Error, Result};
use crate::net::Subnet;

/// How many released ranges rest.
const RESTING: usize = 16;

/// Gives out networks inside one network, so that no two overlap.
///
/// A network is taken from the smallest free block that has room for it, the lowest of these; what is released is joined
/// with what is free beside it. Of the released ones the last 16 rest: they are given out again when nothing else has
/// room, the one that was released longest ago first.
///
/// In JSON:
///
/// ```
/// # use docklet::net::pool::RangePool;
/// let mut pool = RangePool::new("10.0.0.0/8".parse()?);
/// let (first, _) = (pool.take(24)?, pool.take_exactly("10.9.0.0/16".parse()?)?);
/// pool.release(first)?;
/// assert_eq!(
///     serde_json::to_string(&pool).unwrap(),
///     r#"{"format":1,"parent":"10.0.0.0/8","taken":["10.9.0.0/16"],"resting":["10.0.0.0/24"]}"#
/// );
/// # Ok::<(), docklet::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Stored")]
pub struct RangePool {
    parent: Subnet,
    /// By their first numbers.
    taken: BTreeMap<u128, Subnet>,
    /// Released, the longest ago first. Neither taken nor free.
    resting: VecDeque<Subnet>,
    /// The rest of `parent`.
    free: FreeBlocks,
}

/// As it stands in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    parent: Subnet,
    #[serde(default)]
    taken: Vec<Subnet>,
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    resting: VecDeque<Subnet>,
}

impl RangePool {
    /// A pool in which all of `parent` is free.
    #[must_use]
    pub fn new(parent: Subnet) -> Self {
        let free = FreeBlocks::new(parent.into());
        Self { parent, taken: BTreeMap::new(), resting: VecDeque::new(), free }
    }

    /// The network that all others are taken from.
    #[must_use]
    pub fn parent(&self) -> Subnet {
        self.parent
    }

    /// What is taken, in the order of addresses.
    pub fn taken(&self) -> impl Iterator<Item = Subnet> {
        self.taken.values().copied()
    }

    /// Whether exactly this network is taken.
    #[must_use]
    pub fn is_taken(&self, range: Subnet) -> bool {
        self.taken.get(&Block::from(range).first()) == Some(&range)
    }

    /// Takes a network whose prefix has `prefix_len` bits: 24 for 256 addresses of IPv4.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the prefix is shorter than the parent's, or too long for a [`Subnet`]; [`Error::Busy`] if
    /// nothing that large is left. The pool is as it was then.
    pub fn take(&mut self, prefix_len: u8) -> Result<Subnet> {
        let family = self.family();
        let (shortest, longest) = (self.parent.net().prefix_len(), self.parent.net().max_prefix_len() - 2);
        if !(shortest..=longest).contains(&prefix_len) {
            let rule = format!("must be {shortest} to {longest} in a pool of {}", self.parent);
            return Err(Error::invalid("prefix length", prefix_len.to_string(), rule));
        }
        let bits = prefix_len + family.unused_bits();
        let Some(from) = self.free.best_fit(bits).or_else(|| self.wake_for(bits)) else {
            return Err(Error::Busy {
                what: format!("pool {}", self.parent),
                reason: format!("no range of prefix length {prefix_len} is free"),
            });
        };
        let block = Block::around(from.first(), bits);
        let range = block.subnet(family)?;
        self.free.take(from, block);
        self.taken.insert(block.first(), range);
        Ok(range)
    }

    /// Takes this network and no other.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is not inside the parent; [`Error::Busy`] if it overlaps one that is taken.
    pub fn take_exactly(&mut self, range: Subnet) -> Result<()> {
        self.check_inside(range)?;
        let before = self.last_begun(range.into());
        if let Some(other) = before.filter(|other| Block::from(*other).overlaps(range.into())) {
            let reason = if other == range {
                "it is taken".to_owned()
            } else {
                format!("it overlaps {other}, which is taken")
            };
            return Err(Error::Busy { what: self.what(range), reason });
        }
        while let Some(at) = self.resting.iter().position(|r| Block::from(*r).overlaps(range.into())) {
            self.wake(at);
        }
        self.occupy(range, before);
        self.taken.insert(Block::from(range).first(), range);
        Ok(())
    }

    /// Gives back a network that was taken, as a whole.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not taken, because it was released already, never taken, or is more than was taken at
    /// once; [`Error::Differs`] if it is a part of what was taken; [`Error::Invalid`] if it is not inside the parent.
    pub fn release(&mut self, range: Subnet) -> Result<()> {
        self.check_inside(range)?;
        match self.taken.entry(Block::from(range).first()) {
            Entry::Occupied(found) if *found.get() == range => drop(found.remove()),
            _ => return Err(self.not_taken(range)),
        }
        self.resting.push_back(range);
        if self.resting.len() > RESTING {
            self.wake(0);
        }
        Ok(())
    }

    /// Says what there is instead of `range`.
    fn not_taken(&self, range: Subnet) -> Error {
        match self.last_begun(range.into()) {
            Some(other) if other.net().contains(&range.net()) => Error::Differs {
                what: self.what(range),
                difference: format!("it is a part of {other}, which was taken as a whole"),
            },
            _ => Error::NotFound { what: format!("taken {}", self.what(range)) },
        }
    }

    fn family(&self) -> Family {
        Family::of(self.parent.net().addr())
    }

    fn what(&self, range: Subnet) -> String {
        format!("range {range} of pool {}", self.parent)
    }

    fn check_inside(&self, range: Subnet) -> Result<()> {
        if self.parent.net().contains(&range.net()) {
            return Ok(());
        }
        Err(Error::invalid("range", range.to_string(), format!("must be inside {}", self.parent)))
    }

    /// The last taken network that begins before the end of `block`. If this one does not overlap it, none does.
    fn last_begun(&self, block: Block) -> Option<Subnet> {
        self.taken.range(..=block.last()).next_back().map(|(_, range)| *range)
    }

    /// Makes the resting network at that place free.
    fn wake(&mut self, at: usize) {
        if let Some(range) = self.resting.remove(at) {
            self.free.release(range.into());
        }
    }

    /// Wakes networks until there is a free block with room for `prefix_len`. If there is none then, they rest on.
    fn wake_for(&mut self, prefix_len: u8) -> Option<Block> {
        let before = self.resting.clone();
        while !self.resting.is_empty() {
            self.wake(0);
            let found = self.free.best_fit(prefix_len);
            if found.is_some() {
                return found;
            }
        }
        for range in before {
            self.occupy(range, self.last_begun(range.into()));
            self.resting.push_back(range);
        }
        None
    }

    /// Takes a network out of what is free. It overlaps nothing that is taken or rests; `before` is the last one that is
    /// taken before it.
    fn occupy(&mut self, range: Subnet, before: Option<Subnet>) {
        let wanted = Block::from(range);
        let (mut low, mut high) = (Block::from(self.parent).first(), Block::from(self.parent).last());
        let behind = self.taken.range(wanted.first()..).next().map(|(_, range)| *range);
        for other in before.into_iter().chain(behind).chain(self.resting.iter().copied()) {
            let other = Block::from(other);
            if other.last() < wanted.first() {
                low = low.max(other.last() + 1);
            } else {
                high = high.min(other.first() - 1);
            }
        }
        // Free halves are always joined: the free block around it is the largest that overlaps nothing.
        let parents = iter::successors(Some(wanted), |block| block.whole());
        let from = parents.take_while(|block| low <= block.first() && block.last() <= high).last();
        self.free.take(from.unwrap_or(wanted), wanted);
    }
}

impl Serialize for RangePool {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let taken = self.taken().collect();
        Stored { format: FORMAT, parent: self.parent, taken, resting: self.resting.clone() }
            .serialize(serializer)
    }
}

impl TryFrom<Stored> for RangePool {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self> {
        check_format("range pool", stored.format)?;
        let mut pool = Self::new(stored.parent);
        for range in stored.taken {
            pool.take_exactly(range)?;
        }
        // Taken as well, so that one that is taken, or rests twice, is refused.
        for range in &stored.resting {
            pool.take_exactly(*range)?;
        }
        for range in stored.resting {
            pool.release(range)?;
        }
        Ok(pool)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn net(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn the_smallest_hole_is_used_first() {
        let mut pool = RangePool::new(net("10.0.0.0/16"));
        pool.take_exactly(net("10.0.128.0/24")).unwrap();
        let given = [24, 18, 24, 17, 30].map(|len| pool.take(len).map(|range| range.to_string()).ok());
        let expected = ["10.0.129.0/24", "10.0.192.0/18", "10.0.130.0/24", "10.0.0.0/17", "10.0.131.0/30"];
        assert_eq!(given, expected.map(|text| Some(text.to_owned())));
        assert_eq!(pool.taken().count(), 6);
        let message = pool.take(17).unwrap_err().to_string();
        assert_eq!(message, "pool 10.0.0.0/16 is busy: no range of prefix length 17 is free");
    }

    #[test]
    fn only_what_was_taken_is_released_and_once() {
        let mut pool = RangePool::new(net("fd00::/48"));
        let range = pool.take(56).unwrap();
        pool.take_exactly(net("fd00:0:0:ff00::/64")).unwrap();
        let before = pool.clone();
        let error = pool.release(net("fd00::/64")).unwrap_err();
        assert!(
            matches!(error, Error::Differs { .. }) && error.to_string().contains("a part of fd00::/56"),
            "{error}"
        );
        for never in ["fd00::/48", "fd00:0:0:ff00::/56", "fd00:0:0:100::/56"] {
            let error = pool.release(net(never)).unwrap_err();
            assert!(matches!(error, Error::NotFound { .. }), "{error}");
        }
        for outside in ["fd00::/47", "fd01::/64", "10.0.0.0/24"] {
            assert!(matches!(pool.release(net(outside)).unwrap_err(), Error::Invalid { .. }));
            assert!(matches!(pool.take_exactly(net(outside)).unwrap_err(), Error::Invalid { .. }));
        }
        for overlapping in ["fd00::/56", "fd00::/48", "fd00:0:0:1::/64", "fd00:0:0:8000::/49"] {
            let error = pool.take_exactly(net(overlapping)).unwrap_err();
            assert!(matches!(error, Error::Busy { .. }), "{error}");
        }
        for len in [0, 47, 127, 128, 255] {
            assert!(matches!(pool.take(len).unwrap_err(), Error::Invalid { .. }));
        }
        assert_eq!(pool, before);
        pool.release(range).unwrap();
        let message = pool.release(range).unwrap_err().to_string();
        assert_eq!(message, "taken range fd00::/56 of pool fd00::/48 does not exist");
    }

    #[test]
    fn what_was_released_rests_and_never_fills_the_pool() {
        let mut pool = RangePool::new(net("10.0.0.0/16"));
        let first = pool.take(24).unwrap();
        pool.release(first).unwrap();
        for _ in 0..RESTING {
            let other = pool.take(24).unwrap();
            assert_ne!(other, first);
            pool.release(other).unwrap();
        }
        assert_eq!(pool.take(24).unwrap(), first, "{RESTING} others were released since");
        let all: Vec<_> = (1..256).map(|_| pool.take(24).unwrap()).collect();
        for range in &all[..3] {
            pool.release(*range).unwrap();
        }
        let before = pool.clone();
        pool.take(22).unwrap_err();
        assert_eq!(pool, before, "they rest on after what was in vain");
        assert_eq!(pool.take(24).unwrap(), all[0]);
        pool.take_exactly(all[2]).unwrap();
        assert_eq!(pool.take(24).unwrap(), all[1]);
    }

    #[test]
    fn what_is_read_is_checked() {
        let good = json!({"format": 1, "parent": "10.0.0.0/8", "taken": ["10.1.0.0/16"], "resting": ["10.2.0.0/24"]});
        serde_json::from_value::<RangePool>(good.clone()).unwrap();
        for (field, value, complaint) in [
            ("format", json!(2), "this version reads 1"),
            ("parent", json!("11.0.0.0/8"), "must be inside 11.0.0.0/8"),
            ("parent", json!("10.0.0.1/8"), "bits of a host"),
            ("taken", json!(["10.1.0.0/16", "10.1.0.0/16"]), "it is taken"),
            ("taken", json!(["10.1.0.0/16", "10.1.7.0/24"]), "overlaps 10.1.0.0/16"),
            ("taken", json!(["10.1.7.0/24", "10.1.0.0/16"]), "overlaps 10.1.7.0/24"),
            ("taken", json!(["fd00::/64"]), "must be inside"),
            ("taken", json!(["10.0.0.0/7"]), "must be inside"),
            ("resting", json!(["10.1.0.0/16"]), "it is taken"),
            ("resting", json!(["10.2.0.0/24", "10.2.0.0/24"]), "it is taken"),
            ("owner", json!("me"), "unknown field"),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            let error = serde_json::from_value::<RangePool>(bad).unwrap_err().to_string();
            assert!(error.contains(complaint), "{field}: {error}");
        }
    }
}
