//! Limits of a group as the kernel has them (`Documentation/admin-guide/cgroup-v2.rst`).

use std::collections::BTreeMap;
use std::time::Duration;

use super::controller::{Controller, Version};
use super::group::Cgroup;
use super::huge_page::HugePageSize;
use super::io_device::IoDevice;
use super::io_limits::IoLimits;
use super::limit::Limit;
use super::limits::CgroupLimits;
use super::quota::CpuQuota;
use super::setting::{parse_limit, parse_weight};
use super::weight::{CpuWeight, IoWeight};
use crate::error::Result;

impl Cgroup {
    /// The group's own limits as the kernel has them. `None` is a limit that this host cannot set; what is not
    /// limited is [`Limit::Max`]; of devices those are named that are limited, by their numbers (`/dev/block/7:3`), and of
    /// processors those that are really used. A group above may limit further.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] if the group does not exist; [`crate::Error::Os`] if a file cannot be read.
    pub fn limits(&self) -> Result<CgroupLimits> {
        if !self.exists() {
            return Err(self.not_found());
        }
        let version = |controller| self.hierarchies().serving(controller).map(|hierarchy| hierarchy.version);
        let mut limits = CgroupLimits::default();
        match version(Controller::Memory) {
            Some(Version::V1) => {
                let memory = self.bytes("memory.limit_in_bytes")?;
                let sum = self.bytes("memory.memsw.limit_in_bytes")?;
                limits.memory_max_bytes = memory;
                limits.memory_swap_max_bytes = match (memory, sum) {
                    (Some(Limit::At(memory)), Some(Limit::At(sum))) => {
                        Some(Limit::At(sum.saturating_sub(memory)))
                    }
                    (_, other) => other,
                };
            }
            Some(Version::V2) => {
                limits.memory_max_bytes = self.bytes("memory.max")?;
                limits.memory_high_bytes = self.bytes("memory.high")?;
                limits.memory_swap_max_bytes = self.bytes("memory.swap.max")?;
                let group = self.read(Controller::Memory, "memory.oom.group")?;
                limits.memory_oom_group = group.map(|text| text.trim() == "1");
            }
            None => {}
        }
        if let Some(version) = version(Controller::Cpu) {
            limits.cpu = self.quota(version)?;
            limits.cpu_weight = self.weight(version)?;
        }
        if let Some(version) = version(Controller::Cpuset) {
            let file = if version == Version::V1 { "cpuset.effective_cpus" } else { "cpuset.cpus.effective" };
            limits.cpus = self.read(Controller::Cpuset, file)?.and_then(|text| text.trim().parse().ok());
        }
        if let Some(version) = version(Controller::Io) {
            self.read_io(version, &mut limits)?;
        }
        if let Some(version) = version(Controller::Hugetlb) {
            self.read_huge_pages(version, &mut limits)?;
        }
        if version(Controller::Pids).is_some() {
            limits.pids_max = self.read(Controller::Pids, "pids.max")?.as_deref().and_then(parse_limit);
        }
        Ok(limits)
    }

    pub(super) fn bytes(&self, name: &str) -> Result<Option<Limit>> {
        Ok(self.read(Controller::Memory, name)?.as_deref().and_then(parse_limit))
    }

    fn quota(&self, version: Version) -> Result<Option<CpuQuota>> {
        let (quota, period) = match version {
            Version::V1 => (
                self.read(Controller::Cpu, "cpu.cfs_quota_us")?,
                self.read(Controller::Cpu, "cpu.cfs_period_us")?,
            ),
            Version::V2 => {
                let text = self.read(Controller::Cpu, "cpu.max")?;
                let fields = text.as_deref().and_then(|text| text.trim().split_once(' '));
                fields
                    .map_or((None, None), |(quota, period)| (Some(quota.to_owned()), Some(period.to_owned())))
            }
        };
        let file = if version == Version::V1 { "cpu.cfs_burst_us" } else { "cpu.max.burst" };
        let burst = self.read(Controller::Cpu, file)?.and_then(|text| text.trim().parse().ok());
        let burst = Duration::from_micros(burst.unwrap_or(0));
        let quota = quota.as_deref().and_then(parse_limit);
        let period = period.and_then(|text| text.trim().parse().ok());
        Ok(quota
            .zip(period)
            .and_then(|(quota, period)| CpuQuota::checked(quota, period, true).ok())
            // Without a quota the kernel keeps a burst that means nothing.
            .map(|quota| quota.with_burst(burst).unwrap_or(quota)))
    }

    fn weight(&self, version: Version) -> Result<Option<CpuWeight>> {
        let file = if version == Version::V1 { "cpu.shares" } else { "cpu.weight" };
        let number = self.read(Controller::Cpu, file)?.and_then(|text| text.trim().parse().ok());
        Ok(match version {
            Version::V1 => number.map(CpuWeight::from_shares),
            Version::V2 => number.and_then(|weight| CpuWeight::new(weight).ok()),
        })
    }

    fn read_io(&self, version: Version, limits: &mut CgroupLimits) -> Result<()> {
        let device = |number: &str| IoDevice::Path(format!("/dev/block/{number}").into());
        let mut fields = BTreeMap::<IoDevice, [Option<Limit>; 4]>::new();
        if version == Version::V1 {
            for (index, (_, file)) in IoLimits::KEYS.into_iter().enumerate() {
                let text = self.read(Controller::Io, file)?.unwrap_or_default();
                for (number, value) in text.lines().filter_map(|line| line.split_once(' ')) {
                    fields.entry(device(number)).or_default()[index] = parse_limit(value);
                }
            }
        } else {
            let text = self.read(Controller::Io, "io.max")?.unwrap_or_default();
            for (number, pairs) in text.lines().filter_map(|line| line.split_once(' ')) {
                for (key, value) in pairs.split(' ').filter_map(|pair| pair.split_once('=')) {
                    if let Some(index) = IoLimits::KEYS.iter().position(|(known, _)| *known == key) {
                        fields.entry(device(number)).or_default()[index] = parse_limit(value);
                    }
                }
            }
        }
        limits.io =
            fields.into_iter().map(|(device, fields)| (device, IoLimits::from_fields(fields))).collect();
        let file = if version == Version::V1 { "blkio.bfq.weight" } else { "io.bfq.weight" };
        let weight = self.read(Controller::Io, file)?;
        limits.io_weight =
            weight.and_then(|text| parse_weight(&text)).and_then(|weight| IoWeight::new(weight).ok());
        Ok(())
    }

    fn read_huge_pages(&self, version: Version, limits: &mut CgroupLimits) -> Result<()> {
        let names = self.hierarchies().probe().huge_pages.split_whitespace();
        for size in names.filter_map(HugePageSize::from_directory) {
            let file = match version {
                Version::V1 => format!("hugetlb.{size}.limit_in_bytes"),
                Version::V2 => format!("hugetlb.{size}.max"),
            };
            let limit = self.read(Controller::Hugetlb, &file)?.as_deref().and_then(parse_limit);
            limits.hugetlb_max_bytes.extend(limit.map(|limit| (size, limit)));
        }
        Ok(())
    }
}
