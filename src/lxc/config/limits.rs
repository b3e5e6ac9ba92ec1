//! Limits of a whole container as control groups have them (the kernel's `Documentation/admin-guide/cgroup-v2.rst` and
//! `cgroup-v1/`): `lxc.cgroup.*` and `lxc.cgroup2.*`, read back into [`CgroupLimits`].

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cgroup::{
    CgroupLimits, CpuQuota, CpuWeight, HugePageSize, IoDevice, IoLimits, IoWeight, Limit, Version,
};
use crate::error::{Error, Result};
use crate::lxc::config::reader::Reader;
use crate::lxc::config::render::prefix;
use crate::lxc::text::Entry;

pub(crate) fn read(reader: &mut Reader<'_>) -> CgroupLimits {
    let mut v1 = of_version(reader, Version::V1);
    let mut v2 = of_version(reader, Version::V2);
    // A hybrid host has huge pages in v2 and the rest in v1.
    let mut huge_pages = std::mem::take(&mut v1.hugetlb_max_bytes);
    huge_pages.append(&mut v2.hugetlb_max_bytes);
    let none = CgroupLimits::default();
    if v1 != none && v2 != none && v1 != v2 {
        reader.missing("lxc.cgroup", "the limits of lxc.cgroup and of lxc.cgroup2 must be the same: the host enforces only one of them");
    }
    let (version, limits) = if v2 == none { (Version::V1, v1) } else { (Version::V2, v2) };
    let limits = CgroupLimits { hugetlb_max_bytes: huge_pages, ..limits };
    if let Err(error) = limits.validate() {
        reader.missing(prefix(version), &error.to_string());
    }
    limits
}

