//! CPU bandwidth: so much time in each period (`Documentation/scheduler/sched-bwc.rst`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limit::Limit;
use crate::error::{Error, Result};

/// The kernel's least quota and least period.
const LEAST_US: u64 = 1_000;
/// The kernel's longest period.
const LONGEST_PERIOD_US: u64 = 1_000_000;
/// The kernel's own period.
const DEFAULT_PERIOD_US: u64 = 100_000;
/// The most processors a kernel can be built for.
const MOST_CORES: u64 = 8_192;
/// A share of one core beneath one part in this many crawls. 1/20 of the default period is 5 ms, the slice in which
/// the kernel hands out quota (`sched_cfs_bandwidth_slice_us`): with less, every task stops for most of each period
/// after its first few instructions, and starting a program takes seconds.
const CRAWL_PART: u64 = 20;

/// How much CPU time a container may use: `quota` in every `period`.
///
/// The kernel takes a quota from 1 ms and a period from 1 ms to 1 s. A share below 0.05 cores makes a container crawl
/// and is refused, unless it is asked for with [`CpuQuota::crawling`] (in JSON `"allow_crawling": true`).
/// More cores than the machine has are accepted: such a quota never binds.
///
/// ```
/// use docklet::cgroup::CpuQuota;
/// let half = CpuQuota::cores(0.5)?;
/// assert_eq!(serde_json::to_string(&half).unwrap(), r#"{"quota_us":50000,"period_us":100000}"#);
/// assert!(CpuQuota::cores(0.0).is_err());
/// # Ok::<(), docklet::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Fields", into = "Fields")]
pub struct CpuQuota {
    quota_us: Limit,
    period_us: u64,
    burst_us: u64,
}

/// As it stands in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `quota_us`")]
struct Fields {
    quota_us: Limit,
    #[serde(default = "default_period")]
    period_us: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    burst_us: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    allow_crawling: bool,
}

