//! What a container may use at most.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::controller::Controller;
use super::cpu_set::CpuSet;
use super::hierarchy::Hierarchies;
use super::huge_page::HugePageSize;
use super::io_device::IoDevice;
use super::io_limits::IoLimits;
use super::limit::Limit;
use super::quota::CpuQuota;
use super::remedy::require;
use super::settings::settings;
use super::weight::{CpuWeight, IoWeight};
use crate::error::{Error, Result};

/// The least memory limit: beneath it not even an init and a shell can be started.
const LEAST_MEMORY_BYTES: u64 = 4 << 20;
/// From here on the kernel itself means "no limit" (`PAGE_COUNTER_MAX`, rounded for pages of up to 16 GiB).
pub(super) const ENDLESS_BYTES: u64 = (1 << 63) - (1 << 35);
/// The most processes of any kernel (`PID_MAX_LIMIT`).
const MOST_PIDS: u64 = 4 << 20;

/// Resource limits of one container. A field left `None` keeps the kernel's value: no limit, for a new group.
///
/// Memory and swap are stated separately, as v2 does it: "128 MiB, swap included" is memory of 128 MiB and swap of 0.
/// v1 only knows the sum (`memory.memsw.limit_in_bytes`), which is written there: then the sum is bounded as asked,
/// and what is not used as memory may be swap.
///
/// JSON goes through the same checks as [`CgroupLimits::check`], but for what this host lacks. What each limit is in v1 and in v2 stands side by side in
/// `docs/limits.md`.
///
/// ```
/// use docklet::cgroup::{CgroupLimits, CpuQuota, Limit};
/// let limits = CgroupLimits {
///     memory_max_bytes: Some(Limit::At(128 << 20)),
///     memory_swap_max_bytes: Some(Limit::At(0)),
///     cpu: Some(CpuQuota::cores(0.5)?),
///     pids_max: Some(Limit::At(64)),
///     ..CgroupLimits::default()
/// };
/// assert_eq!(serde_json::from_str::<CgroupLimits>(&serde_json::to_string(&limits)?)?, limits);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: kernel `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct CgroupLimits {
    /// Hard memory limit in bytes (`memory.max`, v1 `memory.limit_in_bytes`): at least 4 MiB. More than the machine has is
    /// accepted, and never binds. The kernel counts pages: the value read back may be less by under one page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<Limit>,
    /// From here on in bytes, processes are slowed down and their memory is reclaimed, and none is killed (`memory.high`): at
    /// least 4 MiB, and no more than `memory_max_bytes`. v1 has nothing like it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high_bytes: Option<Limit>,
    /// Hard limit of swap in bytes, beyond the memory (`memory.swap.max`; v1 `memory.memsw.limit_in_bytes` is memory
    /// and swap together). `At(0)` forbids swap. `At` needs `memory_max_bytes` to be `At`, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap_max_bytes: Option<Limit>,
    /// Whether the kernel kills all processes at once when memory does not suffice, not one (`memory.oom.group`). v1 has nothing
    /// like it, and takes `false` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_oom_group: Option<bool>,
    /// CPU time (`cpu.max` and `cpu.max.burst`, v1 `cpu.cfs_quota_us`, `cpu.cfs_period_us` and `cpu.cfs_burst_us`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuQuota>,
    /// Share of CPU time while there is too little for all (`cpu.weight`, v1 `cpu.shares`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<CpuWeight>,
    /// The processors that may be used (`cpuset.cpus`): of those that are online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<CpuSet>,
    /// Processes and threads (`pids.max`): 1 to 4194304. Less than there are ends none: none is added until there are fewer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<Limit>,
    /// Input and output by device (`io.max`, v1 `blkio.throttle.*_device`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub io: BTreeMap<IoDevice, IoLimits>,
    /// Share of the disks whose scheduler is BFQ, while they are busy (`io.bfq.weight`, v1 `blkio.bfq.weight`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<IoWeight>,
    /// Hard limit of huge pages in bytes, by their size (`hugetlb.2MB.max`, v1 `hugetlb.2MB.limit_in_bytes`): a multiple of
    /// that size. What exceeds it is killed by `SIGBUS`, as where the host has no more of them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hugetlb_max_bytes: BTreeMap<HugePageSize, Limit>,
}

/// As it stands in JSON, not checked yet.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "an object of limits")]
struct Fields {
    memory_max_bytes: Option<Limit>,
    memory_high_bytes: Option<Limit>,
    memory_swap_max_bytes: Option<Limit>,
    memory_oom_group: Option<bool>,
    cpu: Option<CpuQuota>,
    cpu_weight: Option<CpuWeight>,
    cpus: Option<CpuSet>,
    pids_max: Option<Limit>,
    io: BTreeMap<IoDevice, IoLimits>,
    io_weight: Option<IoWeight>,
    hugetlb_max_bytes: BTreeMap<HugePageSize, Limit>,
}

