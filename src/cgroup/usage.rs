//! What a group uses now (`Documentation/admin-guide/cgroup-v2.rst`, `cgroup-v1/`, `accounting/psi.rst`).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::controller::{Controller, Version};
use super::group::Cgroup;
use super::huge_page::HugePageSize;
use super::io_usage::IoUsage;
use super::pressure::Pressure;
use super::walk;
use crate::error::Result;
use crate::sys::kernel;

/// What a group and those beneath it use, and how often they ran into their limits. Counts are since the group was made. `None` is what
/// this host does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CgroupUsage {
    /// Memory in bytes, with the page cache (`memory.current`, v1 `memory.usage_in_bytes`).
    pub memory_bytes: Option<u64>,
    /// The most it ever was (`memory.peak` from 5.19 on, v1 `memory.max_usage_in_bytes`).
    pub memory_peak_bytes: Option<u64>,
    /// Swap in bytes (`memory.swap.current`, v1 what `memory.memsw.usage_in_bytes` is beyond memory).
    pub memory_swap_bytes: Option<u64>,
    /// How often memory was reclaimed because of the limit (`max` of `memory.events`, v1 `memory.failcnt`).
    pub memory_max_hits: Option<u64>,
    /// How often processes were held back because of the high limit (`high` of `memory.events`). v2 only.
    pub memory_high_hits: Option<u64>,
    /// Processes that the kernel killed for memory (`oom_kill`).
    pub oom_kills: Option<u64>,
    /// CPU time (`usage_usec` of `cpu.stat`, v1 `cpuacct.usage`).
    pub cpu_time: Option<Duration>,
    /// For how long its processes were held back by the CPU quota.
    pub cpu_throttled: Option<Duration>,
    /// How many periods of the quota its processes wanted to run in.
    pub cpu_periods: Option<u64>,
    /// In how many of them the quota was used up.
    pub cpu_throttled_periods: Option<u64>,
    /// Processes and threads now (`pids.current`).
    pub pids: Option<u64>,
    /// How many forks were refused because of the limit (`max` of `pids.events`).
    pub pids_max_hits: Option<u64>,
    /// What went to and from each block device, by its number: `7:3`. Empty where nothing counts it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub io: BTreeMap<String, IoUsage>,
    /// Huge pages in use, in bytes. Empty where nothing counts them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hugetlb_bytes: BTreeMap<HugePageSize, u64>,
    /// For how long processes waited for a processor. This and the next two take a v2 hierarchy and a kernel that
    /// counts it (`CONFIG_PSI`, and `psi=1` in the boot line where it is off by default).
    pub cpu_pressure: Option<Pressure>,
    /// For how long processes waited for memory.
    pub memory_pressure: Option<Pressure>,
    /// For how long processes waited for input and output.
    pub io_pressure: Option<Pressure>,
}

impl Cgroup {
    /// What the group and those beneath it use now: one look at some fifteen files, a fraction of a millisecond.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] if the group does not exist; [`crate::Error::Os`] if a file cannot be read.
    pub fn usage(&self) -> Result<CgroupUsage> {
        let mut usage = CgroupUsage::default();
        self.read_memory(&mut usage)?;
        self.read_cpu(&mut usage)?;
        self.read_pids(&mut usage)?;
        self.read_devices(&mut usage)?;
        if let Some(dir) = self.unified_dir() {
            let pressure = |name| Ok(walk::read(&dir, name)?.as_deref().and_then(Pressure::parse));
            usage.cpu_pressure = pressure("cpu.pressure")?;
            // A kernel that does not count it tells so for all three.
            if usage.cpu_pressure.is_some() {
                usage.memory_pressure = pressure("memory.pressure")?;
                usage.io_pressure = pressure("io.pressure")?;
            }
        }
        if usage == CgroupUsage::default() && !self.exists() {
            return Err(self.not_found());
        }
        Ok(usage)
    }

    fn read_memory(&self, usage: &mut CgroupUsage) -> Result<()> {
        match self.version_of(Controller::Memory) {
            Some(Version::V1) => {
                usage.memory_bytes = self.number(Controller::Memory, "memory.usage_in_bytes")?;
                usage.memory_peak_bytes = self.number(Controller::Memory, "memory.max_usage_in_bytes")?;
                let sum = self.number(Controller::Memory, "memory.memsw.usage_in_bytes")?;
                usage.memory_swap_bytes =
                    sum.zip(usage.memory_bytes).map(|(sum, memory)| sum.saturating_sub(memory));
                usage.memory_max_hits = self.number(Controller::Memory, "memory.failcnt")?;
                usage.oom_kills = self.sum(Controller::Memory, "memory.oom_control", "oom_kill")?;
            }
            Some(Version::V2) => {
                usage.memory_bytes = self.number(Controller::Memory, "memory.current")?;
                usage.memory_peak_bytes = self.number(Controller::Memory, "memory.peak")?;
                usage.memory_swap_bytes = self.number(Controller::Memory, "memory.swap.current")?;
                let events = self.read(Controller::Memory, "memory.events")?.unwrap_or_default();
                usage.memory_max_hits = walk::field(&events, "max");
                usage.memory_high_hits = walk::field(&events, "high");
                usage.oom_kills = walk::field(&events, "oom_kill");
            }
            None => {}
        }
        Ok(())
    }

