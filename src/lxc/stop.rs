//! A container's end.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::lxc::container::{Container, KILL_PATIENCE};
use crate::lxc::{lock_file, render};
use crate::sys::{file, pidfd};

/// How a container stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopOutcome {
    /// Init shut down by itself.
    Graceful,
    /// It was killed: there was no time to wait, or it passed.
    Killed,
    /// It did not run.
    NotRunning,
}

impl Container {
    /// Sends the halt signal to init, waits for at most `graceful` until it has ended, and kills it otherwise. With
    /// zero it is killed at once. Then removes what is left, as [`Container::clean`]. A frozen container is thawed for it.
    ///
    /// # Errors
    /// [`Error::Busy`](crate::Error::Busy) naming processes that do not die; [`Error::Os`](crate::Error::Os) otherwise.
    pub fn stop(&self, graceful: Duration) -> Result<StopOutcome> {
        let _span = tracing::info_span!("container_stop", id = %self.id).entered();
        let outcome = match self.running()? {
            None => StopOutcome::NotRunning,
            Some(_) if graceful.is_zero() => StopOutcome::Killed,
            Some(running) => {
                self.group.child(render::PAYLOAD)?.thaw(KILL_PATIENCE)?;
                pidfd::signal(running.init_fd.as_fd(), running.record.halt_signal.number())?;
                tracing::debug!(init = running.init.pid, signal = %running.record.halt_signal, "sent halt signal");
                match pidfd::wait_exit(running.init_fd.as_fd(), Some(graceful))? {
                    true => StopOutcome::Graceful,
                    false => StopOutcome::Killed,
                }
            }
        };
        self.clean()?;
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
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let Some(running) = self.running()? else { return Ok(true) };
        // The monitor ends with the container; init ends at each reboot.
        let Some(monitor) = running.record.monitor.open()? else { return Ok(true) };
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        pidfd::wait_exit(monitor.as_fd(), left)
    }

    /// Kills whatever is left in its control group, a half-started runtime too, and removes the group from every
    /// hierarchy, LXC's lock file, and the proof of its start. Its directory, its log and its root stay. What is gone is
    /// clean.
    ///
    /// # Errors
    /// [`Error::Busy`](crate::Error::Busy) naming processes that do not die; [`Error::Os`](crate::Error::Os) otherwise.
    pub fn clean(&self) -> Result<()> {
        // LXC's monitor is killed with the rest: all that it would do is what follows here, slower.
        self.group.kill(KILL_PATIENCE)?;
        self.group.remove()?;
        lock_file::remove(&self.lxc_path, self.id.as_str())?;
        file::remove_file(&self.record_path())
    }
}