fn default_period() -> u64 {
    DEFAULT_PERIOD_US
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl CpuQuota {
    /// As much as `cores` processors, in the kernel's period of 100 ms.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `cores` is not a number, below 0.05 or above 8192.
    pub fn cores(cores: f64) -> Result<Self> {
        let period = Duration::from_micros(DEFAULT_PERIOD_US);
        let quota = Duration::try_from_secs_f64(cores * period.as_secs_f64());
        let quota = quota.ok().filter(|_| cores > 0.0).ok_or_else(|| {
            Error::invalid(
                "cpu quota",
                format!("{cores} cores"),
                "must be a number of cores from 0.05 to 8192",
            )
        })?;
        // A microsecond is the kernel's unit: the nearest one.
        Self::new(quota.saturating_add(Duration::from_nanos(500)), period)
    }

    /// `quota` of CPU time in each `period`, both in whole microseconds (a rest is dropped).
    ///
    /// # Errors
    /// [`Error::Invalid`] if either is outside what the kernel takes, or the share is below 0.05 cores.
    pub fn new(quota: Duration, period: Duration) -> Result<Self> {
        Self::checked(Limit::At(whole_micros(quota)), whole_micros(period), false)
    }

    /// As [`CpuQuota::new`], but takes every share that the kernel takes, however slow the container will be.
    ///
    /// # Errors
    /// [`Error::Invalid`] if either is outside what the kernel takes.
    pub fn crawling(quota: Duration, period: Duration) -> Result<Self> {
        Self::checked(Limit::At(whole_micros(quota)), whole_micros(period), true)
    }

    /// The same quota, of which up to `burst` that was not used in earlier periods may be used in a later one: over time it
    /// stays the same share, and what is mostly idle answers faster. Default: none. Needs Linux 5.14 (`cpu.max.burst`, v1
    /// `cpu.cfs_burst_us`).
    ///
    /// # Errors
    /// [`Error::Invalid`] if `burst` is more than the quota, which the kernel refuses, or there is no quota.
    pub fn with_burst(self, burst: Duration) -> Result<Self> {
        let burst_us = whole_micros(burst);
        match self.quota_us {
            _ if burst_us == 0 => {}
            Limit::At(quota) if burst_us <= quota => {}
            _ => {
                let rule = "must not be more than the quota, which must be a number";
                return Err(Error::invalid("cpu burst", format!("{burst_us} microseconds"), rule));
            }
        }
        Ok(Self { burst_us, ..self })
    }

    /// No bound: takes a quota away again.
    #[must_use]
    pub fn unlimited() -> Self {
        Self { quota_us: Limit::Max, period_us: DEFAULT_PERIOD_US, burst_us: 0 }
    }

    /// What may be saved up for later periods. Zero: nothing.
    #[must_use]
    pub fn burst(self) -> Duration {
        Duration::from_micros(self.burst_us)
    }

    /// The CPU time in each period, or `None` if there is no bound.
    #[must_use]
    pub fn quota(self) -> Option<Duration> {
        match self.quota_us {
            Limit::Max => None,
            Limit::At(us) => Some(Duration::from_micros(us)),
        }
    }

    /// The period.
    #[must_use]
    pub fn period(self) -> Duration {
        Duration::from_micros(self.period_us)
    }

    /// The share in cores, or `None` if there is no bound.
    #[must_use]
    pub fn as_cores(self) -> Option<f64> {
        Some(self.quota()?.as_secs_f64() / self.period().as_secs_f64())
    }

    pub(super) fn quota_us(self) -> Limit {
        self.quota_us
    }

    pub(super) fn period_us(self) -> u64 {
        self.period_us
    }

    pub(super) fn burst_us(self) -> u64 {
        self.burst_us
    }

    /// Checks every rule but, with `crawl`, the one about crawling.
    pub(super) fn checked(quota_us: Limit, period_us: u64, crawl: bool) -> Result<Self> {
        let invalid = |rule: &str| {
            let shown = format!("{quota_us} of {period_us} microseconds");
            Err(Error::invalid("cpu quota", shown, rule))
        };
        if !(LEAST_US..=LONGEST_PERIOD_US).contains(&period_us) {
            return invalid("the kernel takes a period from 1 ms to 1 s");
        }
        let value = Self { quota_us, period_us, burst_us: 0 };
        let Limit::At(quota) = quota_us else { return Ok(value) };
        if quota < LEAST_US {
            return invalid("the kernel takes a quota from 1 ms per period");
        }
        if quota / MOST_CORES >= period_us {
            return invalid("must be less than 8192 cores; say \"max\" for no bound");
        }
        if !crawl && value.crawls() {
            return invalid(
                "below 0.05 cores a container crawls (its processes stand still for most of each period); \
                 if that is meant, allow it: CpuQuota::crawling, or \"allow_crawling\": true",
            );
        }
        Ok(value)
    }

    fn crawls(self) -> bool {
        matches!(self.quota_us, Limit::At(quota) if quota.saturating_mul(CRAWL_PART) < self.period_us)
    }
}

fn whole_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl TryFrom<Fields> for CpuQuota {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self> {
        Self::checked(fields.quota_us, fields.period_us, fields.allow_crawling)?
            .with_burst(Duration::from_micros(fields.burst_us))
    }
}

impl From<CpuQuota> for Fields {
    fn from(quota: CpuQuota) -> Self {
        Self {
            quota_us: quota.quota_us,
            period_us: quota.period_us,
            burst_us: quota.burst_us,
            allow_crawling: quota.crawls(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cores_become_the_nearest_microsecond() {
        for (cores, us) in
            [(0.05, 5_000), (0.5, 50_000), (1.0, 100_000), (1.333_333, 133_333), (8191.0, 819_100_000)]
        {
            assert_eq!(CpuQuota::cores(cores).unwrap().quota(), Some(Duration::from_micros(us)), "{cores}");
        }
    }

    #[test]
    fn bad_quotas_are_refused_with_the_rule() {
        for cores in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            let message = CpuQuota::cores(cores).unwrap_err().to_string();
            assert!(message.contains("must be a number of cores from 0.05 to 8192"), "{cores}: {message}");
        }
        let message = CpuQuota::cores(8192.0).unwrap_err().to_string();
        assert!(message.contains("must be less than 8192 cores"), "{message}");
        assert_eq!(
            CpuQuota::cores(0.02).unwrap_err().to_string(),
            "invalid cpu quota \"2000 of 100000 microseconds\": below 0.05 cores a container crawls (its processes \
             stand still for most of each period); if that is meant, allow it: CpuQuota::crawling, or \
             \"allow_crawling\": true"
        );
        let ms = Duration::from_millis;
        CpuQuota::crawling(ms(1), ms(1000)).unwrap();
        for (quota, period, rule) in [
            (Duration::ZERO, ms(100), "a quota from 1 ms"),
            (Duration::from_micros(999), ms(10), "a quota from 1 ms"),
            (ms(1), Duration::ZERO, "a period from 1 ms to 1 s"),
            (ms(1), Duration::from_micros(999), "a period from 1 ms to 1 s"),
            (ms(100), Duration::from_micros(1_000_001), "a period from 1 ms to 1 s"),
            (Duration::MAX, ms(100), "less than 8192 cores"),
            (ms(100), Duration::MAX, "a period from 1 ms to 1 s"),
        ] {
            let message = CpuQuota::crawling(quota, period).unwrap_err().to_string();
            assert!(message.contains(rule), "{message}");
        }
    }

    #[test]
    fn a_burst_is_no_more_than_the_quota() {
        let ms = Duration::from_millis;
        let half = CpuQuota::cores(0.5).unwrap();
        assert_eq!(half.burst(), Duration::ZERO);
        let with = half.with_burst(ms(50)).unwrap();
        assert_eq!(with.burst(), ms(50));
        let text = serde_json::to_string(&with).unwrap();
        assert_eq!(text, r#"{"quota_us":50000,"period_us":100000,"burst_us":50000}"#);
        assert_eq!(serde_json::from_str::<CpuQuota>(&text).unwrap(), with);
        for refused in [half.with_burst(ms(51)), CpuQuota::unlimited().with_burst(ms(1))] {
            assert!(refused.unwrap_err().to_string().contains("must not be more than the quota"));
        }
        CpuQuota::unlimited().with_burst(Duration::ZERO).unwrap();
    }

    proptest! {
        #[test]
        fn what_is_accepted_survives_json(quota in 0_u64..2_000_000_000, period in 0_u64..1_100_000, crawl: bool) {
            if let Ok(value) = CpuQuota::checked(Limit::At(quota), period, crawl) {
                let text = serde_json::to_string(&value).unwrap();
                prop_assert_eq!(serde_json::from_str::<CpuQuota>(&text).unwrap(), value);
                prop_assert_eq!(value.quota(), Some(Duration::from_micros(quota)));
                prop_assert_eq!(value.period(), Duration::from_micros(period));
            }
        }

        #[test]
        fn every_number_of_cores_is_kept_or_refused(cores: f64) {
            if let Ok(value) = CpuQuota::cores(cores) {
                prop_assert!((value.as_cores().unwrap() - cores).abs() <= 0.000_006);
            }
        }

        #[test]
        fn cores_in_range_are_kept(cores in 0.05_f64..8191.9) {
            let value = CpuQuota::cores(cores).unwrap();
            prop_assert!((value.as_cores().unwrap() - cores).abs() <= 0.000_006);
        }
    }
}
