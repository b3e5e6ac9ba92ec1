//! What becomes of a container that ends by itself. Pure data; who watches it is told when it ends by its init's process
//! descriptor (`man 2 pidfd_open`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::lxc::Exit;

/// The pause before the first restart. Each one after it doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A run of this length is a good one: what came before it does not count any more.
const STEADY: Duration = Duration::from_secs(10);

/// After which ends a container is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// After none. It ends once, and is down then as if it had been stopped.
    Never,
    /// Unless it ended as it wanted to ([`Exit::success`]).
    OnFailure,
    /// After each.
    #[default]
    Always,
}

/// What becomes of a container that ended without anybody having asked for it. It is carried out by whoever watches
/// ([`Host::supervise`](crate::host::Host::supervise)), or comes by ([`Host::recover`](crate::host::Host::recover), which does
/// not wait).
///
/// The pause before a restart is 100 ms and doubles with each, up to a minute; a run of ten seconds starts over. A container that
/// is not to be started again is [not to run](crate::host::ContainerInfo::should_run) from then on. What the host's end cut off
/// has not ended by itself: it comes back, whatever is said here.
///
/// ```
/// use docklet::host::{Restart, RestartPolicy};
///
/// let policy: RestartPolicy = serde_json::from_str(r#"{"when": "on-failure", "max_retries": 3}"#)?;
/// assert_eq!(policy, RestartPolicy { when: Restart::OnFailure, max_retries: Some(3) });
/// assert_eq!(RestartPolicy::default(), RestartPolicy { when: Restart::Always, max_retries: None });
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartPolicy {
    /// After which ends it is started again. Default: after each.
    #[serde(default)]
    pub when: Restart,
    /// How many restarts there may be in a row, with no run of ten seconds between them. Default: any number.
    #[serde(default)]
    pub max_retries: Option<u32>,
}

impl RestartPolicy {
    /// What a run of the length `ran` counts for, after `retries` restarts in a row.
    pub(crate) fn retries_before(retries: u32, ran: Duration) -> u32 {
        if ran >= STEADY { 0 } else { retries }
    }

    /// The pause after which a container is started again that ended with `exit`, after `retries` restarts in a row. `None` if
    /// it is not.
    pub(crate) fn restart(self, exit: Exit, retries: u32) -> Option<Duration> {
        let wanted = match self.when {
            Restart::Never => false,
            Restart::OnFailure => !exit.success(),
            Restart::Always => true,
        };
        let allowed = self.max_retries.is_none_or(|max| retries < max);
        (wanted && allowed).then(|| Self::pause(retries))
    }

    /// The pause before the next of `retries` restarts in a row.
    pub(crate) fn pause(retries: u32) -> Duration {
        let factor = 2_u32.checked_pow(retries).unwrap_or(u32::MAX);
        FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_decides_by_the_end() {
        let check = |when, exit, expected: bool| {
            let policy = RestartPolicy { when, max_retries: None };
            assert_eq!(policy.restart(exit, 0).is_some(), expected, "{when:?} {exit:?}");
        };
        let ends = [
            (Exit::Exited(0), true),
            (Exit::Halted, true),
            (Exit::Exited(1), false),
            (Exit::Signaled(9), false),
            (Exit::Unknown, false),
        ];
        for (exit, success) in ends {
            check(Restart::Never, exit, false);
            check(Restart::OnFailure, exit, !success);
            check(Restart::Always, exit, true);
        }
    }

    #[test]
    fn retries_are_counted_to_their_limit() {
        let policy = RestartPolicy { when: Restart::OnFailure, max_retries: Some(3) };
        let allowed: Vec<_> = (0..5).map(|n| policy.restart(Exit::Exited(1), n).is_some()).collect();
        assert_eq!(allowed, [true, true, true, false, false]);
        let none = RestartPolicy { max_retries: Some(0), ..policy };
        assert_eq!(none.restart(Exit::Exited(1), 0), None);
        assert_eq!(RestartPolicy::retries_before(7, Duration::from_secs(9)), 7);
        assert_eq!(RestartPolicy::retries_before(7, Duration::from_secs(10)), 0);
    }

    #[test]
    fn pauses_double_to_a_minute() {
        let pauses = [0, 1, 2, 9, 10, 31, 32, u32::MAX].map(|n| RestartPolicy::pause(n).as_millis());
        assert_eq!(pauses, [100, 200, 400, 51_200, 60_000, 60_000, 60_000, 60_000]);
    }
}