    fn read_cpu(&self, usage: &mut CgroupUsage) -> Result<()> {
        let version = self.version_of(Controller::Cpu);
        let stat = self.read(Controller::Cpu, "cpu.stat")?;
        let text = stat.as_deref().unwrap_or_default();
        usage.cpu_periods = walk::field(text, "nr_periods");
        usage.cpu_throttled_periods = walk::field(text, "nr_throttled");
        usage.cpu_throttled = match version {
            Some(Version::V1) => walk::field(text, "throttled_time").map(Duration::from_nanos),
            _ => walk::field(text, "throttled_usec").map(Duration::from_micros),
        };
        usage.cpu_time = self.number(Controller::CpuAccounting, "cpuacct.usage")?.map(Duration::from_nanos);
        if usage.cpu_time.is_none() {
            // Every v2 group accounts it, with or without the controller.
            let unified = match (version, self.unified_dir()) {
                (Some(Version::V2), _) => stat,
                (_, Some(dir)) => walk::read(&dir, "cpu.stat")?,
                (_, None) => None,
            };
            let micros = unified.and_then(|text| walk::field(&text, "usage_usec"));
            usage.cpu_time = micros.map(Duration::from_micros);
        }
        Ok(())
    }

    fn read_pids(&self, usage: &mut CgroupUsage) -> Result<()> {
        usage.pids = self.number(Controller::Pids, "pids.current")?;
        usage.pids_max_hits = if self.counts_beneath(Controller::Pids) {
            self.read(Controller::Pids, "pids.events")?.and_then(|text| walk::field(&text, "max"))
        } else {
            self.sum(Controller::Pids, "pids.events", "max")?
        };
        Ok(())
    }

    fn read_devices(&self, usage: &mut CgroupUsage) -> Result<()> {
        match self.version_of(Controller::Io) {
            Some(Version::V1) => {
                let bytes = self.read(Controller::Io, "blkio.throttle.io_service_bytes_recursive")?;
                let count = self.read(Controller::Io, "blkio.throttle.io_serviced_recursive")?;
                usage.io = IoUsage::parse_v1(&bytes.unwrap_or_default(), &count.unwrap_or_default());
            }
            Some(Version::V2) => {
                let text = self.read(Controller::Io, "io.stat")?;
                usage.io = IoUsage::parse_v2(&text.unwrap_or_default());
            }
            None => {}
        }
        let Some(version) = self.version_of(Controller::Hugetlb) else { return Ok(()) };
        let names = self.hierarchies().probe().huge_pages.split_whitespace();
        for size in names.filter_map(HugePageSize::from_directory) {
            let file = match version {
                Version::V1 => format!("hugetlb.{size}.usage_in_bytes"),
                Version::V2 => format!("hugetlb.{size}.current"),
            };
            let Some(bytes) = self.number(Controller::Hugetlb, &file)? else { break };
            usage.hugetlb_bytes.insert(size, bytes);
        }
        Ok(())
    }

    pub(super) fn version_of(&self, controller: Controller) -> Option<Version> {
        self.hierarchies().serving(controller).map(|hierarchy| hierarchy.version)
    }

    /// Whether a group counts what happens beneath it, too. v1 does not, nor do the processes of v2 before 6.11.
    pub(super) fn counts_beneath(&self, controller: Controller) -> bool {
        let release = kernel::version(&self.hierarchies().probe().kernel_release);
        let is_new = controller != Controller::Pids || release.is_some_and(|release| release >= (6, 11));
        is_new && self.version_of(controller) == Some(Version::V2)
    }

    /// What was counted in the groups of processes: this one, and those beneath it that there are now.
    pub(super) fn sum(&self, controller: Controller, name: &str, key: &str) -> Result<Option<u64>> {
        let Some(hierarchy) = self.hierarchies().serving(controller) else { return Ok(None) };
        let dir = hierarchy.mount.join(self.path());
        let mut sum = None;
        walk::visit(&dir, &mut |group| {
            let text = walk::read_at(group, name)?;
            if let Some(count) = text.and_then(|text| walk::field(&text, key)) {
                sum = Some(sum.unwrap_or(0) + count);
            }
            Ok(())
        })?;
        Ok(sum)
    }

    fn number(&self, controller: Controller, name: &str) -> Result<Option<u64>> {
        Ok(self.read(controller, name)?.and_then(|text| text.trim().parse().ok()))
    }
}
