//! What a container may use at most.

use serde::{Deserialize, Serialize};

use super::hierarchy::Hierarchies;
use super::limit::Limit;
use super::quota::CpuQuota;
use super::settings::settings;
use crate::error::{Error, Result};

/// The least memory limit: beneath it not even an init and a shell can be started.
const LEAST_MEMORY_BYTES: u64 = 4 << 20;
/// From here on the kernel itself means "no limit" (`PAGE_COUNTER_MAX`, rounded for pages of 64 KiB).
const ENDLESS_BYTES: u64 = (1 << 63) - (1 << 16);
/// The most processes of any kernel (`PID_MAX_LIMIT`).
const MOST_PIDS: u64 = 4 << 20;

/// Resource limits of one container. A field left `None` keeps the kernel's value: no limit, for a new group.
///
/// Memory and swap are stated separately, as v2 does it: "128 MiB, swap included" is memory of 128 MiB and swap of 0.
/// v1 only knows the sum (`memory.memsw.limit_in_bytes`), which is written there: then the sum is bounded as asked,
/// and what is not used as memory may be swap.
///
/// JSON goes through the same checks as [`CgroupLimits::validate`].
///
/// ```
/// use docklet::cgroup::{CgroupLimits, CpuQuota, Limit};
/// let limits = CgroupLimits {
///     memory_max_bytes: Some(Limit::At(128 << 20)),
///     memory_swap_max_bytes: Some(Limit::At(0)),
///     cpu: Some(CpuQuota::cores(0.5)?),
///     pids_max: Some(Limit::At(64)),
/// };
/// limits.validate()?;
/// # Ok::<(), docklet::Error>(())
/// ```
///
/// Source: kernel `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct CgroupLimits {
    /// Hard memory limit in bytes (`memory.max`, v1 `memory.limit_in_bytes`): at least 4 MiB. The kernel counts
    /// pages: the value read back may be less by under one page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<Limit>,
    /// Hard limit of swap in bytes, beyond the memory (`memory.swap.max`; v1 `memory.memsw.limit_in_bytes` is memory
    /// and swap together). `At(0)` forbids swap. `At` needs `memory_max_bytes` to be `At`, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap_max_bytes: Option<Limit>,
    /// CPU time (`cpu.max`, v1 `cpu.cfs_quota_us` and `cpu.cfs_period_us`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuQuota>,
    /// Processes and threads (`pids.max`): 1 to 4194304.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<Limit>,
}

/// As it stands in JSON, not checked yet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    memory_max_bytes: Option<Limit>,
    #[serde(default)]
    memory_swap_max_bytes: Option<Limit>,
    #[serde(default)]
    cpu: Option<CpuQuota>,
    #[serde(default)]
    pids_max: Option<Limit>,
}

impl TryFrom<Fields> for CgroupLimits {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self> {
        let Fields { memory_max_bytes, memory_swap_max_bytes, cpu, pids_max } = fields;
        let limits = Self { memory_max_bytes, memory_swap_max_bytes, cpu, pids_max };
        limits.validate()?;
        Ok(limits)
    }
}

impl CgroupLimits {
    /// Checks the rules that hold on every host.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the limit, its value and the rule it breaks.
    pub fn validate(&self) -> Result<()> {
        if let Some(Limit::At(bytes)) = self.memory_max_bytes {
            if bytes < LEAST_MEMORY_BYTES {
                return Err(Error::invalid(
                    "memory limit",
                    bytes.to_string(),
                    "must be at least 4194304 bytes (4 MiB): with less no container can start",
                ));
            }
            check_not_endless("memory limit", bytes)?;
        }
        if let Some(Limit::At(bytes)) = self.memory_swap_max_bytes {
            let Some(Limit::At(memory)) = self.memory_max_bytes else {
                let rule = "needs a memory limit too: without one, memory is used instead of swap";
                return Err(Error::invalid("swap limit", bytes.to_string(), rule));
            };
            check_not_endless("swap limit", memory.saturating_add(bytes))?;
        }
        if let Some(Limit::At(pids)) = self.pids_max
            && !(1..=MOST_PIDS).contains(&pids)
        {
            let rule = "must be 1 to 4194304, or \"max\" for no limit";
            return Err(Error::invalid("pids limit", pids.to_string(), rule));
        }
        Ok(())
    }

