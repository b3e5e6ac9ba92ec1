//! Sizes of huge pages (`Documentation/admin-guide/mm/hugetlbpage.rst`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A size of huge pages, as control groups write it: `2MB`, `1GB`, `64KB`.
///
/// ```
/// use docklet::cgroup::HugePageSize;
/// let size: HugePageSize = "2MB".parse()?;
/// assert_eq!(size.bytes(), 2 << 20);
/// assert_eq!(size.to_string(), "2MB");
/// # Ok::<(), docklet::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HugePageSize(u64);

impl HugePageSize {
    /// # Errors
    /// [`Error::Invalid`] unless `bytes` is a power of two from 8 KiB to 16 GiB.
    pub fn new(bytes: u64) -> Result<Self> {
        if bytes.is_power_of_two() && (8 << 10..=16 << 30).contains(&bytes) {
            return Ok(Self(bytes));
        }
        Err(invalid(&bytes.to_string()))
    }

    /// How many bytes one page has.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// As `/sys/kernel/mm/hugepages` calls it.
    pub(super) fn directory(self) -> String {
        format!("hugepages-{}kB", self.0 >> 10)
    }

    /// From what `/sys/kernel/mm/hugepages` calls it.
    pub(super) fn from_directory(name: &str) -> Option<Self> {
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Self::new(kib.checked_mul(1024)?).ok()
    }
}

fn invalid(text: &str) -> Error {
    Error::invalid(
        "huge page size",
        text,
        "must be a power of two from 8KB to 16GB, as the kernel writes it: 2MB, 1GB",
    )
}

impl fmt::Display for HugePageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 30 => write!(f, "{}GB", bytes >> 30),
            bytes if bytes >= 1 << 20 => write!(f, "{}MB", bytes >> 20),
            bytes => write!(f, "{}KB", bytes >> 10),
        }
    }
}

impl FromStr for HugePageSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let shifts = [("KB", 10), ("MB", 20), ("GB", 30)];
        let parsed = shifts.iter().find_map(|(unit, shift)| {
            let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
            number.checked_mul(1 << shift)
        });
        // Only one way to write each: what is printed.
        match parsed.map(Self::new) {
            Some(Ok(size)) if size.to_string() == text => Ok(size),
            _ => Err(invalid(text)),
        }
    }
}

impl TryFrom<String> for HugePageSize {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<HugePageSize> for String {
    fn from(size: HugePageSize) -> Self {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_one_way() {
        for text in ["8KB", "64KB", "2MB", "32MB", "1GB", "16GB"] {
            let size: HugePageSize = text.parse().unwrap();
            assert_eq!(size.to_string(), text);
            assert_eq!(HugePageSize::from_directory(&size.directory()), Some(size));
        }
        for bad in [
            "",
            "2",
            "2M",
            "2mb",
            "3MB",
            "1024KB",
            "2048KB",
            "32GB",
            "+2MB",
            "02MB",
            "MB",
            "99999999999999GB",
        ] {
            assert!(bad.parse::<HugePageSize>().is_err(), "{bad:?}");
        }
    }
}
