//! What holds of both pools whatever is asked of them in whatever order: tried with random programs against plain sets.

use std::collections::BTreeSet;
use std::iter;

use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::block::Block;
use super::family::{Family, number};
use super::{AddressPool, RangePool, address_pool};
use crate::net::Subnet;

/// A pool as it is after it was written and read.
fn stored<P: Serialize + DeserializeOwned>(pool: &P) -> P {
    serde_json::from_str(&serde_json::to_string(pool).unwrap()).unwrap()
}

/// Whether a range of `prefix_len` fits beside `taken`, by trying each.
fn fits(parent: Block, taken: &[Subnet], prefix_len: u8) -> bool {
    let size = 1_u128 << (128 - prefix_len);
    let mut places = (0..=(parent.last() - parent.first()) / size).map(|n| parent.first() + n * size);
    places.any(|at| !taken.iter().any(|t| Block::from(*t).overlaps(Block::around(at, prefix_len))))
}

proptest! {
    #[test]
    fn ranges_never_overlap_and_all_come_back(
        v6: bool, steps in prop::collection::vec((0_u8..6, 0_u8..=8, any::<u8>()), 0..120),
    ) {
        let parent: Subnet = if v6 { "fd00::/118" } else { "10.0.0.0/22" }.parse().unwrap();
        let mut pool = RangePool::new(parent);
        let mut taken: Vec<Subnet> = Vec::new();
        for (step, longer, place) in steps {
            let len = parent.net().prefix_len() + longer;
            let block = Block::from(parent);
            let bits = block.prefix_len() + longer;
            let at = Block::around(block.first() + 4 * u128::from(place), bits).subnet(Family::of(parent.net().addr())).unwrap();
            match step {
                0..=2 => match pool.take(len) {
                    Ok(range) => {
                        prop_assert_eq!(range.net().prefix_len(), len);
                        prop_assert!(parent.net().contains(&range.net()));
                        prop_assert!(!taken.iter().any(|t| Block::from(*t).overlaps(range.into())));
                        taken.push(range);
                    }
                    Err(_) => prop_assert!(!fits(block, &taken, bits)),
                },
                3 => {
                    let free = !taken.iter().any(|t| Block::from(*t).overlaps(at.into()));
                    prop_assert_eq!(pool.take_exactly(at).is_ok(), free);
                    taken.extend(free.then_some(at));
                }
                _ => {
                    let known = taken.iter().position(|t| *t == at || step == 4);
                    let range = known.map_or(at, |n| taken.swap_remove(n));
                    prop_assert_eq!(pool.release(range).is_ok(), known.is_some());
                    pool.release(range).unwrap_err();
                }
            }
            taken.sort_unstable();
            prop_assert_eq!(&pool.taken().collect::<Vec<_>>(), &taken);
            if place % 16 == 0 {
                prop_assert_eq!(&stored(&pool), &pool);
            }
        }
        for range in taken {
            pool.release(range).unwrap();
        }
        pool.take_exactly(parent).unwrap(); // which ends all rest
        pool.release(parent).unwrap();
        let mut fresh = RangePool::new(parent);
        fresh.take_exactly(parent).unwrap();
        fresh.release(parent).unwrap();
        prop_assert_eq!(pool, fresh);
    }

    /// Against three sets of addresses: what comes next is said by the rule alone.
    #[test]
    fn nothing_is_given_twice_and_the_last_released_is_last(
        v6: bool, steps in prop::collection::vec((0_u8..8, any::<usize>()), 0..1200),
    ) {
        let (subnet, gateway) = if v6 { ("fd00::/119", "fd00::3") } else { ("10.0.0.0/23", "10.0.0.3") };
        let mut pool = AddressPool::new(subnet.parse().unwrap(), gateway.parse().unwrap()).unwrap();
        let family = Family::of(pool.gateway());
        let mut full = pool.clone();
        let mut free: BTreeSet<u128> = iter::from_fn(|| full.take().ok()).map(number).collect();
        let all: Vec<u128> = free.iter().copied().collect();
        prop_assert_eq!(all.len(), if v6 { 510 } else { 509 });
        let (mut taken, mut resting) = (BTreeSet::new(), Vec::new());
        for (step, any) in steps {
            let any = all[any % all.len()];
            match step {
                0..=3 => {
                    let next = free.pop_first().or_else(|| (!resting.is_empty()).then(|| resting.remove(0)));
                    prop_assert_eq!(pool.take().ok().map(number), next);
                    taken.extend(next);
                }
                4 => {
                    prop_assert_eq!(pool.take_exactly(family.address(any)).is_ok(), taken.insert(any));
                    free.remove(&any);
                    resting.retain(|n| *n != any);
                }
                _ => {
                    // Mostly one that is taken.
                    let one = taken.range(any..).next().copied().unwrap_or(any);
                    prop_assert_eq!(pool.release(family.address(one)).is_ok(), taken.contains(&one));
                    pool.release(family.address(one)).unwrap_err();
                    resting.extend(taken.take(&one));
                    free.extend(resting.drain(..resting.len().saturating_sub(address_pool::RESTING)));
                }
            }
        }
        let given: BTreeSet<_> = pool.taken().map(number).collect();
        prop_assert_eq!(&given, &taken);
        prop_assert_eq!(&stored(&pool), &pool);
        for number in taken {
            pool.release(family.address(number)).unwrap();
        }
        let mut fresh = AddressPool::new(pool.subnet(), pool.gateway()).unwrap();
        for _ in 0..all.len() {
            pool.take().unwrap();
            fresh.take().unwrap();
        }
        prop_assert_eq!(pool, fresh);
    }
}
