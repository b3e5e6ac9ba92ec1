//! Limits of a whole container as control groups have them (the kernel's `Documentation/admin-guide/cgroup-v2.rst` and
//! `cgroup-v1/`): `lxc.cgroup.*` and `lxc.cgroup2.*`, read back into [`CgroupLimits`].

use std::time::Duration;

use crate::cgroup::{CgroupLimits, CpuQuota, Limit, Version};
use crate::error::{Error, Result};
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::prefix;

pub(crate) fn read(reader: &mut Reader<'_>) -> CgroupLimits {
    let v1 = of_version(reader, Version::V1);
    let v2 = of_version(reader, Version::V2);
    let none = CgroupLimits::default();
    if v1 != none && v2 != none && v1 != v2 {
        reader.missing("lxc.cgroup", "the limits of lxc.cgroup and of lxc.cgroup2 must be the same: the host enforces only one of them");
    }
    let limits = if v2 == none { v1 } else { v2 };
    if let Err(error) = limits.validate() {
        reader.missing(prefix(if v2 == none { Version::V1 } else { Version::V2 }), &error.to_string());
    }
    limits
}

fn of_version(reader: &mut Reader<'_>, version: Version) -> CgroupLimits {
    match version {
        Version::V1 => {
            let memory = limit(reader, version, "memory.limit_in_bytes", bytes);
            let sum = limit(reader, version, "memory.memsw.limit_in_bytes", bytes);
            let period = limit(reader, version, "cpu.cfs_period_us", count);
            let quota = limit(reader, version, "cpu.cfs_quota_us", count);
            if period.is_some() && quota.is_none() {
                let rule = "has no effect without lxc.cgroup.cpu.cfs_quota_us: give both, or none";
                reader.missing("lxc.cgroup.cpu.cfs_period_us", rule);
            }
            let swap = match (memory, sum) {
                (Some(Limit::At(memory)), Some(Limit::At(sum))) => {
                    let swap = sum.checked_sub(memory).map(Limit::At);
                    if swap.is_none() {
                        let rule = "must be at least lxc.cgroup.memory.limit_in_bytes: it is memory and swap together";
                        reader.missing("lxc.cgroup.memory.memsw.limit_in_bytes", rule);
                    }
                    swap
                }
                (_, sum) => sum,
            };
            CgroupLimits {
                memory_max_bytes: memory,
                memory_swap_max_bytes: swap,
                cpu: cpu(reader, "lxc.cgroup.cpu.cfs_quota_us", quota, period),
                pids_max: limit(reader, version, "pids.max", count),
            }
        }
        Version::V2 => {
            let (quota, period) = cpu_max(reader);
            CgroupLimits {
                memory_max_bytes: limit(reader, version, "memory.max", bytes),
                memory_swap_max_bytes: limit(reader, version, "memory.swap.max", bytes),
                cpu: cpu(reader, "lxc.cgroup2.cpu.max", quota, period),
                pids_max: limit(reader, version, "pids.max", count),
            }
        }
    }
}

/// The quota and the period of `cpu.max`.
fn cpu_max(reader: &mut Reader<'_>) -> (Option<Limit>, Option<Limit>) {
    let Some(entry) = reader.one("lxc.cgroup2.cpu.max") else { return (None, None) };
    let parts = reader.text(&entry).unwrap_or_default().split_ascii_whitespace();
    match parts.map(count).collect::<Result<Vec<_>>>().as_deref() {
        Ok([quota]) => return (Some(*quota), None),
        Ok([quota, period @ Limit::At(_)]) => return (Some(*quota), Some(*period)),
        _ => reader.refuse(&entry, "must be the quota in microseconds, or max, and the period: 50000 100000"),
    }
    (None, None)
}

fn cpu(reader: &mut Reader<'_>, key: &str, quota: Option<Limit>, period: Option<Limit>) -> Option<CpuQuota> {
    let Limit::At(quota) = quota? else { return Some(CpuQuota::unlimited()) };
    let period = match period {
        Some(Limit::At(period)) => period,
        // The kernel's default.
        _ => 100_000,
    };
    match CpuQuota::new(Duration::from_micros(quota), Duration::from_micros(period)) {
        Ok(quota) => Some(quota),
        Err(error) => {
            reader.missing(key, &error.to_string());
            None
        }
    }
}

fn limit(
    reader: &mut Reader<'_>,
    version: Version,
    file: &str,
    parse: fn(&str) -> Result<Limit>,
) -> Option<Limit> {
    let entry = reader.one(&format!("{}.{file}", prefix(version)))?;
    let text = reader.text(&entry)?;
    reader.parsed(&entry, parse(text))
}

fn count(text: &str) -> Result<Limit> {
    match text {
        "max" | "-1" => Ok(Limit::Max),
        text => text
            .parse()
            .map(Limit::At)
            .map_err(|_| Error::invalid("limit", text, "must be a number, or `max` for none (in v1 -1)")),
    }
}

/// A number of bytes, with the letter that the kernel takes after it (`memparse`).
fn bytes(text: &str) -> Result<Limit> {
    let shifts = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let shift = shifts.iter().find(|(letter, _)| text.to_ascii_uppercase().ends_with(*letter));
    let Some((_, shift)) = shift else { return count(text) };
    let number =
        text[..text.len() - 1].parse::<u64>().ok().and_then(|number| number.checked_mul(1_u64 << shift));
    number.map(Limit::At).ok_or_else(|| {
        Error::invalid(
            "limit",
            text,
            "must be a number of bytes, with K, M, G or T after it, or `max` for none",
        )
    })
}
