//! Killing everything in a group, fork bombs too.
//!
//! v2 does it in one step (`cgroup.kill`, kernel 5.14). Elsewhere: freeze, so that nothing can fork, send SIGKILL to
//! each, unfreeze (a process that the v1 freezer holds dies only then), and again until nobody is left.

use std::os::fd::AsFd;
use std::time::Duration;

use super::controller::Controller;
use super::freeze::v1_is_frozen;
use super::group::Cgroup;
use super::membership::memberships;
use super::walk;
use crate::error::{Error, Result};
use crate::sys::wait::{deadline, until_true};
use crate::sys::{file, pidfd};

/// For how long one round waits for the freezer before it kills what it sees anyway.
const FREEZE_PATIENCE: Duration = Duration::from_millis(20);

impl Cgroup {
    /// Kills every process in the group and beneath it with SIGKILL, frozen or not, and returns when none is left.
    /// Its parent still has to reap it. A group that does not exist has none.
    ///
    /// # Errors
    /// [`Error::Busy`] naming processes that are left after `timeout` (one can hang in the kernel on a dead disk);
    /// [`Error::Os`] otherwise.
    pub fn kill(&self, timeout: Duration) -> Result<()> {
        let _span = tracing::debug_span!("cgroup_kill", path = %self.path()).entered();
        let end = deadline(timeout);
        if let Some(dir) = self.unified_dir() {
            // Missing: the group, or the file on a kernel before 5.14.
            walk::write(&dir, "cgroup.kill", "1")?;
        }
        if self.processes()?.is_empty() {
            return Ok(());
        }
        tracing::debug!(path = %self.path(), "killing what is in the cgroup");
        // The v1 freezer may hold what v2 has just killed.
        self.unfreeze_all()?;
        if until_true(end.min(deadline(FREEZE_PATIENCE)), || Ok(self.processes()?.is_empty()))? {
            return Ok(());
        }
        if until_true(end, || self.kill_round())? {
            return Ok(());
        }
        Err(self.busy(&format!("not empty {timeout:?} after SIGKILL")))
    }

    /// One round by hand. True when nobody is left.
    fn kill_round(&self) -> Result<bool> {
        let stopped = self.hold_forks();
        let killed = self.processes().and_then(|list| {
            list.iter().try_for_each(|process| self.kill_one(*process))?;
            Ok(list.is_empty())
        });
        // In any case: what stays frozen never dies.
        let unfrozen = self.unfreeze_all();
        if let Some(before) = stopped? {
            self.write_pids_max(&before)?;
        }
        unfrozen?;
        killed
    }

    /// Stops processes from forking while they are killed: by each freezer, and by the pids limit for those that are
    /// in no freezer. Returns that limit as it was.
    fn hold_forks(&self) -> Result<Option<String>> {
        if let Some(dir) = self.freezable_unified() {
            walk::write(&dir, "cgroup.freeze", "1")?;
        }
        if let Some(dir) = self.v1_freezer() {
            until_true(deadline(FREEZE_PATIENCE), || {
                walk::write(&dir, "freezer.state", "FROZEN")?;
                v1_is_frozen(&dir)
            })?;
        }
        let before = self.read(Controller::Pids, "pids.max")?;
        if before.is_some() {
            self.write_pids_max("0")?;
        }
        Ok(before)
    }

    fn write_pids_max(&self, value: &str) -> Result<()> {
        self.dir(Controller::Pids).map_or(Ok(()), |dir| walk::write(&dir, "pids.max", value.trim()))
    }

    /// Kills one process, if it still is the one that was listed: its number may be another's by now, so it is held
    /// by a descriptor first and looked at then.
    fn kill_one(&self, process: u32) -> Result<()> {
        let Some(held) = pidfd::open(process)? else { return Ok(()) };
        if self.holds(process)? {
            pidfd::signal(held.as_fd(), libc::SIGKILL)?;
        }
        Ok(())
    }

    /// Whether `process` is in this group or beneath it, in any hierarchy.
    fn holds(&self, process: u32) -> Result<bool> {
        let text = match file::of_process(process, "cgroup") {
            Ok(text) => text,
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
                return Ok(false);
            }
            Err(error) => return Err(Error::os("read", format_args!("/proc/{process}/cgroup"), error)),
        };
        Ok(memberships(&text).any(|its| {
            let inside = its.group.strip_prefix('/').and_then(|path| path.strip_prefix(self.path()));
            inside.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }))
    }
}
