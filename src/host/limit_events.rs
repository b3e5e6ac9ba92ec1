//! The limits that a running container runs into, as it happens (`man 2 pidfd_open`, the kernel's
//! `Documentation/admin-guide/cgroup-v2.rst`).

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use super::Host;
use crate::cgroup::{LimitEvent, LimitEvents};
use crate::error::{Error, Result};
use crate::name::ContainerName;
use crate::sys::pidfd;

/// The limits that one container runs into from [`Host::limit_events`] on, until its run ends. Nothing is polled, and there is
/// no task: dropping it ends it.
#[derive(Debug)]
pub struct ContainerLimitEvents {
    limits: LimitEvents,
    init: OwnedFd,
    ended: bool,
    waiting: VecDeque<LimitEvent>,
}

impl Host {
    /// The limits that a running container runs into from now on. How its run ends, [`Host::watch`] tells.
    ///
    /// ```no_run
    /// use docklet::cgroup::LimitEvent;
    /// use docklet::host::Host;
    ///
    /// # async fn example(host: &Host) -> docklet::Result<()> {
    /// let mut events = host.limit_events(&"web".parse()?)?;
    /// while let Some(event) = events.next().await? {
    ///     if let LimitEvent::OomKill { count } = event {
    ///         tracing::warn!(count, "processes were killed for memory");
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such container or it does not run; as
    /// [`Cgroup::limit_events`](crate::cgroup::Cgroup::limit_events).
    pub fn limit_events(&self, name: &ContainerName) -> Result<ContainerLimitEvents> {
        let runtime = self.runtime(name)?;
        let init = runtime.init_pidfd()?.ok_or_else(|| runtime.not_running())?;
        let limits = runtime.payload().limit_events()?;
        Ok(ContainerLimitEvents { limits, init, ended: false, waiting: VecDeque::new() })
    }
}

impl ContainerLimitEvents {
    /// The next event, once there is one; `None` once its first process has ended. (It may start again by itself, if it was
    /// rebooted from inside: that is another run.) Nothing is lost if the future is dropped. Call it within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Os`] if the descriptors cannot be waited for.
    pub async fn next(&mut self) -> Result<Option<LimitEvent>> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            self.take()?;
            if self.ended || !self.waiting.is_empty() {
                continue;
            }
            // Registered anew each time: what came in between is not missed.
            tokio::select! {
                told = pidfd::readable(clone(&self.limits)?) => told?,
                ended = pidfd::ended(clone(&self.init)?) => {
                    ended?;
                    // What was its end may stand there.
                    self.take()?;
                    self.ended = true;
                }
            }
        }
    }

    /// Takes what happened. It has ended if the group is gone, and so its processes.
    fn take(&mut self) -> Result<()> {
        match self.limits.read() {
            Ok(events) => self.waiting.extend(events),
            Err(Error::NotFound { .. }) => self.ended = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

fn clone(descriptor: impl AsFd) -> Result<OwnedFd> {
    descriptor.as_fd().try_clone_to_owned().map_err(|error| Error::os("dup", "a container's events", error))
}
