//! A container's end.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::Result;
use crate::lxc::container::{Container, KILL_PATIENCE};
use crate::lxc::groups::Groups;
use crate::lxc::lock_file;
use crate::lxc::mount::Place;
use crate::lxc::record::Record;
use crate::sys::{file, pidfd, wait};

/// How long killed processes are waited for one by one, before the group is killed as a whole. One that is frozen by v1
/// does not die before that, and init ends late if the host's init is slow to reap.
const KNOWN_PATIENCE: Duration = Duration::from_millis(30);

/// How a container stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopOutcome {
    /// Init shut down by itself.
    Graceful,
    /// It was killed: there was no time to wait, or it passed.
    Killed,
    /// It did not run.
    NotRunning,
}

impl Container {
    /// Ends it as [`Container::end`], and removes what is left, as [`Container::clean`].
    ///
    /// # Errors
    /// [`Error::Busy`](crate::Error::Busy) naming processes that do not die; [`Error::Os`](crate::Error::Os) otherwise.
    pub fn stop(&self, graceful: Duration) -> Result<StopOutcome> {
        let outcome = self.end(graceful)?;
        self.clean()?;
        Ok(outcome)
    }

    /// Sends the halt signal to init, waits for at most `graceful` until it has ended, and kills what is left then, a
    /// half-started runtime too. With zero all is killed at once. A frozen container is unfrozen for it. Its root and its
    /// network are not used any more when this returns; its control groups are there until [`Container::clean`].
    ///
    /// # Errors
    /// As [`Container::stop`].
    pub fn end(&self, graceful: Duration) -> Result<StopOutcome> {
        let _span = tracing::info_span!("container_end", id = %self.id).entered();
        let outcome = match self.running()? {
            None => StopOutcome::NotRunning,
            Some(_) if graceful.is_zero() => StopOutcome::Killed,
            Some(running) => {
                self.groups.payload.unfreeze(KILL_PATIENCE)?;
                pidfd::signal(running.init_fd.as_fd(), running.record.halt_signal.number())?;
                tracing::debug!(init = running.init.pid, signal = %running.record.halt_signal, "sent halt signal");
                match pidfd::wait_exit(running.init_fd.as_fd(), Some(graceful))? {
                    true => {
                        // Killed before it could say so, its monitor would take init's exit code with it.
                        self.await_exit(Some(running.record.monitor))?;
                        StopOutcome::Graceful
                    }
                    false => StopOutcome::Killed,
                }
            }
        };
        self.kill_left()?;
        Ok(outcome)
    }

    /// Kills it and removes what is left: [`Container::stop`] without any grace.
    ///
    /// # Errors
    /// As [`Container::stop`].
    pub fn kill(&self) -> Result<StopOutcome> {
        self.stop(Duration::ZERO)
    }

    /// Waits until it has stopped, reboots from inside not counted; `false` if it still runs after `timeout`. With
    /// `None` it waits for ever. What is left then is for [`Container::clean`].
    ///
    /// # Errors
    /// As [`Container::state`].
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool> {
        let deadline = timeout.map(wait::deadline);
        let Some(running) = self.running()? else { return Ok(true) };
        // The monitor ends with the container; init ends at each reboot.
        let Some(monitor) = running.record.monitor.open()? else { return Ok(true) };
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        pidfd::wait_exit(monitor.as_fd(), left)
    }

    /// Kills whatever is left in its control group, a half-started runtime too, and removes the group from every
    /// hierarchy, the place of its mounts, LXC's lock file, and the proof of its start. Its directory, its log and its root stay. What is gone is
    /// clean.
    ///
    /// # Errors
    /// [`Error::Busy`](crate::Error::Busy) naming processes that do not die; [`Error::Os`](crate::Error::Os) otherwise.
    pub fn clean(&self) -> Result<()> {
        let _span = tracing::debug_span!("container_clean", id = %self.id).entered();
        self.kill_left()?;
        Place::of(&self.dir()).clear()?;
        // What is mostly there, without looking around in each hierarchy; then the rest.
        let Groups { all, start, monitor, payload, inner } = &self.groups;
        for group in [inner, payload, monitor, start] {
            group.remove_unused()?;
        }
        all.remove()?;
        lock_file::remove(&self.lxc_path, self.id.as_str())?;
        file::remove_file(&self.record_path())
    }

    /// Removes LXC's lock file of a container that is gone: a command that was entering it made it anew.
    pub(crate) fn remove_lock_file(&self) -> Result<()> {
        lock_file::remove(&self.lxc_path, self.id.as_str())
    }

    /// Kills whatever is in its control group, and waits for it.
    fn kill_left(&self) -> Result<()> {
        if let Some(record) = Record::read(&self.record_path())? {
            kill_known(&record)?;
        }
        self.groups.all.kill(KILL_PATIENCE)
    }
}

/// Kills the processes that the record names and waits for them: cheaper than asking each hierarchy again and again
/// who is left. With init its whole pid namespace ends.
fn kill_known(record: &Record) -> Result<()> {
    // LXC's monitor first: all that it would do after init's end is what is done here, slower.
    let mut held = Vec::with_capacity(2);
    for birth in [record.monitor, record.init] {
        if let Some(process) = birth.open()? {
            pidfd::signal(process.as_fd(), libc::SIGKILL)?;
            held.push(process);
        }
    }
    let deadline = Instant::now() + KNOWN_PATIENCE;
    for process in held {
        pidfd::wait_exit(process.as_fd(), Some(deadline.saturating_duration_since(Instant::now())))?;
    }
    Ok(())
}