    /// Checks that this host can enforce every limit that is set.
    ///
    /// # Errors
    /// As [`CgroupLimits::validate`]; [`Error::Unsupported`] naming the kernel option or boot parameter that is missing.
    pub fn check(&self, hierarchies: &Hierarchies) -> Result<()> {
        settings(self, hierarchies).map(drop)
    }
}

fn check_not_endless(what: &'static str, bytes: u64) -> Result<()> {
    if bytes < ENDLESS_BYTES {
        return Ok(());
    }
    Err(Error::invalid(what, bytes.to_string(), "is more than any machine has; say \"max\" for no limit"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(limits: CgroupLimits) -> String {
        limits.validate().unwrap_err().to_string()
    }

    #[test]
    fn absurd_limits_are_refused_with_the_rule() {
        let none = CgroupLimits::default();
        let at = |value| Some(Limit::At(value));
        assert_eq!(
            rule(CgroupLimits { memory_max_bytes: at(0), ..none }),
            "invalid memory limit \"0\": must be at least 4194304 bytes (4 MiB): with less no container can start"
        );
        assert_eq!(
            rule(CgroupLimits { memory_max_bytes: at(u64::MAX), ..none }),
            "invalid memory limit \"18446744073709551615\": is more than any machine has; say \"max\" for no limit"
        );
        assert_eq!(
            rule(CgroupLimits { memory_swap_max_bytes: at(0), ..none }),
            "invalid swap limit \"0\": needs a memory limit too: without one, memory is used instead of swap"
        );
        let memory_max_bytes = at(8 << 20);
        assert_eq!(
            rule(CgroupLimits { memory_max_bytes, memory_swap_max_bytes: at(u64::MAX), ..none }),
            "invalid swap limit \"18446744073709551615\": is more than any machine has; say \"max\" for no limit"
        );
        for pids in [0, (4 << 20) + 1] {
            assert_eq!(
                rule(CgroupLimits { pids_max: at(pids), ..none }),
                format!("invalid pids limit \"{pids}\": must be 1 to 4194304, or \"max\" for no limit")
            );
        }
        let max = Some(Limit::Max);
        let all =
            CgroupLimits { memory_max_bytes: max, memory_swap_max_bytes: max, cpu: None, pids_max: max };
        all.validate().unwrap();
    }

    #[test]
    fn json_is_checked_too() {
        let parse = serde_json::from_str::<CgroupLimits>;
        let text = r#"{"memory_max_bytes":134217728,"memory_swap_max_bytes":0,"cpu":{"quota_us":50000,"period_us":100000},"pids_max":"max"}"#;
        let limits = parse(text).unwrap();
        assert_eq!(limits.pids_max, Some(Limit::Max));
        assert_eq!(serde_json::to_string(&limits).unwrap(), text);
        assert_eq!(parse("{}").unwrap(), CgroupLimits::default());
        assert_eq!(serde_json::to_string(&CgroupLimits::default()).unwrap(), "{}");
        for (bad, reason) in [
            (r#"{"memory_max_bytes":0}"#, "at least 4194304 bytes"),
            (r#"{"memory_max_bytes":-1}"#, "a whole number or \"max\""),
            (r#"{"pids_max":0}"#, "must be 1 to 4194304"),
            (r#"{"pids_max":"none"}"#, "a whole number or \"max\""),
            (r#"{"memory_max":1}"#, "unknown field"),
            (r#"{"cpu":{"quota_us":0}}"#, "a quota from 1 ms"),
            (r#"{"cpu":{"quota_us":2000}}"#, "crawls"),
            (r#"{"cpu":{"quota_us":2000,"period_us":0}}"#, "a period from 1 ms to 1 s"),
        ] {
            let message = parse(bad).unwrap_err().to_string();
            assert!(message.contains(reason), "{bad}: {message}");
        }
        parse(r#"{"cpu":{"quota_us":2000,"allow_crawling":true}}"#).unwrap();
    }
}
