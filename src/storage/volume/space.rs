//! How much a pool may promise.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How much a pool may promise, as a part of what it could hold: the sum of the sizes of all volumes is at most
/// this part of (what is available on its file system + what the volumes hold already). Default: 1.
///
/// Above 1 the host's disk can be full while a volume believes to have room: the programs in it then meet I/O
/// errors instead of "no space left", and the volume becomes read-only. Whatever the ratio, what others store on
/// the same file system afterwards is beyond the pool's control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct ProvisionRatio {
    percent: u32,
}

impl ProvisionRatio {
    /// No more than there is.
    pub const ONE: Self = Self { percent: 100 };

    /// A ratio of `percent` / 100, from 1 to 100 000.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `percent` is not in that range.
    pub fn percent(percent: u32) -> Result<Self> {
        if !(1..=100_000).contains(&percent) {
            return Err(Error::invalid(
                "provision ratio",
                percent.to_string(),
                "must be 1 to 100000 percent",
            ));
        }
        Ok(Self { percent })
    }
}

impl Default for ProvisionRatio {
    fn default() -> Self {
        Self::ONE
    }
}

impl TryFrom<u32> for ProvisionRatio {
    type Error = Error;

    fn try_from(percent: u32) -> Result<Self> {
        Self::percent(percent)
    }
}

impl From<ProvisionRatio> for u32 {
    fn from(ratio: ProvisionRatio) -> Self {
        ratio.percent
    }
}

/// What a pool has and has promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Room {
    /// What its file system still has, in bytes.
    pub(crate) available_bytes: u64,
    /// What the volumes take of the disk, in bytes; of each at most its size.
    pub(crate) held_bytes: u64,
    /// The sum of the volumes' sizes.
    pub(crate) promised_bytes: u64,
}

impl Room {
    /// Whether `size_bytes` more can be promised to `what`.
    pub(crate) fn check(&self, ratio: ProvisionRatio, size_bytes: u64, what: &str) -> Result<()> {
        let capacity = (u128::from(self.available_bytes) + u128::from(self.held_bytes))
            * u128::from(ratio.percent)
            / 100;
        let left = capacity.saturating_sub(u128::from(self.promised_bytes));
        if u128::from(size_bytes) <= left {
            return Ok(());
        }
        let percent = ratio.percent;
        Err(Error::NoSpace {
            what: format!(
                "{what} ({} bytes are free, volumes hold {} of {} promised bytes, the pool's ratio is {percent} %)",
                self.available_bytes, self.held_bytes, self.promised_bytes
            ),
            needed_bytes: size_bytes,
            available_bytes: u64::try_from(left).unwrap_or(u64::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(room: Room, percent: u32) -> u64 {
        let ratio = ProvisionRatio::percent(percent).unwrap();
        match room.check(ratio, u64::MAX, "x").unwrap_err() {
            Error::NoSpace { available_bytes, .. } => {
                room.check(ratio, available_bytes, "x").unwrap();
                room.check(ratio, available_bytes + 1, "x").unwrap_err();
                available_bytes
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn promises_end_where_the_disk_does() {
        let room = |available_bytes, held_bytes, promised_bytes| Room {
            available_bytes,
            held_bytes,
            promised_bytes,
        };
        assert_eq!(left(room(100, 0, 0), 100), 100);
        assert_eq!(left(room(100, 0, 60), 100), 40);
        // Filling a volume changes nothing: what it holds is no longer available, but no longer owed either.
        assert_eq!(left(room(70, 30, 60), 100), 40);
        assert_eq!(left(room(40, 60, 60), 100), 40);
        assert_eq!(left(room(100, 0, 60), 150), 90);
        assert_eq!(left(room(70, 30, 60), 150), 90);
        assert_eq!(left(room(100, 0, 60), 50), 0);
        assert_eq!(left(room(0, 0, 0), 100), 0);
        assert_eq!(left(room(u64::MAX - 2, 0, 0), 100), u64::MAX - 2);
    }

    #[test]
    fn the_error_has_the_numbers() {
        let room = Room { available_bytes: 100, held_bytes: 5, promised_bytes: 60 };
        let message = room.check(ProvisionRatio::ONE, 46, "volume `x`").unwrap_err().to_string();
        assert_eq!(
            message,
            "no room for volume `x` (100 bytes are free, volumes hold 5 of 60 promised bytes, the pool's ratio is \
             100 %): it needs 46 bytes, 45 are available"
        );
    }

    #[test]
    fn ratios_are_checked() {
        for bad in [0, 100_001] {
            ProvisionRatio::percent(bad).unwrap_err();
        }
        assert_eq!(
            serde_json::from_str::<ProvisionRatio>("150").unwrap(),
            ProvisionRatio::percent(150).unwrap()
        );
        assert!(serde_json::from_str::<ProvisionRatio>("0").is_err());
    }
}
