//! Limits of a group: writing them, reading them back, comparing.

use std::path::PathBuf;

use super::controller::{Controller, Version};
use super::group::Cgroup;
use super::limit::Limit;
use super::limits::CgroupLimits;
use super::remedy;
use super::setting::{Setting, parse_limit};
use super::settings::settings;
use super::walk;
use crate::error::{Error, Result};
use crate::sys::file;

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
        if !self.exists() {
            return Err(self.not_found());
        }
        self.delegate_for(limits)?;
        self.order(&mut table)?;
        for setting in &table {
            self.reclaim_for(setting)?;
            match (setting.controller, setting.version) {
                (Controller::Cpuset, Version::V1) => self.write_v1_cpus(setting)?,
                _ if setting.is_flat() => self.write_flat(setting)?,
                _ => self.write(setting)?,
            }
            tracing::debug!(file = %setting.file, value = %setting.value, "set limit");
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

    /// An interface file's content; `None` if the group is gone or has no such file.
    pub(super) fn read(&self, controller: Controller, name: &str) -> Result<Option<String>> {
        self.dir(controller).map_or(Ok(None), |dir| walk::read(&dir, name))
    }

    fn file(&self, controller: Controller, name: &str) -> Option<PathBuf> {
        Some(self.dir(controller)?.join(name))
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
        // A burst is never above the quota: it is lowered before the quota is.
        let first = table.iter().position(|setting| setting.controller == Controller::Cpu);
        let burst = position(table, "cpu.max.burst").or_else(|| position(table, "cpu.cfs_burst_us"));
        if let Some((first, burst)) = first.zip(burst)
            && above(
                self.read(Controller::Cpu, &table[burst].file)?.as_deref().and_then(parse_limit),
                parse_limit(&table[burst].value),
            )
        {
            table[first..=burst].rotate_right(1);
        }
        Ok(())
    }

    /// Where v1 refuses a limit below what is in use, v2 kills until it fits. So there it is reclaimed beforehand.
    fn reclaim_for(&self, setting: &Setting) -> Result<()> {
        let ("memory.max", Some(Limit::At(most))) = (&*setting.file, parse_limit(&setting.value)) else {
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

    pub(super) fn write(&self, setting: &Setting) -> Result<()> {
        let Some(path) = self.file(setting.controller, &setting.file) else { return Err(self.not_found()) };
        let Err(error) = file::write_interface(&path, &setting.value) else { return Ok(()) };
        match (error.errno(), &*setting.file) {
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
            (Some(libc::ENOENT | libc::EACCES), file) if setting.controller == Controller::Io => {
                Err(self.missing_file(setting, remedy::no_io_file(file)))
            }
            (Some(libc::EBUSY), "memory.limit_in_bytes" | "memory.memsw.limit_in_bytes") => {
                Err(self.in_use(setting))
            }
            (Some(libc::EINVAL), "memory.limit_in_bytes") => Err(Error::invalid(
                "memory limit",
                setting.value.clone(),
                "is above the group's present limit of memory and swap together: state memory_swap_max_bytes, too",
            )),
            (Some(libc::ENOENT | libc::EACCES), _) => Err(self.missing_file(setting, error)),
            _ => Err(error),
        }
    }

    /// A file that is missing because its controller is off for this group is not the kernel's lack.
    fn missing_file(&self, setting: &Setting, otherwise: Error) -> Error {
        let sign = match setting.controller {
            Controller::Cpu => "cpu.weight",
            Controller::Cpuset => "cpuset.cpus",
            Controller::Memory => "memory.max",
            Controller::Pids => "pids.max",
            Controller::Io => "io.stat",
            Controller::Hugetlb => &setting.file,
            Controller::CpuAccounting | Controller::Freezer => return otherwise,
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
            let found = self.read(setting.controller, setting.read_file())?;
            let found = found.as_deref().map(str::trim);
            let different = match found {
                Some(found) if setting.is_in(found) && setting.is_flat() => self.differing_flat(setting)?,
                Some(found) if setting.is_in(found) => None,
                found => Some(found.unwrap_or("missing").replace('\n', ", ")),
            };
            if let Some(found) = different {
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

fn above(one: Option<Limit>, other: Option<Limit>) -> bool {
    match (one, other) {
        (Some(Limit::Max), Some(Limit::At(_))) => true,
        (Some(Limit::At(one)), Some(Limit::At(other))) => one > other,
        _ => false,
    }
}
