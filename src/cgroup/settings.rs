//! The one table from limits to interface files. The writer here and LXC's configuration both use it. See the kernel's
//! `Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/`.

use super::controller::{Controller, Version};
use super::hierarchy::Hierarchies;
use super::huge_page::HugePageSize;
use super::io_limits::IoLimits;
use super::limit::Limit;
use super::limits::CgroupLimits;
use super::quota::CpuQuota;
use super::remedy;
use super::setting::Setting;
use crate::error::Result;

/// What to write for `limits` on a host with these `hierarchies`, in the order in which a *new* group takes it.
/// (For a group with limits, [`super::Cgroup::apply`] finds the order.)
///
/// # Errors
/// [`crate::Error::Invalid`] as [`CgroupLimits::check`], and for processors that are not online; [`crate::Error::NotFound`] for a
/// device that is not there; [`crate::Error::Unsupported`] with the remedy if this host
/// cannot enforce one of the limits. Nothing is left out in silence.
pub fn settings(limits: &CgroupLimits, hierarchies: &Hierarchies) -> Result<Vec<Setting>> {
    limits.validate()?;
    let mut table = Table { hierarchies, settings: Vec::with_capacity(8) };
    table.memory(limits)?;
    if let Some(quota) = limits.cpu {
        table.cpu(quota)?;
    }
    if let Some(weight) = limits.cpu_weight {
        let of = [("cpu.shares", weight.shares()), ("cpu.weight", weight.get())];
        table.push(Controller::Cpu, of)?;
    }
    if let Some(cpus) = &limits.cpus {
        remedy::require_online(hierarchies, cpus)?;
        table.push(Controller::Cpuset, [("cpuset.cpus", cpus), ("cpuset.cpus", cpus)])?;
    }
    if let Some(limit) = limits.pids_max {
        table.push(Controller::Pids, [("pids.max", limit), ("pids.max", limit)])?;
    }
    table.io(limits)?;
    for (size, limit) in &limits.hugetlb_max_bytes {
        table.hugetlb(*size, *limit)?;
    }
    Ok(table.settings)
}

struct Table<'a> {
    hierarchies: &'a Hierarchies,
    settings: Vec<Setting>,
}