impl TryFrom<Fields> for CgroupLimits {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self> {
        let limits = Self {
            memory_max_bytes: fields.memory_max_bytes,
            memory_high_bytes: fields.memory_high_bytes,
            memory_swap_max_bytes: fields.memory_swap_max_bytes,
            memory_oom_group: fields.memory_oom_group,
            cpu: fields.cpu,
            cpu_weight: fields.cpu_weight,
            cpus: fields.cpus,
            pids_max: fields.pids_max,
            io: fields.io,
            io_weight: fields.io_weight,
            hugetlb_max_bytes: fields.hugetlb_max_bytes,
        };
        limits.validate()?;
        Ok(limits)
    }
}

impl CgroupLimits {
    /// Checks the rules that hold on every host.
    pub(crate) fn validate(&self) -> Result<()> {
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
        if let Some(Limit::At(bytes)) = self.memory_high_bytes {
            let most = match self.memory_max_bytes {
                Some(Limit::At(max)) => max,
                _ => ENDLESS_BYTES - 1,
            };
            if !(LEAST_MEMORY_BYTES..=most).contains(&bytes) {
                let rule = "must be from 4194304 bytes (4 MiB) to the memory limit, which would come first";
                return Err(Error::invalid("memory high limit", bytes.to_string(), rule));
            }
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
        for (size, limit) in &self.hugetlb_max_bytes {
            if let Limit::At(bytes) = limit
                && (bytes % size.bytes() != 0 || *bytes >= ENDLESS_BYTES)
            {
                let rule = format!("must be a multiple of {}, or \"max\" for no limit", size.bytes());
                return Err(Error::invalid("huge page limit", format!("{size}: {bytes}"), rule));
            }
        }
        self.io.values().try_for_each(IoLimits::validate)
    }

    /// Checks that this host can enforce every limit that is set, as far as that can be told without a container: which device
    /// [`IoDevice::Volume`] is turns out later.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the limit, its value and the rule it breaks; [`Error::Unsupported`] naming the kernel option or boot parameter that is missing.
    pub fn check(&self, hierarchies: &Hierarchies) -> Result<()> {
        // With the volume's, which `settings` is not shown.
        self.validate()?;
        if self.limits_volume() {
            require(hierarchies, Controller::Io)?;
        }
        settings(&self.clone().without_volume(), hierarchies).map(drop)
    }

    /// These limits, and for each that only `old` has, the word that takes it away: what makes a group that was limited
    /// as `old` one that is limited as `self`.
    pub(crate) fn replacing(&self, old: &Self, hierarchies: &Hierarchies) -> Self {
        let mut all = self.clone();
        let no_limit = |new: &mut Option<Limit>, old: &Option<Limit>| *new = new.or(old.map(|_| Limit::Max));
        no_limit(&mut all.memory_max_bytes, &old.memory_max_bytes);
        no_limit(&mut all.memory_high_bytes, &old.memory_high_bytes);
        no_limit(&mut all.memory_swap_max_bytes, &old.memory_swap_max_bytes);
        no_limit(&mut all.pids_max, &old.pids_max);
        all.memory_oom_group = all.memory_oom_group.or(old.memory_oom_group.map(|_| false));
        all.cpu = all.cpu.or(old.cpu.map(|_| CpuQuota::unlimited()));
        all.cpu_weight = all.cpu_weight.or(old.cpu_weight.map(|_| CpuWeight::default()));
        all.io_weight = all.io_weight.or(old.io_weight.map(|_| IoWeight::default()));
        if all.cpus.is_none() && old.cpus.is_some() {
            all.cpus = hierarchies.online_cpus();
        }
        for size in old.hugetlb_max_bytes.keys() {
            all.hugetlb_max_bytes.entry(*size).or_insert(Limit::Max);
        }
        for (device, limits) in &old.io {
            // A disk that was taken away has no limit.
            if matches!(device, IoDevice::Path(path) if !path.exists()) {
                continue;
            }
            let new = all.io.entry(device.clone()).or_default();
            *new = new.releasing(limits);
        }
        all
    }

    /// Those that are a share of what the groups side by side have together.
    pub(crate) fn weights(&self) -> Self {
        Self { cpu_weight: self.cpu_weight, io_weight: self.io_weight, ..Self::default() }
    }

    /// Whether the device beneath a container's volume has to be found for them.
    pub(crate) fn limits_volume(&self) -> bool {
        self.io.contains_key(&IoDevice::Volume)
    }

    /// These limits but those of the device beneath a container's volume, before there is one.
    pub(crate) fn without_volume(mut self) -> Self {
        self.io.remove(&IoDevice::Volume);
        self
    }

    /// These limits, with [`IoDevice::Volume`] as the device at `path`.
    pub(crate) fn with_volume(mut self, path: &std::path::Path) -> Self {
        if let Some(limits) = self.io.remove(&IoDevice::Volume) {
            self.io.insert(IoDevice::Path(path.to_owned()), limits);
        }
        self
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
        let none = CgroupLimits::default;
        let at = |value| Some(Limit::At(value));
        assert_eq!(
            rule(CgroupLimits { memory_max_bytes: at(0), ..none() }),
            "invalid memory limit \"0\": must be at least 4194304 bytes (4 MiB): with less no container can start"
        );
        assert_eq!(
            rule(CgroupLimits { memory_max_bytes: at(u64::MAX), ..none() }),
            "invalid memory limit \"18446744073709551615\": is more than any machine has; say \"max\" for no limit"
        );
        assert_eq!(
            rule(CgroupLimits { memory_swap_max_bytes: at(0), ..none() }),
            "invalid swap limit \"0\": needs a memory limit too: without one, memory is used instead of swap"
        );
        let memory_max_bytes = at(8 << 20);
        assert_eq!(
            rule(CgroupLimits { memory_max_bytes, memory_swap_max_bytes: at(u64::MAX), ..none() }),
            "invalid swap limit \"18446744073709551615\": is more than any machine has; say \"max\" for no limit"
        );
        for pids in [0, (4 << 20) + 1] {
            assert_eq!(
                rule(CgroupLimits { pids_max: at(pids), ..none() }),
                format!("invalid pids limit \"{pids}\": must be 1 to 4194304, or \"max\" for no limit")
            );
        }
        assert!(
            rule(CgroupLimits { memory_high_bytes: at(9 << 20), memory_max_bytes, ..none() })
                .contains("must be from 4194304 bytes")
        );
        let hugetlb_max_bytes = BTreeMap::from([("2MB".parse().unwrap(), Limit::At(3 << 20))]);
        assert!(rule(CgroupLimits { hugetlb_max_bytes, ..none() }).contains("must be a multiple of 2097152"));
        let max = Some(Limit::Max);
        let all = CgroupLimits { memory_max_bytes: max, memory_swap_max_bytes: max, pids_max: max, ..none() };
        all.validate().unwrap();
    }

    #[test]
    fn what_is_not_asked_for_any_more_is_taken_away() {
        let parse = |text: &str| serde_json::from_str::<CgroupLimits>(text).unwrap();
        let host = Hierarchies::from_probe(super::super::samples::v2());
        let old = parse(
            r#"{"memory_max_bytes":8388608,"memory_high_bytes":8388608,"memory_oom_group":true,"cpu":{"quota_us":50000},
                "cpu_weight":7,"cpus":"0","io":{"volume":{"read_bytes_per_second":5,"write_bytes_per_second":5}},
                "io_weight":9,"hugetlb_max_bytes":{"2MB":0}}"#,
        );
        let new = parse(r#"{"cpu_weight":8,"pids_max":5,"io":{"volume":{"read_bytes_per_second":6}}}"#);
        let expected = parse(
            r#"{"memory_max_bytes":"max","memory_high_bytes":"max","memory_oom_group":false,"cpu":{"quota_us":"max"},
                "cpu_weight":8,"cpus":"0-3","pids_max":5,
                "io":{"volume":{"read_bytes_per_second":6,"write_bytes_per_second":"max"}},
                "io_weight":100,"hugetlb_max_bytes":{"2MB":"max"}}"#,
        );
        assert_eq!(new.replacing(&old, &host), expected);
        assert_eq!(new.replacing(&new, &host), new);
        let expected = parse(r#"{"io":{"/dev/loop7":{"read_bytes_per_second":6}}}"#);
        assert_eq!(new.with_volume(std::path::Path::new("/dev/loop7")).io, expected.io);
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
            (r#"{"cpu_weight":0}"#, "must be 1 to 10000"),
            (r#"{"cpus":""}"#, "must be numbers and ranges"),
            (r#"{"io":{"vda":{}}}"#, "must be `volume`, or the absolute path"),
            (r#"{"io":{"volume":{"read_bytes_per_second":0}}}"#, "must be from 1"),
            (r#"{"hugetlb_max_bytes":{"2M":0}}"#, "must be a power of two"),
            (r#"{"pids_max":"none"}"#, "a whole number or \"max\""),
            (r#"{"memory_max":1}"#, "unknown field"),
            (r#"{"cpu":0.5}"#, "expected an object with `quota_us`"),
            (r#"{"cpu":{"quota_us":0}}"#, "a quota from 1 ms"),
            (r#"{"cpu":{"quota_us":2000}}"#, "crawls"),
            (r#"{"cpu":{"quota_us":2000,"period_us":0}}"#, "a period from 1 ms to 1 s"),
        ] {
            let message = parse(bad).unwrap_err().to_string();
            assert!(message.contains(reason), "{bad}: {message}");
        }
        parse(r#"{"cpu":{"quota_us":2000,"allow_crawling":true}}"#).unwrap();
    }

    /// What could not be read back must not be written down.
    #[test]
    fn limits_of_the_volume_are_checked_before_there_is_one() {
        let host = Hierarchies::from_probe(super::super::samples::v2());
        let none = IoLimits { write_operations_per_second: Some(Limit::At(0)), ..IoLimits::default() };
        let limits = CgroupLimits { io: [(IoDevice::Volume, none)].into(), ..CgroupLimits::default() };
        let message = limits.check(&host).unwrap_err().to_string();
        assert!(message.contains("invalid io limit"), "{message}");
    }
}
