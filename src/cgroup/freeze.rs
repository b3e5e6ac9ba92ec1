//! Stopping all processes of a group where they are (`cgroup.freeze`; in v1 `freezer-subsystem.rst`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::controller::Controller;
use super::group::Cgroup;
use super::walk;
use crate::error::Result;
use crate::sys::file;
use crate::sys::wait::{deadline, until_true};

impl Cgroup {
    /// Freezes the group and those beneath it, and waits until every process stands still. Where the group is in v2
    /// its freezer is used, which lets frozen processes be killed; else that of v1.
    ///
    /// # Errors
    /// [`crate::Error::Busy`] naming processes if not all stand still within `timeout`: it is unfrozen again then.
    /// [`crate::Error::NotFound`] if the group does not exist; [`crate::Error::Unsupported`] without any freezer.
    pub fn freeze(&self, timeout: Duration) -> Result<()> {
        let _span = tracing::debug_span!("cgroup_freeze", path = %self.path()).entered();
        let end = deadline(timeout);
        let unified = self.freezable_unified();
        let frozen = match (&unified, self.v1_freezer()) {
            (Some(dir), _) => {
                file::write_interface(&dir.join("cgroup.freeze"), "1")?;
                until_true(end, || Ok(walk::flag(dir, "cgroup.events", "frozen")? == Some(true)))?
            }
            // Writing again catches what was forked meanwhile.
            (None, Some(dir)) => until_true(end, || {
                file::write_interface(&dir.join("freezer.state"), "FROZEN")?;
                v1_is_frozen(&dir)
            })?,
            (None, None) if self.exists() => {
                return Err(crate::Error::Unsupported {
                    what: format!("freezing cgroup `{}`", self.path()),
                    needs: "it takes cgroup2 from kernel 5.2 on, or the v1 freezer (CONFIG_CGROUP_FREEZER=y), and the group in it"
                        .to_owned(),
                });
            }
            (None, None) => return Err(self.not_found()),
        };
        if frozen {
            tracing::debug!(path = %self.path(), "froze cgroup");
            return Ok(());
        }
        let error = self.busy(&format!("not frozen within {timeout:?}"));
        self.unfreeze_all()?;
        Err(error)
    }

    /// Lets the processes run on, whichever freezer holds them, and waits until the kernel says so. Groups beneath
    /// that were frozen on their own are unfrozen in v1 and stay frozen in v2.
    ///
    /// # Errors
    /// [`crate::Error::Busy`] if it is still frozen after `timeout`, as it is when a group above it is frozen;
    /// [`crate::Error::NotFound`] if the group does not exist.
    pub fn unfreeze(&self, timeout: Duration) -> Result<()> {
        if !self.exists() {
            return Err(self.not_found());
        }
        self.unfreeze_all()?;
        if until_true(deadline(timeout), || Ok(!self.is_frozen()?))? {
            tracing::debug!(path = %self.path(), "unfrozen cgroup");
            return Ok(());
        }
        Err(self.busy(&format!("still frozen after {timeout:?}")))
    }

    /// Whether all its processes stand still, by either freezer. A group that does not exist is not frozen.
    ///
    /// # Errors
    /// [`crate::Error::Os`] if the state cannot be read.
    pub fn is_frozen(&self) -> Result<bool> {
        if let Some(dir) = self.freezable_unified()
            && walk::flag(&dir, "cgroup.events", "frozen")? == Some(true)
        {
            return Ok(true);
        }
        match self.v1_freezer() {
            Some(dir) => v1_is_frozen(&dir),
            None => Ok(false),
        }
    }

    /// Takes both freezers away.
    pub(super) fn unfreeze_all(&self) -> Result<()> {
        if let Some(dir) = self.freezable_unified() {
            walk::write(&dir, "cgroup.freeze", "0")?;
        }
        if let Some(dir) = self.v1_freezer() {
            walk::visit(&dir, &mut |group| walk::write_at(group, "freezer.state", "THAWED"))?;
        }
        Ok(())
    }

    pub(super) fn freezable_unified(&self) -> Option<PathBuf> {
        self.unified_dir().filter(|dir| dir.join("cgroup.freeze").exists())
    }

    pub(super) fn v1_freezer(&self) -> Option<PathBuf> {
        self.v1_dir(Controller::Freezer).filter(|dir| dir.join("freezer.state").exists())
    }
}

pub(super) fn v1_is_frozen(dir: &Path) -> Result<bool> {
    Ok(walk::read(dir, "freezer.state")?.is_some_and(|state| state.trim() == "FROZEN"))
}
