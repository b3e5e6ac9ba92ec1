//! How containers' runs end, and what follows from it: what LXC's monitor has said of its child (`man 2 wait`), written down.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::handle::Host;
use super::record::{Ending, Manifest};
use super::spec::RestartPolicy;
use crate::error::Result;
use crate::lxc::{Container, Exit, Run, State};

/// How a container's last run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// What became of its first process. After [`Host::stop`]: [`Exit::Signaled`] with 9 if it did not end in time.
    pub exit: Exit,
    /// When, in milliseconds since 1970 (UTC).
    pub at_unix_ms: u64,
    /// For how long it ran; zero if it ended while it was started. Reboots from inside do not interrupt a run.
    pub ran: Duration,
    /// Whether it should not run any more: [`Host::stop`] was called.
    pub asked: bool,
    /// How many of its processes the kernel killed for memory. `None` where it is not known: control groups v1 forget it with
    /// the container's end.
    pub oom_kills: Option<u64>,
}

impl Host {
    /// Writes down how the container's run ended, if one of this boot has ended and was not cleaned up. Returns what is written
    /// of it. The caller holds the container's lock.
    pub(super) async fn note_end(&self, manifest: &Manifest) -> Result<Option<Ending>> {
        let manifest = manifest.clone();
        self.blocking(move |host| {
            let directory = host.directory(&manifest);
            let written = Ending::read(&directory)?;
            let Some(ending) = host.ending(&manifest, &host.container(&manifest)?, written.as_ref())? else {
                return Ok(None);
            };
            if written.as_ref() != Some(&ending) {
                ending.write(&directory)?;
                tracing::info!(container = %manifest.spec.name, exit = %ending.ended.exit, "ended");
            }
            Ok(Some(ending))
        })
        .await
    }

    /// Writes down that a start has just failed. `None` if its init was not at fault: the host was. `log` was LXC's before it.
    pub(super) async fn note_failed_start(
        &self,
        manifest: &Manifest,
        log: Option<u64>,
    ) -> Result<Option<Ending>> {
        let manifest = manifest.clone();
        self.blocking(move |host| {
            let container = host.container(&manifest)?;
            // The same log as before tells of an earlier run: it did not come as far as to be started.
            let exit = if container.log_identity() == log { None } else { container.last_exit()? };
            let Some(exit) = exit else { return Ok(None) };
            let directory = host.directory(&manifest);
            let retries = Ending::read(&directory)?.map_or(0, |ending| ending.retries);
            let ended = Ended {
                exit,
                at_unix_ms: unix_ms(SystemTime::now()),
                ran: Duration::ZERO,
                asked: false,
                oom_kills: None,
            };
            let ending = follow(manifest.spec.restart, None, ended, retries);
            ending.write(&directory)?;
            Ok(Some(ending))
        })
        .await
    }

    /// Forgets how often the container was started again: somebody starts it.
    pub(super) async fn forget_retries(&self, manifest: &Manifest) -> Result<()> {
        let directory = self.directory(manifest);
        self.blocking(move |_| match Ending::read(&directory)? {
            Some(ending) if ending.retries > 0 => ending.without_retries().write(&directory),
            _ => Ok(()),
        })
        .await
    }

    /// How the last run ended and how often it was started again in a row, as far as anybody can know now.
    pub(super) fn last_end(&self, manifest: &Manifest, state: State) -> Result<(Option<Ended>, u32)> {
        let written = Ending::read(&self.directory(manifest))?;
        let last = match state {
            State::Stopped => self.ending(manifest, &self.container(manifest)?, written.as_ref())?,
            State::Running | State::Frozen => None,
        };
        Ok(last.or(written).map_or((None, 0), |ending| (Some(ending.ended), ending.retries)))
    }

    /// What is to be written down of the run of this boot that has ended, if there is one that was not cleaned up.
    fn ending(
        &self,
        manifest: &Manifest,
        container: &Container,
        written: Option<&Ending>,
    ) -> Result<Option<Ending>> {
        let Some(run) = container.run()? else { return Ok(None) };
        if let Some(written) = written.filter(|written| written.run.as_ref() == Some(&run)) {
            return Ok(Some(written.clone()));
        }
        if container.state()? != State::Stopped {
            return Ok(None);
        }
        let asked = !manifest.run;
        let told = container.last_exit()?;
        // Whoever stops it kills what does not end in time together with the monitor.
        let exit = told.unwrap_or(if asked { Exit::Signaled(9) } else { Exit::Unknown });
        let (at, ran) = container.ended_at(told.is_some());
        let ended = Ended { exit, at_unix_ms: unix_ms(at), ran, asked, oom_kills: container.oom_kills() };
        let retries = written.map_or(0, |written| written.retries);
        Ok(Some(follow(manifest.spec.restart, Some(run), ended, retries)))
    }
}

/// What follows from an end, after `retries` restarts in a row.
fn follow(policy: RestartPolicy, run: Option<Run>, ended: Ended, retries: u32) -> Ending {
    let retries = RestartPolicy::retries_before(retries, ended.ran);
    match policy.restart(ended.exit, retries).filter(|_| !ended.asked) {
        Some(pause) => Ending::new(run, ended, retries.saturating_add(1), Some(pause)),
        None => Ending::new(run, ended, retries, None),
    }
}

impl Ending {
    /// How much of the pause before the restart is left. A clock that was set back does not make it longer.
    pub(super) fn pause_left(&self) -> Duration {
        let pause = self.restart_after.unwrap_or_default();
        let since = unix_ms(SystemTime::now()).checked_sub(self.ended.at_unix_ms).map(Duration::from_millis);
        since.map_or(pause, |since| pause.saturating_sub(since))
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Restart;

    fn ended(exit: Exit, seconds: u64, asked: bool) -> Ended {
        Ended { exit, at_unix_ms: 0, ran: Duration::from_secs(seconds), asked, oom_kills: None }
    }

    #[test]
    fn what_follows_from_an_end() {
        let policy = RestartPolicy { when: Restart::OnFailure, max_retries: Some(2) };
        let check = |ended: Ended, retries, expected: (u32, Option<u64>)| {
            let ending = follow(policy, None, ended, retries);
            let pause = ending.restart_after.map(|pause| u64::try_from(pause.as_millis()).unwrap());
            assert_eq!((ending.retries, pause), expected, "{ended:?} {retries}");
        };
        check(ended(Exit::Exited(1), 0, false), 0, (1, Some(100)));
        check(ended(Exit::Exited(1), 0, false), 1, (2, Some(200)));
        check(ended(Exit::Exited(1), 0, false), 2, (2, None));
        check(ended(Exit::Exited(1), 11, false), 2, (1, Some(100)));
        check(ended(Exit::Exited(0), 0, false), 1, (1, None));
        check(ended(Exit::Signaled(9), 0, true), 0, (0, None));
    }

    #[test]
    fn no_pause_is_longer_than_it_was_meant() {
        let failed = |at_unix_ms| Ended { at_unix_ms, ..ended(Exit::Exited(1), 0, false) };
        let left = |at| follow(RestartPolicy::default(), None, failed(at), 3).pause_left();
        assert_eq!(left(0), Duration::ZERO);
        assert_eq!(left(u64::MAX), Duration::from_millis(800));
    }
}
