//! Limits that take more than one write: v1 keeps some for each group by itself, so that those beneath get them, too. See the kernel's
//! `Documentation/admin-guide/cgroup-v1/blkio-controller.rst` ("Hierarchical Cgroups") and `cpusets.rst`.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use rustix::fs::{Gid, Mode, Uid, fchmod, fchown};

use super::controller::Version;
use super::cpu_set::CpuSet;
use super::group::Cgroup;
use super::hierarchy::Layout;
use super::limits::CgroupLimits;
use super::setting::Setting;
use super::settings::settings;
use super::walk;
use crate::error::{Error, Result};

impl Cgroup {
    /// Writes those of `limits` that LXC leaves out, without a word: for the groups beneath what v1 does not inherit, and
    /// on a hybrid host what is v2's.
    pub(crate) fn complete(&self, limits: &CgroupLimits) -> Result<()> {
        let is_hybrid = self.hierarchies().layout() == Layout::Hybrid;
        for setting in settings(limits, self.hierarchies())? {
            if setting.is_flat() {
                self.write_flat(&setting)?;
            } else if is_hybrid && setting.version == Version::V2 {
                self.write(&setting)?;
            }
        }
        Ok(())
    }

    /// Writes a setting that holds for one group only into this one and each beneath it. From then on nobody but root makes
    /// groups in there, in which there would be no limit.
    pub(super) fn write_flat(&self, setting: &Setting) -> Result<()> {
        let dir = self.dir_of(setting)?;
        walk::visit(&dir, &mut |group| {
            fchown(group, Some(Uid::ROOT), Some(Gid::ROOT))?;
            fchmod(group, Mode::from_raw_mode(0o755))?;
            walk::write_at(group, &setting.file, &setting.value)
        })
    }

    /// Whether this group and each beneath it is as `setting` says. Else what one of them has.
    pub(super) fn differing_flat(&self, setting: &Setting) -> Result<Option<String>> {
        let mut different = None;
        walk::visit(&self.dir_of(setting)?, &mut |group| {
            let found = walk::read_at(group, setting.read_file())?;
            if let Some(found) = found.filter(|found| !setting.is_in(found)) {
                different = Some(found.trim().replace('\n', ", "));
            }
            Ok(())
        })?;
        Ok(different)
    }

    /// Changes the processors of a v1 group. There a group has no processor that the one above lacks, at no moment: so all of
    /// them get the new ones first, from above, then lose the others, from beneath. Who had divided them further has the
    /// new ones everywhere then.
    pub(super) fn write_v1_cpus(&self, setting: &Setting) -> Result<()> {
        let dir = self.dir_of(setting)?;
        let new: CpuSet = setting.value.parse()?;
        let widen = |group: BorrowedFd<'_>| {
            let old = walk::read_at(group, &setting.file)?;
            let both = match old.and_then(|old| old.trim().parse::<CpuSet>().ok()) {
                Some(old) => old.union(&new),
                None => new.clone(),
            };
            walk::write_at(group, &setting.file, &both.to_string())
        };
        let refused = |error: Error| match error.errno() {
            // The group above has less.
            Some(libc::EACCES | libc::EINVAL) => {
                let rule = "the group above has not all of them, or they are not online";
                Error::invalid("processors", setting.value.clone(), rule)
            }
            _ => error,
        };
        walk::visit(&dir, &mut |group| widen(group)).map_err(refused)?;
        let narrow = |group: BorrowedFd<'_>| -> io::Result<()> {
            walk::write_at(group, &setting.file, &setting.value)
        };
        walk::visit_upwards(&dir, &mut |group| narrow(group)).map_err(refused)
    }

    fn dir_of(&self, setting: &Setting) -> Result<PathBuf> {
        self.dir(setting.controller).ok_or_else(|| self.not_found())
    }
}
