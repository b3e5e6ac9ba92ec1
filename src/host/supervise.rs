//! Keeping containers as they should be, for as long as a process wants to.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::handle::Host;
use super::recover::Outcome;
use crate::error::{Error, Result};
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
    /// Containers are left as they are when this returns. Any number of processes may do this on one prefix.
    ///
    /// # Errors
    /// As [`Host::recover`]. A container that cannot be started does not end it: it is tried again.
    pub async fn supervise(&self, stop: impl Future<Output = ()>) -> Result<()> {
        let mut stop = pin!(stop);
        self.recover().await?;
        let mut ends = FuturesUnordered::new();
        let mut watched: BTreeMap<ContainerName, Restarts> = BTreeMap::new();
        let mut interval = tokio::time::interval(LIST_INTERVAL);
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                Some(name) = ends.next() => {
                    let name: ContainerName = name;
                    if let Some(restarts) = watched.get_mut(&name) {
                        restarts.ended();
                    }
                }
                _ = interval.tick() => {}
                () = until(watched.values().filter_map(|restarts| restarts.due).min()) => {}
            }
            for info in self.list()? {
                let name = &info.spec.name;
                if !info.should_run {
                    watched.remove(name);
                    continue;
                }
                let restarts = watched.entry(name.clone()).or_default();
                if restarts.running || restarts.due.is_some_and(|due| due > Instant::now()) {
                    continue;
                }
                match self.converge(name).await? {
                    Some(Outcome::Failed(reason)) => {
                        tracing::warn!(container = %name, reason, "not started");
                        restarts.ended();
                    }
                    _ => {
                        if let Some(end) = self.end_of(name)? {
                            restarts.started();
                            ends.push(end);
                        }
                    }
                }
            }
        }
    }

    /// A future that is ready when the container's first process ends. `None` if it has none.
    fn end_of(&self, name: &ContainerName) -> Result<Option<impl Future<Output = ContainerName> + use<>>> {
        let fd = match self.runtime(name) {
            Ok(container) => container.init_pidfd()?,
            // Removed meanwhile.
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let Some(fd) = fd else { return Ok(None) };
        let name = name.clone();
        Ok(Some(async move {
            // An error means the same as the end: look again.
            drop(pidfd::ended(fd).await);
            name
        }))
    }
}

/// When a container may be started again.
#[derive(Debug, Default)]
struct Restarts {
    running: bool,
    since: Option<Instant>,
    pause: Option<Duration>,
    due: Option<Instant>,
}

impl Restarts {
    fn started(&mut self) {
        self.running = true;
        self.since = Some(Instant::now());
        self.due = None;
    }

    fn ended(&mut self) {
        self.running = false;
        let steady = self.since.take().is_some_and(|since| since.elapsed() >= STEADY);
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
            restarts.started();
            restarts.ended();
            pauses.push(restarts.pause.unwrap());
        }
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert_eq!(pauses[1], FIRST_PAUSE * 2);
        assert_eq!(pauses[9], LONGEST_PAUSE);
    }
}
