//! Sets of numbers as runs: neighbours are one entry, however many they are. For addresses as in RFC 791 and RFC 4291.

use std::collections::BTreeMap;

/// A set of numbers. What it takes in memory goes by the number of its gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Runs {
    /// From the first number of each run to its last. No two runs touch.
    runs: BTreeMap<u128, u128>,
}

impl Runs {
    /// Whether any number from `first` to `last` is in the set.
    pub(super) fn overlaps(&self, first: u128, last: u128) -> bool {
        // Of the runs that begin in time, the last one reaches furthest.
        self.runs.range(..=last).next_back().is_some_and(|(_, end)| *end >= first)
    }

    pub(super) fn contains(&self, number: u128) -> bool {
        self.overlaps(number, number)
    }

    /// Adds the numbers from `first` to `last`, if none of them is in the set. Tells whether it did.
    pub(super) fn insert(&mut self, first: u128, last: u128) -> bool {
        // One search finds both neighbours: the run that begins right behind, and the last one before.
        let mut back = self.runs.range_mut(..=last.saturating_add(1));
        let mut before = back.next_back();
        let mut behind = None;
        if let Some((start, end)) = before.take_if(|(start, _)| **start > last) {
            behind = Some((*start, *end));
            before = back.next_back();
        }
        let reach = behind.map_or(last, |(_, end)| end);
        match before {
            Some((_, end)) if *end >= first => return false,
            Some((_, end)) if *end + 1 == first => {
                *end = reach;
                if let Some((start, _)) = behind {
                    self.runs.remove(&start);
                }
            }
            _ => {
                if let Some((start, _)) = behind {
                    self.runs.remove(&start);
                }
                self.runs.insert(first, reach);
            }
        }
        true
    }

    /// Takes `number` out of the set. Tells whether it was in.
    pub(super) fn remove(&mut self, number: u128) -> bool {
        let found = self.runs.range_mut(..=number).next_back().filter(|(_, end)| **end >= number);
        let Some((&first, end)) = found else { return false };
        let last = *end;
        if first == number {
            self.runs.remove(&first);
        } else {
            *end = number - 1;
        }
        if number < last {
            self.runs.insert(number + 1, last);
        }
        true
    }

    /// The least number from `from` on that is not in the set.
    pub(super) fn first_gap(&self, from: u128) -> Option<u128> {
        match self.runs.range(..=from).next_back() {
            Some((_, end)) if *end >= from => end.checked_add(1),
            _ => Some(from),
        }
    }

    /// The runs, in order: first and last number of each.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u128, u128)> {
        self.runs.iter().map(|(first, last)| (*first, *last))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_greatest_number_has_nothing_behind_it() {
        let mut runs = Runs::default();
        assert!(runs.insert(u128::MAX - 1, u128::MAX));
        assert_eq!(runs.first_gap(u128::MAX - 1), None);
        assert!(runs.remove(u128::MAX) && !runs.remove(u128::MAX));
        assert_eq!(runs.first_gap(u128::MAX - 1), Some(u128::MAX));
    }

    proptest! {
        #[test]
        fn runs_are_a_set_of_numbers(steps in prop::collection::vec((0_u128..40, 0_u128..4, any::<bool>()), 0..80)) {
            let (mut runs, mut model) = (Runs::default(), BTreeSet::new());
            for (number, more, insert) in steps {
                if insert {
                    let free = (number..=number + more).all(|n| !model.contains(&n));
                    prop_assert_eq!(runs.overlaps(number, number + more), !free);
                    prop_assert_eq!(runs.insert(number, number + more), free);
                    if free {
                        model.extend(number..=number + more);
                    }
                } else {
                    prop_assert_eq!(runs.remove(number), model.remove(&number));
                }
                prop_assert_eq!(runs.contains(number), model.contains(&number));
                prop_assert_eq!(runs.first_gap(number), (number..).find(|n| !model.contains(n)));
                let all: BTreeSet<_> = runs.iter().flat_map(|(first, last)| first..=last).collect();
                prop_assert_eq!(&all, &model);
                let ends: Vec<_> = runs.iter().collect();
                prop_assert!(ends.windows(2).all(|two| two[0].1 + 1 < two[1].0), "runs touch: {:?}", ends);
            }
        }
    }
}