fn of_version(reader: &mut Reader<'_>, version: Version) -> CgroupLimits {
    match version {
        Version::V1 => {
            let memory = parsed(reader, version, "memory.limit_in_bytes", bytes);
            let sum = parsed(reader, version, "memory.memsw.limit_in_bytes", bytes);
            let period = parsed(reader, version, "cpu.cfs_period_us", count);
            let quota = parsed(reader, version, "cpu.cfs_quota_us", count);
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
                cpu: cpu(reader, version, quota, period),
                cpu_weight: parsed(reader, version, "cpu.shares", |text| {
                    Ok(CpuWeight::from_shares(number(text)?))
                }),
                cpus: parsed(reader, version, "cpuset.cpus", str::parse),
                pids_max: parsed(reader, version, "pids.max", count),
                io: v1_io(reader),
                io_weight: parsed(reader, version, "blkio.bfq.weight", |text| IoWeight::new(number(text)?)),
                hugetlb_max_bytes: huge_pages(reader, version, ".limit_in_bytes"),
                ..CgroupLimits::default()
            }
        }
        Version::V2 => {
            let (quota, period) = cpu_max(reader);
            CgroupLimits {
                memory_max_bytes: parsed(reader, version, "memory.max", bytes),
                memory_swap_max_bytes: parsed(reader, version, "memory.swap.max", bytes),
                memory_high_bytes: parsed(reader, version, "memory.high", bytes),
                memory_oom_group: parsed(reader, version, "memory.oom.group", yes_or_no),
                cpu: cpu(reader, version, quota, period),
                cpu_weight: parsed(reader, version, "cpu.weight", |text| CpuWeight::new(number(text)?)),
                cpus: parsed(reader, version, "cpuset.cpus", str::parse),
                pids_max: parsed(reader, version, "pids.max", count),
                io: v2_io(reader),
                io_weight: parsed(reader, version, "io.bfq.weight", |text| IoWeight::new(number(text)?)),
                hugetlb_max_bytes: huge_pages(reader, version, ".max"),
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

fn cpu(
    reader: &mut Reader<'_>,
    version: Version,
    quota: Option<Limit>,
    period: Option<Limit>,
) -> Option<CpuQuota> {
    let (file, burst) = match version {
        Version::V1 => ("cpu.cfs_quota_us", "cpu.cfs_burst_us"),
        Version::V2 => ("cpu.max", "cpu.max.burst"),
    };
    let burst = parsed(reader, version, burst, number);
    let period = match period {
        Some(Limit::At(period)) => period,
        // The kernel's default.
        _ => 100_000,
    };
    let quota = match quota? {
        Limit::Max => Ok(CpuQuota::unlimited()),
        Limit::At(quota) => CpuQuota::new(Duration::from_micros(quota), Duration::from_micros(period)),
    };
    match quota.and_then(|quota| quota.with_burst(Duration::from_micros(burst.unwrap_or(0)))) {
        Ok(quota) => Some(quota),
        Err(error) => {
            reader.missing(&format!("{}.{file}", prefix(version)), &error.to_string());
            None
        }
    }
}

/// What v2 says of devices: `7:3 rbps=1048576 wiops=max`.
fn v2_io(reader: &mut Reader<'_>) -> BTreeMap<IoDevice, IoLimits> {
    let mut devices = BTreeMap::<IoDevice, [Option<Limit>; 4]>::new();
    for entry in reader.all("lxc.cgroup2.io.max") {
        let Some((device, pairs)) = device_line(reader, &entry) else { continue };
        for pair in pairs.split_ascii_whitespace() {
            let known = pair.split_once('=').and_then(|(key, value)| {
                let index = IoLimits::KEYS.iter().position(|(known, _)| *known == key)?;
                Some((index, count(value)))
            });
            let Some((index, limit)) = known else {
                reader.refuse(&entry, "must be some of rbps=, wbps=, riops= and wiops= after the device");
                continue;
            };
            if let Some(limit) = reader.parsed(&entry, limit) {
                devices.entry(device.clone()).or_default()[index] = Some(limit);
            }
        }
    }
    devices.into_iter().map(|(device, fields)| (device, IoLimits::from_fields(fields))).collect()
}

/// What v1 says of devices, in a file for each limit: `7:3 1048576`.
fn v1_io(reader: &mut Reader<'_>) -> BTreeMap<IoDevice, IoLimits> {
    let mut devices = BTreeMap::<IoDevice, [Option<Limit>; 4]>::new();
    for (index, (_, file)) in IoLimits::KEYS.into_iter().enumerate() {
        for entry in reader.all(&format!("lxc.cgroup.{file}")) {
            let Some((device, value)) = device_line(reader, &entry) else { continue };
            if let Some(limit) = reader.parsed(&entry, number(value)) {
                // 0 is "no limit" there.
                let limit = if limit == 0 { Limit::Max } else { Limit::At(limit) };
                devices.entry(device).or_default()[index] = Some(limit);
            }
        }
    }
    devices.into_iter().map(|(device, fields)| (device, IoLimits::from_fields(fields))).collect()
}

/// A device by its number, and what is said of it.
fn device_line<'a>(reader: &mut Reader<'a>, entry: &Entry<'a>) -> Option<(IoDevice, &'a str)> {
    let (device, rest) = reader.text(entry)?.split_once(' ').unwrap_or_default();
    let numbers = device.split_once(':');
    let is_number = |part: &str| part.parse::<u32>().is_ok();
    if numbers.is_some_and(|(major, minor)| is_number(major) && is_number(minor)) {
        return Some((IoDevice::Path(format!("/dev/block/{device}").into()), rest));
    }
    reader
        .refuse(entry, "must begin with the number of a block device: 7:3 rbps=1048576 (in v1 7:3 1048576)");
    None
}

/// `hugetlb.2MB.max`, for each size that is named.
fn huge_pages(reader: &mut Reader<'_>, version: Version, file: &str) -> BTreeMap<HugePageSize, Limit> {
    let mut sizes = BTreeMap::new();
    for (name, entry) in reader.family(&format!("{}.hugetlb.", prefix(version))) {
        let Some(size) = name.strip_suffix(file) else {
            reader.refuse_key(&entry, "has no place in a typed configuration: give the limit of a size");
            continue;
        };
        let size = reader.parsed(&entry, size.parse());
        let limit = reader.text(&entry).and_then(|text| reader.parsed(&entry, bytes(text)));
        sizes.extend(size.zip(limit));
    }
    sizes
}

fn parsed<T>(
    reader: &mut Reader<'_>,
    version: Version,
    file: &str,
    parse: fn(&str) -> Result<T>,
) -> Option<T> {
    let entry = reader.one(&format!("{}.{file}", prefix(version)))?;
    let text = reader.text(&entry)?;
    reader.parsed(&entry, parse(text))
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| Error::invalid("limit", text, "must be a number"))
}

fn yes_or_no(text: &str) -> Result<bool> {
    match text {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(Error::invalid("limit", text, "must be 0 or 1")),
    }
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
