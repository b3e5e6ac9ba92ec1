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
use super::recover::Outcome;
use crate::error::{Chain, Error, Result};
use crate::name::ContainerName;
use crate::sys::pidfd;

/// How often the list of containers is read again: others may launch and stop some.
const LIST_INTERVAL: Duration = Duration::from_secs(2);
/// The pause before a container that ended is started again, at first.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause. Each restart doubles it.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A container that ran for this long starts over with the first pause.
const STEADY: Duration = Duration::from_secs(60);

impl Host {
    /// Recovers the host and then keeps it as it should be, until `stop` is ready: a container that should run and
    /// ends is started again, after a pause that doubles from half a second up to a minute.
    ///
    /// Containers are left as they are when this returns, and a start that is under way goes on. Any number of processes
    /// may do this on one prefix.
    ///
    /// # Errors
    /// As [`Host::recover`]. A container that cannot be started does not end it: it is tried again.
    pub async fn supervise(&self, stop: impl Future<Output = ()>) -> Result<()> {
        let mut stop = pin!(stop);
        self.recover().await?;
        let mut lives = FuturesUnordered::new();
        let mut watched: BTreeMap<ContainerName, Restarts> = BTreeMap::new();
        let mut interval = tokio::time::interval(LIST_INTERVAL);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                Some((name, since)) = lives.next() => {
                    let name: ContainerName = name;
                    if let Some(restarts) = watched.get_mut(&name) {
                        restarts.ended(since);
                    }
                }
                _ = interval.tick() => {}
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

    /// Starts a container if it is down and waits for its end. Returns since when it ran.
    async fn live(&self, name: ContainerName) -> (ContainerName, Option<Instant>) {
        // A task of its own, as every operation: one that hangs keeps no other waiting.
        let starting = name.clone();
        let outcome = self.owned(|host| async move { Ok(host.converge(&starting).await) }).await;
        let since = Instant::now();
        let end = match outcome {
            Ok(Some(Outcome::Failed(reason))) => {
                tracing::warn!(container = %name, reason, "not started");
                return (name, None);
            }
            Ok(_) => self.end_of(&name),
            Err(error) => Err(error),
        };
        match end {
            Ok(Some(end)) => {
                // An error means the same as the end: look again.
                drop(pidfd::ended(end).await);
                return (name, Some(since));
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(container = %name, error = %Chain(&error), "not watched"),
        }
        (name, None)
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

/// When a container may be started again.
#[derive(Debug, Default)]
struct Restarts {
    /// Being started, or started and watched.
    running: bool,
    pause: Option<Duration>,
    due: Option<Instant>,
}

impl Restarts {
    /// It ended, or was not started. `since` is when it was.
    fn ended(&mut self, since: Option<Instant>) {
        self.running = false;
        let steady = since.is_some_and(|since| since.elapsed() >= STEADY);
        let pause = match self.pause {
            Some(last) if !steady => (last * 2).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        };
        self.pause = Some(pause);
        self.due = Some(Instant::now() + pause);
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_limit() {
        let mut restarts = Restarts::default();
        let mut pauses = Vec::new();
        for _ in 0..10 {
            restarts.ended(Some(Instant::now()));
            pauses.push(restarts.pause.unwrap());
        }
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert_eq!(pauses[1], FIRST_PAUSE * 2);
        assert_eq!(pauses[9], LONGEST_PAUSE);
    }
}
