//! The one table from limits to interface files. The writer here and LXC's configuration both use it.

use super::controller::{Controller, Version};
use super::hierarchy::Hierarchies;
use super::limit::Limit;
use super::limits::CgroupLimits;
use super::remedy;
use crate::error::Result;

/// One value for one interface file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Whose file it is.
    pub controller: Controller,
    /// Which interface it belongs to: LXC's key is `lxc.cgroup.FILE` in v1 and `lxc.cgroup2.FILE` in v2.
    pub version: Version,
    /// The file's name in the group's directory: `memory.max`.
    pub file: &'static str,
    /// What is written.
    pub value: String,
}

/// What to write for `limits` on a host with these `hierarchies`, in the order in which a *new* group takes it.
/// (For a group with limits, [`super::Cgroup::apply`] finds the order.)
///
/// # Errors
/// [`crate::Error::Invalid`] as [`CgroupLimits::validate`]; [`crate::Error::Unsupported`] with the remedy if this host
/// cannot enforce one of the limits. Nothing is left out in silence.
pub fn settings(limits: &CgroupLimits, hierarchies: &Hierarchies) -> Result<Vec<Setting>> {
    limits.validate()?;
    let mut table = Vec::with_capacity(5);
    if let Some(limit) = limits.memory_max_bytes {
        memory(limit, hierarchies, &mut table)?;
    }
    if let Some(limit) = limits.memory_swap_max_bytes {
        swap(limit, limits.memory_max_bytes, hierarchies, &mut table)?;
    }
    if let Some(quota) = limits.cpu {
        let version = remedy::cpu_quota(hierarchies)?;
        let mut push =
            |file, value| table.push(Setting { controller: Controller::Cpu, version, file, value });
        match version {
            Version::V1 => {
                push("cpu.cfs_period_us", quota.period_us().to_string());
                push("cpu.cfs_quota_us", v1_value(quota.quota_us()));
            }
            Version::V2 => push("cpu.max", format!("{} {}", quota.quota_us(), quota.period_us())),
        }
    }
    if let Some(limit) = limits.pids_max {
        let version = remedy::served(hierarchies, Controller::Pids)?;
        table.push(Setting {
            controller: Controller::Pids,
            version,
            file: "pids.max",
            value: limit.to_string(),
        });
    }
    Ok(table)
}

fn memory(limit: Limit, hierarchies: &Hierarchies, table: &mut Vec<Setting>) -> Result<()> {
    let version = remedy::served(hierarchies, Controller::Memory)?;
    let (file, value) = match version {
        Version::V1 => ("memory.limit_in_bytes", v1_value(limit)),
        Version::V2 => ("memory.max", limit.to_string()),
    };
    table.push(Setting { controller: Controller::Memory, version, file, value });
    Ok(())
}

fn swap(
    limit: Limit,
    memory: Option<Limit>,
    hierarchies: &Hierarchies,
    table: &mut Vec<Setting>,
) -> Result<()> {
    // A kernel that cannot swap at all keeps every swap limit by itself.
    let Some(version) = remedy::swap(hierarchies)? else { return Ok(()) };
    let (file, value) = match version {
        Version::V1 => {
            let sum = match (memory, limit) {
                (Some(Limit::At(memory)), Limit::At(swap)) => Limit::At(memory.saturating_add(swap)),
                _ => Limit::Max,
            };
            ("memory.memsw.limit_in_bytes", v1_value(sum))
        }
        Version::V2 => ("memory.swap.max", limit.to_string()),
    };
    table.push(Setting { controller: Controller::Memory, version, file, value });
    Ok(())
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
        check(samples::hybrid(), &limits(), &v1);
        check(
            samples::v2(),
            &limits(),
            &[
                "V2 memory memory.max 134217728",
                "V2 memory memory.swap.max 0",
                "V2 cpu cpu.max 50000 100000",
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
}