impl Table<'_> {
    /// Adds v1's file with its value, or v2's.
    fn push<T: ToString>(&mut self, controller: Controller, [v1, v2]: [(&'static str, T); 2]) -> Result<()> {
        let version = remedy::require(self.hierarchies, controller)?;
        let (file, value) = match version {
            Version::V1 => v1,
            Version::V2 => v2,
        };
        self.settings.push(Setting::new(controller, version, file, value));
        Ok(())
    }

    fn memory(&mut self, limits: &CgroupLimits) -> Result<()> {
        if let Some(limit) = limits.memory_max_bytes {
            let of = [("memory.limit_in_bytes", v1_value(limit)), ("memory.max", limit.to_string())];
            self.push(Controller::Memory, of)?;
        }
        if let Some(limit) = limits.memory_high_bytes {
            let instead = "v1's memory.soft_limit_in_bytes does not hold processes back";
            remedy::require_v2(self.hierarchies, Controller::Memory, "memory.high", instead)?;
            self.settings.push(Setting::new(Controller::Memory, Version::V2, "memory.high", limit));
        }
        if let Some(limit) = limits.memory_swap_max_bytes {
            self.swap(limit, limits.memory_max_bytes)?;
        }
        match (limits.memory_oom_group, remedy::require(self.hierarchies, Controller::Memory)) {
            // What v1 always does.
            (None, _) | (Some(false), Ok(Version::V1)) => {}
            (Some(group), _) => {
                let instead = "v1 kills one process at a time";
                remedy::require_v2(self.hierarchies, Controller::Memory, "memory.oom.group", instead)?;
                let setting =
                    Setting::new(Controller::Memory, Version::V2, "memory.oom.group", u8::from(group));
                self.settings.push(setting);
            }
        }
        Ok(())
    }

    fn swap(&mut self, limit: Limit, memory: Option<Limit>) -> Result<()> {
        // A kernel that cannot swap at all keeps every swap limit by itself.
        if remedy::require_swap(self.hierarchies)?.is_none() {
            return Ok(());
        }
        let sum = match (memory, limit) {
            (Some(Limit::At(memory)), Limit::At(swap)) => Limit::At(memory.saturating_add(swap)),
            _ => Limit::Max,
        };
        let of = [("memory.memsw.limit_in_bytes", v1_value(sum)), ("memory.swap.max", limit.to_string())];
        self.push(Controller::Memory, of)
    }

    fn cpu(&mut self, quota: CpuQuota) -> Result<()> {
        let version = remedy::require_cpu_quota(self.hierarchies)?;
        // Where the kernel has it, it is always stated: else what was there before would stay.
        let burst = remedy::has_cpu_burst(self.hierarchies, !quota.burst().is_zero())?;
        let mut push = |file, value| self.settings.push(Setting::new(Controller::Cpu, version, file, value));
        match version {
            Version::V1 => {
                push("cpu.cfs_period_us", quota.period_us().to_string());
                push("cpu.cfs_quota_us", v1_value(quota.quota_us()));
            }
            Version::V2 => push("cpu.max", format!("{} {}", quota.quota_us(), quota.period_us())),
        }
        if burst {
            let file = if version == Version::V1 { "cpu.cfs_burst_us" } else { "cpu.max.burst" };
            push(file, quota.burst_us().to_string());
        }
        Ok(())
    }

    fn io(&mut self, limits: &CgroupLimits) -> Result<()> {
        for (device, limits) in &limits.io {
            let version = remedy::require(self.hierarchies, Controller::Io)?;
            let number = device.number()?;
            let stated = limits.fields().into_iter().zip(IoLimits::KEYS);
            let stated = stated.filter_map(|(limit, keys)| Some((limit?, keys)));
            match version {
                Version::V1 => {
                    for (limit, (_, file)) in stated {
                        // v1 writes "no limit" as 0 here.
                        let value = match limit {
                            Limit::Max => 0,
                            Limit::At(value) => value,
                        };
                        let value = format!("{number} {value}");
                        self.settings.push(Setting::new(Controller::Io, version, file, value));
                    }
                }
                Version::V2 => {
                    let pairs: String = stated.map(|(limit, (key, _))| format!(" {key}={limit}")).collect();
                    if !pairs.is_empty() {
                        let value = format!("{number}{pairs}");
                        self.settings.push(Setting::new(Controller::Io, version, "io.max", value));
                    }
                }
            }
        }
        if let Some(weight) = limits.io_weight {
            remedy::require_io_weight()?;
            self.push(Controller::Io, [("blkio.bfq.weight", weight), ("io.bfq.weight", weight)])?;
        }
        Ok(())
    }

    fn hugetlb(&mut self, size: HugePageSize, limit: Limit) -> Result<()> {
        let version = remedy::require_huge_pages(self.hierarchies, size)?;
        let (file, value) = match version {
            Version::V1 => (format!("hugetlb.{size}.limit_in_bytes"), v1_value(limit)),
            Version::V2 => (format!("hugetlb.{size}.max"), limit.to_string()),
        };
        self.settings.push(Setting::new(Controller::Hugetlb, version, file, value));
        Ok(())
    }
}

/// v1 writes "no limit" as -1.
fn v1_value(limit: Limit) -> String {
    match limit {
        Limit::Max => "-1".to_owned(),
        Limit::At(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::quota::CpuQuota;
    use super::super::{probe::HierarchyProbe, samples};
    use super::*;

    fn limits() -> CgroupLimits {
        CgroupLimits {
            memory_max_bytes: Some(Limit::At(128 << 20)),
            memory_swap_max_bytes: Some(Limit::At(0)),
            cpu: Some(CpuQuota::cores(0.5).unwrap()),
            pids_max: Some(Limit::At(64)),
            ..CgroupLimits::default()
        }
    }

    fn check(probe: HierarchyProbe, limits: &CgroupLimits, expected: &[&str]) {
        let table = settings(limits, &Hierarchies::from_probe(probe)).unwrap();
        let shown: Vec<_> = table
            .iter()
            .map(|s| format!("{:?} {} {} {}", s.version, s.controller, s.file, s.value))
            .collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn each_layout_has_its_files() {
        let v1 = [
            "V1 memory memory.limit_in_bytes 134217728",
            "V1 memory memory.memsw.limit_in_bytes 134217728",
            "V1 cpu cpu.cfs_period_us 100000",
            "V1 cpu cpu.cfs_quota_us 50000",
            "V1 pids pids.max 64",
        ];
        check(samples::v1(), &limits(), &v1);
        let burst = [&v1[..4], &["V1 cpu cpu.cfs_burst_us 0"], &v1[4..]].concat();
        check(samples::hybrid(), &limits(), &burst);
        check(
            samples::v2(),
            &limits(),
            &[
                "V2 memory memory.max 134217728",
                "V2 memory memory.swap.max 0",
                "V2 cpu cpu.max 50000 100000",
                "V2 cpu cpu.max.burst 0",
                "V2 pids pids.max 64",
            ],
        );
    }

    #[test]
    fn what_is_not_stated_is_not_written() {
        for probe in [samples::v1(), samples::hybrid(), samples::v2(), HierarchyProbe::default()] {
            check(probe, &CgroupLimits::default(), &[]);
        }
    }

    #[test]
    fn no_limit_is_written_as_each_interface_writes_it() {
        let limits = CgroupLimits {
            memory_max_bytes: Some(Limit::Max),
            memory_swap_max_bytes: Some(Limit::Max),
            cpu: Some(CpuQuota::unlimited()),
            pids_max: Some(Limit::Max),
            ..CgroupLimits::default()
        };
        check(
            samples::v1(),
            &limits,
            &[
                "V1 memory memory.limit_in_bytes -1",
                "V1 memory memory.memsw.limit_in_bytes -1",
                "V1 cpu cpu.cfs_period_us 100000",
                "V1 cpu cpu.cfs_quota_us -1",
                "V1 pids pids.max max",
            ],
        );
        check(
            samples::v2(),
            &limits,
            &[
                "V2 memory memory.max max",
                "V2 memory memory.swap.max max",
                "V2 cpu cpu.max max 100000",
                "V2 cpu cpu.max.burst 0",
                "V2 pids pids.max max",
            ],
        );
    }

    /// v1 writes memory and swap as a sum.
    #[test]
    fn swap_is_beyond_memory() {
        let limits = CgroupLimits {
            memory_max_bytes: Some(Limit::At(8 << 20)),
            memory_swap_max_bytes: Some(Limit::At(4 << 20)),
            ..CgroupLimits::default()
        };
        let v1 =
            ["V1 memory memory.limit_in_bytes 8388608", "V1 memory memory.memsw.limit_in_bytes 12582912"];
        check(samples::v1(), &limits, &v1);
        check(samples::v2(), &limits, &["V2 memory memory.max 8388608", "V2 memory memory.swap.max 4194304"]);
    }

    #[test]
    fn a_kernel_that_cannot_swap_keeps_every_swap_limit() {
        let mut probe = samples::v2();
        (probe.can_swap, probe.swap_file) = (false, Some(false));
        let limits = CgroupLimits { cpu: None, pids_max: None, ..limits() };
        check(probe, &limits, &["V2 memory memory.max 134217728"]);
    }

    /// What the other tests do not have. `/dev/loop0` is there wherever the kernel has loop devices.
    #[test]
    fn each_layout_has_its_words_for_the_rest() {
        let limits: CgroupLimits = serde_json::from_str(
            r#"{"cpu": {"quota_us": 50000, "burst_us": 10000}, "cpu_weight": 200, "cpus": "0,2-3",
                "hugetlb_max_bytes": {"2MB": 4194304, "1GB": "max"}}"#,
        )
        .unwrap();
        let v2 = [
            "V2 cpu cpu.max 50000 100000",
            "V2 cpu cpu.max.burst 10000",
            "V2 cpu cpu.weight 200",
            "V2 cpuset cpuset.cpus 0,2-3",
            "V2 hugetlb hugetlb.2MB.max 4194304",
            "V2 hugetlb hugetlb.1GB.max max",
        ];
        check(samples::v2(), &limits, &v2);
        let v1 = [
            "V1 cpu cpu.cfs_period_us 100000",
            "V1 cpu cpu.cfs_quota_us 50000",
            "V1 cpu cpu.cfs_burst_us 10000",
            "V1 cpu cpu.shares 2048",
            "V1 cpuset cpuset.cpus 0,2-3",
        ];
        // Huge pages are v2's there, in the same group.
        let mut hybrid = samples::hybrid();
        hybrid.huge_pages = samples::v2().huge_pages;
        check(hybrid, &limits, &[&v1[..], &v2[4..]].concat());
    }

    #[test]
    fn v2_alone_has_a_high_limit_and_groups_that_die_together() {
        let limits: CgroupLimits =
            serde_json::from_str(r#"{"memory_high_bytes": 8388608, "memory_oom_group": true}"#).unwrap();
        check(samples::v2(), &limits, &["V2 memory memory.high 8388608", "V2 memory memory.oom.group 1"]);
        for limits in [
            CgroupLimits { memory_oom_group: None, ..limits.clone() },
            CgroupLimits { memory_high_bytes: None, ..limits },
        ] {
            let error = settings(&limits, &Hierarchies::from_probe(samples::hybrid())).unwrap_err();
            let message = error.to_string();
            assert!(message.contains("v2") && message.contains("cgroup_no_v1=memory"), "{message}");
        }
        let never = CgroupLimits { memory_oom_group: Some(false), ..CgroupLimits::default() };
        check(samples::hybrid(), &never, &[]);
    }
}
