//! What happens to a running container: limits that it runs into, and its end (`man 2 pidfd_open`, the kernel's
//! `Documentation/admin-guide/cgroup-v2.rst`).

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use serde::Serialize;

use super::Host;
use crate::cgroup::{HitLimit, LimitEvent, LimitEvents};
use crate::error::{Error, Result};
use crate::name::ContainerName;
use crate::sys::pidfd;

/// Something that happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ContainerEvent {
    /// The kernel killed processes of it, since its memory did not suffice.
    OomKill {
        /// How many.
        count: u64,
    },
    /// It ran into a limit. On control groups v1 the kernel does not tell.
    LimitHit {
        /// Which one.
        limit: HitLimit,
        /// How often since the last event of this kind.
        count: u64,
    },
    /// Its first process ended: nothing follows. It may start again by itself, if it was rebooted from inside.
    Exit,
}

impl From<LimitEvent> for ContainerEvent {
    fn from(event: LimitEvent) -> Self {
        match event {
            LimitEvent::OomKill { count } => Self::OomKill { count },
            LimitEvent::LimitHit { limit, count } => Self::LimitHit { limit, count },
        }
    }
}

/// What happens to one container from [`Host::events`] on, until it ends. Nothing is polled, and there is no task:
/// dropping it ends it.
#[derive(Debug)]
pub struct ContainerEvents {
    limits: LimitEvents,
    init: Option<OwnedFd>,
    waiting: VecDeque<ContainerEvent>,
}

impl Host {
    /// What happens to a running container from now on.
    ///
    /// ```no_run
    /// use docklet::host::{ContainerEvent, Host};
    ///
    /// # async fn example(host: &Host) -> docklet::Result<()> {
    /// let mut events = host.events(&"web".parse()?)?;
    /// while let Some(event) = events.next().await? {
    ///     if let ContainerEvent::OomKill { count } = event {
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
    pub fn events(&self, name: &ContainerName) -> Result<ContainerEvents> {
        let runtime = self.runtime(name)?;
        let not_running = || Error::NotFound { what: format!("a running container `{name}`") };
        let init = runtime.init_pidfd()?.ok_or_else(not_running)?;
        let limits = runtime.payload().limit_events()?;
        Ok(ContainerEvents { limits, init: Some(init), waiting: VecDeque::new() })
    }
}

impl ContainerEvents {
    /// The next event, once there is one; `None` after [`ContainerEvent::Exit`]. Nothing is lost if the future is dropped. Call it
    /// within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Os`] if the descriptors cannot be waited for.
    pub async fn next(&mut self) -> Result<Option<ContainerEvent>> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            let Some(init) = self.init.as_ref().map(clone).transpose()? else { return Ok(None) };
            if !self.take()? {
                self.waiting.push_back(ContainerEvent::Exit);
                self.init = None;
            }
            if !self.waiting.is_empty() {
                continue;
            }
            // Registered anew each time: what came in between is not missed.
            tokio::select! {
                told = pidfd::readable(clone(&self.limits)?) => told?,
                ended = pidfd::ended(init) => {
                    ended?;
                    // What was its end may stand there.
                    self.take()?;
                    self.waiting.push_back(ContainerEvent::Exit);
                    self.init = None;
                }
            }
        }
    }

    /// Takes what happened to the limits. False if the group is gone, and so its processes.
    fn take(&mut self) -> Result<bool> {
        match self.limits.read() {
            Ok(events) => self.waiting.extend(events.into_iter().map(ContainerEvent::from)),
            Err(Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

fn clone(descriptor: impl AsFd) -> Result<OwnedFd> {
    descriptor.as_fd().try_clone_to_owned().map_err(|error| Error::os("dup", "a container's events", error))
}
