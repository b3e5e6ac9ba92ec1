//! What a group uses now.

use std::time::Duration;

use serde::Serialize;

use super::controller::{Controller, Version};
use super::group::Cgroup;
use super::walk;
use crate::error::Result;

/// What a group and those beneath it use. `None` is what this host does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CgroupUsage {
    /// Memory in bytes, with the page cache (`memory.current`, v1 `memory.usage_in_bytes`).
    pub memory_bytes: Option<u64>,
    /// The most it ever was (`memory.peak` from 5.19 on, v1 `memory.max_usage_in_bytes`).
    pub memory_peak_bytes: Option<u64>,
    /// CPU time since the group was made.
    pub cpu_time: Option<Duration>,
    /// For how long its processes were held back by the CPU quota.
    pub cpu_throttled: Option<Duration>,
    /// In how many periods the quota was used up.
    pub cpu_throttled_periods: Option<u64>,
    /// Processes and threads now (`pids.current`).
    pub pids: Option<u64>,
    /// Processes that the kernel killed for memory (`oom_kill`).
    pub oom_kills: Option<u64>,
}

impl Cgroup {
    /// What the group and those beneath it use now.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] if the group does not exist; [`crate::Error::Os`] if a file cannot be read.
    pub fn usage(&self) -> Result<CgroupUsage> {
        if !self.exists() {
            return Err(self.not_found());
        }
        let mut usage = CgroupUsage::default();
        let version = |controller| self.hierarchies().serving(controller).map(|hierarchy| hierarchy.version);
        match version(Controller::Memory) {
            Some(Version::V1) => {
                usage.memory_bytes = self.number(Controller::Memory, "memory.usage_in_bytes")?;
                usage.memory_peak_bytes = self.number(Controller::Memory, "memory.max_usage_in_bytes")?;
                usage.oom_kills = self.v1_oom_kills()?;
            }
            Some(Version::V2) => {
                usage.memory_bytes = self.number(Controller::Memory, "memory.current")?;
                usage.memory_peak_bytes = self.number(Controller::Memory, "memory.peak")?;
                let events = self.read(Controller::Memory, "memory.events")?;
                usage.oom_kills = events.and_then(|text| walk::field(&text, "oom_kill"));
            }
            None => {}
        }
        if let Some(version) = version(Controller::Cpu) {
            let stat = self.read(Controller::Cpu, "cpu.stat")?.unwrap_or_default();
            usage.cpu_throttled_periods = walk::field(&stat, "nr_throttled");
            usage.cpu_throttled = match version {
                Version::V1 => walk::field(&stat, "throttled_time").map(Duration::from_nanos),
                Version::V2 => walk::field(&stat, "throttled_usec").map(Duration::from_micros),
            };
        }
        usage.cpu_time = self.cpu_time()?;
        usage.pids = self.number(Controller::Pids, "pids.current")?;
        Ok(usage)
    }

    fn cpu_time(&self) -> Result<Option<Duration>> {
        if let Some(nanos) = self.number(Controller::CpuAccounting, "cpuacct.usage")? {
            return Ok(Some(Duration::from_nanos(nanos)));
        }
        // Every v2 group accounts it, with or without the controller.
        let Some(dir) = self.unified_dir() else { return Ok(None) };
        Ok(walk::read(&dir, "cpu.stat")?
            .and_then(|text| walk::field(&text, "usage_usec"))
            .map(Duration::from_micros))
    }

    /// v1 counts a kill in the process's own group only: the sum over all beneath this one.
    fn v1_oom_kills(&self) -> Result<Option<u64>> {
        let Some(dir) = self.v1_dir(Controller::Memory) else { return Ok(None) };
        let mut sum = None;
        walk::visit(&dir, &mut |group| {
            let text = walk::read_at(group, "memory.oom_control")?;
            if let Some(kills) = text.and_then(|text| walk::field(&text, "oom_kill")) {
                sum = Some(sum.unwrap_or(0) + kills);
            }
            Ok(())
        })?;
        Ok(sum)
    }

    fn number(&self, controller: Controller, name: &str) -> Result<Option<u64>> {
        Ok(self.read(controller, name)?.and_then(|text| text.trim().parse().ok()))
    }
}
