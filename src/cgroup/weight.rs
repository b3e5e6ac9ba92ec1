//! The share that a group gets of what does not suffice for all (`Documentation/admin-guide/cgroup-v2.rst`, "Weights").

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// v1's `cpu.shares` of a group of weight 100.
const SHARES_PER_HUNDRED: u64 = 1024;

/// A weight from 1 to `MOST`; a group has 100 if nobody says anything. It counts only while there is too little: two busy groups of
/// weights 100 and 300 get a quarter and three quarters.
///
/// ```
/// use docklet::cgroup::{CpuWeight, IoWeight};
/// assert_eq!(CpuWeight::new(300)?.get(), 300);
/// assert_eq!(CpuWeight::default().get(), 100);
/// assert!(CpuWeight::new(0).is_err() && IoWeight::new(1001).is_err());
/// # Ok::<(), docklet::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Weight<const MOST: u64>(u64);

/// The share of the processors.
///
/// v1 has shares instead (`cpu.shares`, 1024 if nobody says anything). The scheduler has one scale for both, and the kernel itself
/// converts with `shares = weight × 1024 / 100`, rounded, which is also what systemd does (runc's curve is
/// another one): so a weight means the same in both versions, and it is exact in both directions.
pub type CpuWeight = Weight<10_000>;

/// The share of a disk whose scheduler is BFQ (`Documentation/block/bfq-iosched.rst`).
pub type IoWeight = Weight<1_000>;

impl<const MOST: u64> Weight<MOST> {
    /// # Errors
    /// [`Error::Invalid`] unless `weight` is from 1 to `MOST`.
    pub fn new(weight: u64) -> Result<Self> {
        if (1..=MOST).contains(&weight) {
            return Ok(Self(weight));
        }
        let rule = format!("must be 1 to {MOST}; a group has 100 by itself");
        Err(Error::invalid("weight", weight.to_string(), rule))
    }

    /// The weight.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

impl CpuWeight {
    /// What v1 has in `cpu.shares` for it.
    pub(super) fn shares(self) -> u64 {
        (self.0 * SHARES_PER_HUNDRED + 50) / 100
    }

    /// The nearest weight to `cpu.shares`.
    pub(crate) fn from_shares(shares: u64) -> Self {
        let weight = shares.saturating_mul(100).saturating_add(SHARES_PER_HUNDRED / 2) / SHARES_PER_HUNDRED;
        Self(weight.clamp(1, 10_000))
    }
}

impl<const MOST: u64> Default for Weight<MOST> {
    fn default() -> Self {
        Self(100)
    }
}

impl<const MOST: u64> fmt::Display for Weight<MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<const MOST: u64> TryFrom<u64> for Weight<MOST> {
    type Error = Error;

    fn try_from(weight: u64) -> Result<Self> {
        Self::new(weight)
    }
}

impl<const MOST: u64> From<Weight<MOST>> for u64 {
    fn from(weight: Weight<MOST>) -> Self {
        weight.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_survives_as_shares() {
        for weight in 1..=10_000 {
            let weight = CpuWeight::new(weight).unwrap();
            assert_eq!(CpuWeight::from_shares(weight.shares()), weight);
            assert!((2..=262_144).contains(&weight.shares()), "{weight}");
        }
        assert_eq!(CpuWeight::default().shares(), 1024);
        for (shares, weight) in [(2, 1), (262_144, 10_000), (0, 1), (u64::MAX, 10_000)] {
            assert_eq!(CpuWeight::from_shares(shares).get(), weight, "{shares}");
        }
    }

    #[test]
    fn others_are_refused() {
        for weight in [0, 10_001] {
            let message = CpuWeight::new(weight).unwrap_err().to_string();
            assert!(message.contains("must be 1 to 10000"), "{message}");
        }
        for weight in [0, 1_001] {
            let message = IoWeight::new(weight).unwrap_err().to_string();
            assert!(message.contains("must be 1 to 1000;"), "{message}");
        }
        assert_eq!(serde_json::from_str::<CpuWeight>("7").unwrap().get(), 7);
        assert!(serde_json::from_str::<CpuWeight>("0").is_err());
    }
}
