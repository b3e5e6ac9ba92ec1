//! Keeping containers as they should be, for as long as a process wants to.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::handle::Host;
use super::record::Phase;
use super::recover::{Converged, Haste, Outcome};
use super::spec::RestartPolicy;
use crate::error::{Chain, Error, Result};
use crate::name::ContainerName;
use crate::sys::inotify::Watches;
use crate::sys::pidfd;

impl Host {
    /// Recovers the host and then keeps it as it should be, until `stop` is ready: a container that should run and
    /// ends is started again as its [policy](super::RestartPolicy) says. Pauses and counts are kept through the end of the process
    /// that does this.
    ///
    /// A container that reboots from inside over and over makes LXC's log longer, without a bound of LXC's: this cuts it at 1 MiB, as does
    /// whoever asks for its state.
    ///
    /// Containers are left as they are when this returns, and a start that is under way goes on. Any number of processes
    /// may do this on one prefix.
    ///
    /// # Errors
    /// As [`Host::recover`]. A container that this host cannot start does not end it: it is tried again with the same pauses,
    /// whatever its policy.
    pub async fn supervise(&self, stop: impl Future<Output = ()>) -> Result<()> {
        let mut stop = pin!(stop);
        // Others may launch and stop some: heard of from before the first look on.
        let changes = Watches::new()?;
        changes.directory(&self.inner.paths.manifests())?;
        self.recover_in(Haste::WhenDue).await?;
        let mut lives = FuturesUnordered::new();
        let mut watched: BTreeMap<ContainerName, Restarts> = BTreeMap::new();
        let mut looked = false;
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                Some((name, next)) = lives.next() => {
                    let name: ContainerName = name;
                    if let Some(restarts) = watched.get_mut(&name) {
                        restarts.ended(next);
                    }
                }
                () = std::future::ready(()), if !looked => looked = true,
                changed = changes.next() => drop(changed?),
                () = until(watched.values().filter_map(|restarts| restarts.due).min()) => {}
            }
            let mut wanted = self.inner.manifests.all()?.records;
            wanted.retain(|manifest| manifest.run && manifest.phase == Phase::Created);
            // What is stopped or removed is forgotten once it has ended: nothing of it is due any more.
            watched.retain(|name, restarts| {
                restarts.running || wanted.iter().any(|manifest| manifest.spec.name == *name)
            });
            for manifest in wanted {
                let name = &manifest.spec.name;
                let restarts = watched.entry(name.clone()).or_default();
                if !restarts.running && restarts.due.is_none_or(|due| due <= Instant::now()) {
                    restarts.running = true;
                    restarts.due = None;
                    lives.push(self.live(name.clone()));
                }
            }
        }
    }

    /// Starts a container if it is down and due, and waits for its end.
    async fn live(&self, name: ContainerName) -> (ContainerName, Next) {
        // A task of its own, as every operation: one that hangs keeps no other waiting.
        let starting = name.clone();
        let converged =
            self.owned(|host| async move { Ok(host.converge(&starting, Haste::WhenDue).await) }).await;
        let end = match converged {
            Ok(Converged::Due(pause)) => return (name, Next::Look(pause)),
            Ok(Converged::Done(Some(Outcome::Failed(reason)))) => {
                tracing::warn!(container = %name, reason, "not started");
                return (name, Next::Failed);
            }
            Ok(Converged::Done(_)) => self.end_of(&name),
            Err(error) => Err(error),
        };
        match end {
            Ok(Some(end)) => {
                // An error means the same as the end: look again.
                drop(pidfd::ended(end).await);
                return (name, Next::Look(Duration::ZERO));
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(container = %name, error = %Chain(&error), "not watched"),
        }
        (name, Next::Failed)
    }

    /// A container's first process. `None` if it has none.
    fn end_of(&self, name: &ContainerName) -> Result<Option<OwnedFd>> {
        match self.runtime(name) {
            Ok(container) => container.init_pidfd(),
            // Removed meanwhile.
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What to do with a container that is not watched any more.
#[derive(Debug)]
enum Next {
    /// Look at it after this time.
    Look(Duration),
    /// It was not started, or could not be watched: try again, ever less often.
    Failed,
}

/// When a container is looked at again.
#[derive(Debug, Default)]
struct Restarts {
    /// Being started, or started and watched.
    running: bool,
    failures: u32,
    due: Option<Instant>,
}

impl Restarts {
    fn ended(&mut self, next: Next) {
        self.running = false;
        let pause = match next {
            Next::Look(pause) => {
                self.failures = 0;
                pause
            }
            Next::Failed => {
                self.failures = self.failures.saturating_add(1);
                RestartPolicy::pause(self.failures - 1)
            }
        };
        self.due = Some(Instant::now() + pause);
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
