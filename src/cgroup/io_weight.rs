//! The share of a disk that a group gets when it does not suffice for all (`Documentation/block/bfq-iosched.rst`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A weight from 1 to 1000; a group has 100 if nobody says anything. It counts on disks whose scheduler is BFQ, and only while they are busy.
///
/// ```
/// use docklet::cgroup::IoWeight;
/// assert_eq!(IoWeight::new(400)?.get(), 400);
/// assert!(IoWeight::new(1001).is_err());
/// # Ok::<(), docklet::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct IoWeight(u64);

impl IoWeight {
    /// # Errors
    /// [`Error::Invalid`] unless `weight` is from 1 to 1000, as BFQ takes it.
    pub fn new(weight: u64) -> Result<Self> {
        if (1..=1_000).contains(&weight) {
            return Ok(Self(weight));
        }
        Err(Error::invalid("io weight", weight.to_string(), "must be 1 to 1000; a group has 100 by itself"))
    }

    /// The weight.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl Default for IoWeight {
    fn default() -> Self {
        Self(100)
    }
}

impl fmt::Display for IoWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<u64> for IoWeight {
    type Error = Error;

    fn try_from(weight: u64) -> Result<Self> {
        Self::new(weight)
    }
}

impl From<IoWeight> for u64 {
    fn from(weight: IoWeight) -> Self {
        weight.0
    }
}
