//! Processors by their numbers (`man 7 cpuset`, "List format").

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The most processors a kernel can be built for.
const MOST_CPUS: u32 = 8_192;

/// Processors by their numbers, one at least. As text, and in JSON: `0-3,8`.
///
/// ```
/// use docklet::cgroup::CpuSet;
/// let cpus: CpuSet = "3,0-1".parse()?;
/// assert_eq!(cpus.to_string(), "0-1,3");
/// assert_eq!(cpus.numbers().count(), 3);
/// # Ok::<(), docklet::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(BTreeSet<u32>);

impl CpuSet {
    /// # Errors
    /// [`Error::Invalid`] if there is none, or one from 8192 on.
    pub fn new(numbers: impl IntoIterator<Item = u32>) -> Result<Self> {
        let numbers: BTreeSet<_> = numbers.into_iter().collect();
        match numbers.last() {
            Some(last) if *last < MOST_CPUS => Ok(Self(numbers)),
            last => Err(invalid(&last.map(u32::to_string).unwrap_or_default())),
        }
    }

    /// The numbers, rising.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    /// Whether all of them are in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Those in either.
    pub(super) fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }
}

fn invalid(text: &str) -> Error {
    Error::invalid("processors", text, "must be numbers and ranges from 0 to 8191, one at least: 0-3,8")
}

impl FromStr for CpuSet {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |part: &str| -> Result<u32> {
            let plain = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            let number = plain.then(|| part.parse().ok()).flatten();
            number.filter(|number| *number < MOST_CPUS).ok_or_else(|| invalid(text))
        };
        let mut numbers = BTreeSet::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(invalid(text));
            }
            numbers.extend(first..=last);
        }
        Self::new(numbers)
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbers = self.numbers().peekable();
        let mut separator = "";
        while let Some(first) = numbers.next() {
            let mut last = first;
            while let Some(next) = numbers.next_if_eq(&(last + 1)) {
                last = next;
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl TryFrom<String> for CpuSet {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<CpuSet> for String {
    fn from(cpus: CpuSet) -> Self {
        cpus.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_prints_them() {
        for (text, expected) in
            [("0", "0"), ("0-3,8", "0-3,8"), ("1,0", "0-1"), ("5,5,7-7", "5,7"), ("0-8191", "0-8191")]
        {
            assert_eq!(text.parse::<CpuSet>().unwrap().to_string(), expected, "{text}");
        }
        for bad in ["", ",", "1-", "-1", "3-1", "0,", "8192", "0-8192", "+1", " 1", "1\n", "a", "99999999999"]
        {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad:?}");
        }
        assert!(CpuSet::new([]).is_err());
        assert!(CpuSet::new([8192]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read(numbers in proptest::collection::btree_set(0_u32..200, 1..40)) {
            let cpus = CpuSet::new(numbers).unwrap();
            prop_assert_eq!(cpus.to_string().parse::<CpuSet>().unwrap(), cpus);
        }
    }
}
