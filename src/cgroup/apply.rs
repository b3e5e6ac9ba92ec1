//! Limits of a group: writing them, reading them back, comparing.

use std::path::PathBuf;

use super::controller::{Controller, Version};
use super::group::Cgroup;
use super::limit::Limit;
use super::limits::CgroupLimits;
use super::quota::CpuQuota;
use super::remedy;
use super::settings::{Setting, settings};
use super::walk;
use crate::error::{Error, Result};
use crate::sys::file;

/// The kernel counts whole pages, of 64 KiB at most, and rounds a limit down.
const PAGE_MOST_BYTES: u64 = 64 << 10;
/// v1 prints "no limit" of memory as the greatest number of whole pages.
const V1_ENDLESS_BYTES: u64 = i64::MAX as u64 - PAGE_MOST_BYTES;

impl Cgroup {
    /// Writes `limits`, in the order that the present limits need, then reads each file back. What is `None` stays as
    /// it is (in v1 that is the *sum* of memory and swap: change both together).
    ///
    /// # Errors
    /// As [`settings`], before anything is written; [`Error::NotFound`] if the group does not exist;
    /// [`Error::Busy`] if its processes use more memory than the new limit and it cannot be reclaimed (with v2 before
    /// Linux 5.19 the kernel kills processes until it fits);
    /// [`Error::Differs`] if a file does not hold what was written; [`Error::Os`] naming the interface file otherwise.
    /// Limits written before the failure stay.
    pub fn apply(&self, limits: &CgroupLimits) -> Result<()> {
        let _span = tracing::debug_span!("cgroup_apply", path = %self.path()).entered();
        let mut table = settings(limits, self.hierarchies())?;
        self.order(&mut table)?;
        for setting in &table {
            self.reclaim_for(setting)?;
            self.write(setting)?;
            tracing::debug!(file = setting.file, value = %setting.value, "set limit");
        }
        self.compare(&table)
    }

    /// Checks that the group's limits are `limits`, as far as these say something. Memory may be less by under a page.
    ///
    /// # Errors
    /// [`Error::Differs`] naming each interface file, what is in it and what was asked for; as [`settings`];
    /// [`Error::NotFound`] if the group does not exist.
    pub fn verify(&self, limits: &CgroupLimits) -> Result<()> {
        self.compare(&settings(limits, self.hierarchies())?)
    }

