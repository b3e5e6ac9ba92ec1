//! What a group uses now (`Documentation/admin-guide/cgroup-v2.rst`, `cgroup-v1/`, `accounting/psi.rst`).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::controller::{Controller, Version};
use super::group::Cgroup;
use super::hierarchy::{Hierarchies, Hierarchy};
use super::huge_page::HugePageSize;
use super::io_usage::IoUsage;
use super::pressure::Pressure;
use super::walk;
use crate::error::Result;

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
    /// How often memory was reclaimed because of the limit (`max` of `memory.events`, v1 `memory.failcnt`). On v1 it
    /// stays 0 where no swap is allowed, since the limit of memory and swap together comes first: see [`oom_kills`](Self::oom_kills).
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
    /// What the group and those beneath it use now: one look at some fifteen files, a fraction of a millisecond. Who asks often
    /// takes a [`Cgroup::meter`].
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] if the group does not exist; [`crate::Error::Os`] if a file cannot be read.
    pub fn usage(&self) -> Result<CgroupUsage> {
        CgroupUsage::gather(&mut { self })
    }
}

/// Where figures come from.
pub(super) trait Source {
    /// Whose they are.
    fn group(&self) -> &Cgroup;

    /// The group's interface file `name` in the hierarchy at `root`; `None` if there is none.
    fn text(&mut self, root: &Path, name: &str) -> Result<Option<String>>;

    /// What `key` of that file counts in the group and in each beneath it, together.
    fn sum(&mut self, root: &Path, name: &str, key: &str) -> Result<Option<u64>>;

    /// As [`Source::text`], of a file that is one number.
    fn number(&mut self, root: &Path, name: &str) -> Result<Option<u64>> {
        Ok(self.text(root, name)?.and_then(|text| text.trim().parse().ok()))
    }
}

/// Each file is opened anew.
impl Source for &Cgroup {
    fn group(&self) -> &Cgroup {
        self
    }

    fn text(&mut self, root: &Path, name: &str) -> Result<Option<String>> {
        walk::read(&root.join(self.path()), name)
    }

    fn sum(&mut self, root: &Path, name: &str, key: &str) -> Result<Option<u64>> {
        walk::sum(&root.join(self.path()), name, key)
    }
}

impl CgroupUsage {
    pub(super) fn gather(source: &mut impl Source) -> Result<Self> {
        let hierarchies = source.group().hierarchies().clone();
        let mut usage = Self::default();
        if let Some(memory) = hierarchies.serving(Controller::Memory) {
            usage.read_memory(memory, source)?;
        }
        usage.read_cpu(&hierarchies, source)?;
        if let Some(pids) = hierarchies.serving(Controller::Pids) {
            usage.pids = source.number(&pids.mount, "pids.current")?;
            usage.pids_max_hits = if hierarchies.counts_beneath(Controller::Pids) {
                source.text(&pids.mount, "pids.events")?.and_then(|text| walk::field(&text, "max"))
            } else {
                source.sum(&pids.mount, "pids.events", "max")?
            };
        }
        if let Some(io) = hierarchies.serving(Controller::Io) {
            usage.read_io(io, source)?;
        }
        if let Some(hugetlb) = hierarchies.serving(Controller::Hugetlb) {
            usage.read_huge_pages(hugetlb, &hierarchies.probe().huge_pages, source)?;
        }
        if let Some(root) = hierarchies.unified() {
            let mut pressure = |name| Ok(source.text(root, name)?.as_deref().and_then(Pressure::parse));
            usage.cpu_pressure = pressure("cpu.pressure")?;
            // A kernel that does not count it tells so for all three.
            if usage.cpu_pressure.is_some() {
                usage.memory_pressure = pressure("memory.pressure")?;
                usage.io_pressure = pressure("io.pressure")?;
            }
        }
        if usage == Self::default() && !source.group().exists() {
            return Err(source.group().not_found());
        }
        Ok(usage)
    }

    fn read_memory(&mut self, memory: &Hierarchy, source: &mut impl Source) -> Result<()> {
        let root = &*memory.mount;
        match memory.version {
            Version::V1 => {
                self.memory_bytes = source.number(root, "memory.usage_in_bytes")?;
                self.memory_peak_bytes = source.number(root, "memory.max_usage_in_bytes")?;
                let sum = source.number(root, "memory.memsw.usage_in_bytes")?;
                self.memory_swap_bytes =
                    sum.zip(self.memory_bytes).map(|(sum, memory)| sum.saturating_sub(memory));
                self.memory_max_hits = source.number(root, "memory.failcnt")?;
                self.oom_kills = source.sum(root, "memory.oom_control", "oom_kill")?;
            }
            Version::V2 => {
                self.memory_bytes = source.number(root, "memory.current")?;
                self.memory_peak_bytes = source.number(root, "memory.peak")?;
                self.memory_swap_bytes = source.number(root, "memory.swap.current")?;
                let events = source.text(root, "memory.events")?.unwrap_or_default();
                self.memory_max_hits = walk::field(&events, "max");
                self.memory_high_hits = walk::field(&events, "high");
                self.oom_kills = walk::field(&events, "oom_kill");
            }
        }
        Ok(())
    }

    fn read_cpu(&mut self, hierarchies: &Hierarchies, source: &mut impl Source) -> Result<()> {
        let micros = |text: &str, key| walk::field(text, key).map(Duration::from_micros);
        if let Some(cpu) = hierarchies.serving(Controller::Cpu)
            && let Some(text) = source.text(&cpu.mount, "cpu.stat")?
        {
            self.cpu_periods = walk::field(&text, "nr_periods");
            self.cpu_throttled_periods = walk::field(&text, "nr_throttled");
            match cpu.version {
                Version::V1 => {
                    self.cpu_throttled = walk::field(&text, "throttled_time").map(Duration::from_nanos);
                }
                Version::V2 => {
                    self.cpu_throttled = micros(&text, "throttled_usec");
                    self.cpu_time = micros(&text, "usage_usec");
                }
            }
        }
        if let Some(accounting) = hierarchies.serving(Controller::CpuAccounting) {
            self.cpu_time = source.number(&accounting.mount, "cpuacct.usage")?.map(Duration::from_nanos);
        }
        // Every v2 group accounts it, with or without the controller.
        if let (None, Some(root)) = (self.cpu_time, hierarchies.unified()) {
            self.cpu_time = source.text(root, "cpu.stat")?.and_then(|text| micros(&text, "usage_usec"));
        }
        Ok(())
    }

    fn read_io(&mut self, io: &Hierarchy, source: &mut impl Source) -> Result<()> {
        let mut text = |name| Ok(source.text(&io.mount, name)?.unwrap_or_default());
        self.io = match io.version {
            Version::V1 => IoUsage::parse_v1(
                &text("blkio.throttle.io_service_bytes_recursive")?,
                &text("blkio.throttle.io_serviced_recursive")?,
            ),
            Version::V2 => IoUsage::parse_v2(&text("io.stat")?),
        };
        Ok(())
    }

    /// `sizes` are the kernel's directories for huge pages.
    fn read_huge_pages(&mut self, hugetlb: &Hierarchy, sizes: &str, source: &mut impl Source) -> Result<()> {
        for size in sizes.split_whitespace().filter_map(HugePageSize::from_directory) {
            let file = match hugetlb.version {
                Version::V1 => format!("hugetlb.{size}.usage_in_bytes"),
                Version::V2 => format!("hugetlb.{size}.current"),
            };
            let Some(bytes) = source.number(&hugetlb.mount, &file)? else { break };
            self.hugetlb_bytes.insert(size, bytes);
        }
        Ok(())
    }
}