    /// The group's own limits as the kernel has them. `None` is a limit that this host cannot set; what is not
    /// limited is [`Limit::Max`]. A group above may limit further.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the group does not exist; [`Error::Os`] if a file cannot be read.
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
                limits.memory_swap_max_bytes = self.bytes("memory.swap.max")?;
            }
            None => {}
        }
        limits.cpu = match version(Controller::Cpu) {
            Some(version) => self.quota(version)?,
            None => None,
        };
        if version(Controller::Pids).is_some() {
            limits.pids_max = self.read(Controller::Pids, "pids.max")?.as_deref().and_then(parse_limit);
        }
        Ok(limits)
    }

    fn bytes(&self, name: &str) -> Result<Option<Limit>> {
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
        let quota = quota.as_deref().and_then(parse_limit);
        let period = period.and_then(|text| text.trim().parse().ok());
        Ok(quota.zip(period).and_then(|(quota, period)| CpuQuota::checked(quota, period, true).ok()))
    }

    /// An interface file's content; `None` if the group is gone or has no such file.
    pub(super) fn read(&self, controller: Controller, name: &str) -> Result<Option<String>> {
        match self.hierarchies().serving(controller) {
            Some(hierarchy) => walk::read(&hierarchy.mount.join(self.path()), name),
            None => Ok(None),
        }
    }

    fn file(&self, controller: Controller, name: &str) -> Option<PathBuf> {
        Some(self.hierarchies().serving(controller)?.mount.join(self.path()).join(name))
    }

    /// Sorts so that no step is refused or allows more than both the old and the new limits do.
    fn order(&self, table: &mut [Setting]) -> Result<()> {
        let position = |table: &[Setting], name: &str| table.iter().position(|setting| setting.file == name);
        // v1 refuses a limit of memory above that of memory and swap: raise the sum first, lower it last.
        if let Some(memory) = position(table, "memory.limit_in_bytes")
            && let Some(sum) = position(table, "memory.memsw.limit_in_bytes")
            && above(parse_limit(&table[memory].value), self.bytes("memory.memsw.limit_in_bytes")?)
        {
            table.swap(memory, sum);
        }
        // v1 has two files for one fraction: first the one that makes it smaller. When both do, any order is right.
        if let Some(period) = position(table, "cpu.cfs_period_us")
            && let Some(quota) = position(table, "cpu.cfs_quota_us")
            && above(
                self.read(Controller::Cpu, "cpu.cfs_period_us")?.as_deref().and_then(parse_limit),
                parse_limit(&table[period].value),
            )
        {
            table.swap(period, quota);
        }
        Ok(())
    }

    /// Where v1 refuses a limit below what is in use, v2 kills until it fits. So there it is reclaimed beforehand.
    fn reclaim_for(&self, setting: &Setting) -> Result<()> {
        let ("memory.max", Some(Limit::At(most))) = (setting.file, parse_limit(&setting.value)) else {
            return Ok(());
        };
        let above_it = || -> Result<u64> {
            let used = self.read(Controller::Memory, "memory.current")?;
            Ok(used.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0).saturating_sub(most))
        };
        let Some(reclaim) = self.file(Controller::Memory, "memory.reclaim").filter(|path| path.exists())
        else {
            return Ok(());
        };
        // It is charged in batches that are not in use yet: a second try finds less.
        for _ in 0..3 {
            let excess = above_it()?;
            if excess == 0 {
                return Ok(());
            }
            match file::write_interface(&reclaim, &excess.to_string()) {
                Err(error) if error.errno() != Some(libc::EAGAIN) => return Err(error),
                _ => {}
            }
        }
        if above_it()? == 0 { Ok(()) } else { Err(self.in_use(setting)) }
    }

    fn in_use(&self, setting: &Setting) -> Error {
        Error::Busy {
            what: format!("cgroup `{}`", self.path()),
            reason: format!("its processes use more than {} bytes ({})", setting.value, setting.file),
        }
    }

    fn write(&self, setting: &Setting) -> Result<()> {
        let Some(path) = self.file(setting.controller, setting.file) else { return Err(self.not_found()) };
        let Err(error) = file::write_interface(&path, &setting.value) else { return Ok(()) };
        match (error.errno(), setting.file) {
            (Some(libc::ENOENT | libc::EACCES), _) if path.parent().is_some_and(|dir| !dir.is_dir()) => {
                Err(self.not_found())
            }
            // cgroupfs answers the creation of a file with EACCES, and a plain open with ENOENT.
            (Some(libc::ENOENT | libc::EACCES), "cpu.cfs_quota_us" | "cpu.cfs_period_us" | "cpu.max") => {
                Err(self.missing_file(setting, remedy::no_cpu_quota()))
            }
            (Some(libc::ENOENT | libc::EACCES), "memory.memsw.limit_in_bytes" | "memory.swap.max") => {
                Err(self.missing_file(setting, remedy::no_swap_accounting(self.hierarchies())))
            }
            (Some(libc::EBUSY), "memory.limit_in_bytes" | "memory.memsw.limit_in_bytes") => {
                Err(self.in_use(setting))
            }
            (Some(libc::EINVAL), "memory.limit_in_bytes") => Err(Error::invalid(
                "memory limit",
                setting.value.clone(),
                "is above the group's present limit of memory and swap together: state memory_swap_max_bytes, too",
            )),
            _ => Err(error),
        }
    }

    /// A file that is missing because its controller is off for this group is not the kernel's lack.
    fn missing_file(&self, setting: &Setting, otherwise: Error) -> Error {
        let sign = match setting.controller {
            Controller::Cpu => "cpu.weight",
            _ => "memory.max",
        };
        let off = setting.version == Version::V2
            && self.file(setting.controller, sign).is_some_and(|path| !path.exists());
        if !off {
            return otherwise;
        }
        Error::Unsupported {
            what: format!("{} of cgroup `{}`", setting.file, self.path()),
            needs: format!("it takes {} in cgroup.subtree_control of the group above it", setting.controller),
        }
    }

    fn compare(&self, table: &[Setting]) -> Result<()> {
        let mut differences = Vec::new();
        for setting in table {
            let found = self.read(setting.controller, setting.file)?;
            let found = found.as_deref().map(str::trim);
            if !found.is_some_and(|found| same(setting, found)) {
                let found = found.unwrap_or("missing");
                differences.push(format!("{} is {found}, asked {}", setting.file, setting.value));
            }
        }
        if differences.is_empty() {
            return Ok(());
        }
        if !self.exists() {
            return Err(self.not_found());
        }
        Err(Error::Differs { what: format!("cgroup `{}`", self.path()), difference: differences.join(", ") })
    }
}

/// Whether a file that holds `found` is as `setting` asks.
fn same(setting: &Setting, found: &str) -> bool {
    if setting.controller != Controller::Memory {
        return found == setting.value;
    }
    match (parse_limit(&setting.value), parse_limit(found)) {
        (Some(Limit::At(asked)), Some(Limit::At(found))) => found <= asked && asked - found < PAGE_MOST_BYTES,
        (asked, found) => asked.is_some() && asked == found,
    }
}

/// A limit as either interface writes it.
fn parse_limit(text: &str) -> Option<Limit> {
    match text.trim() {
        "max" | "-1" => Some(Limit::Max),
        number => {
            let value: u64 = number.parse().ok()?;
            Some(if value >= V1_ENDLESS_BYTES { Limit::Max } else { Limit::At(value) })
        }
    }
}

fn above(one: Option<Limit>, other: Option<Limit>) -> bool {
    match (one, other) {
        (Some(Limit::Max), Some(Limit::At(_))) => true,
        (Some(Limit::At(one)), Some(Limit::At(other))) => one > other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_either_interface_prints_them() {
        for (text, expected) in [
            ("max\n", Some(Limit::Max)),
            ("-1\n", Some(Limit::Max)),
            ("9223372036854771712\n", Some(Limit::Max)),
            ("134217728\n", Some(Limit::At(134_217_728))),
            ("0", Some(Limit::At(0))),
            ("", None),
            ("1 2", None),
        ] {
            assert_eq!(parse_limit(text), expected, "{text:?}");
        }
    }

    #[test]
    fn memory_is_the_same_up_to_a_page() {
        let setting = |value: &str| Setting {
            controller: Controller::Memory,
            version: Version::V2,
            file: "memory.max",
            value: value.to_owned(),
        };
        for (asked, found, expected) in [
            ("10000000", "9998336", true),
            ("10000000", "10000001", false),
            ("10000000", "9900000", false),
            ("max", "max", true),
            ("-1", "9223372036854771712", true),
            ("10000000", "max", false),
            ("10000000", "", false),
        ] {
            assert_eq!(same(&setting(asked), found), expected, "{asked} {found}");
        }
    }
}
