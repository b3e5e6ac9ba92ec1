//! Waiting with an end: for descriptors (`man 2 poll`), and for what only asking tells.

use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, Timespec};
use rustix::io::Errno;

/// The pause after the first question; it doubles from there.
const FIRST_PAUSE: Duration = Duration::from_micros(50);
/// The longest pause between two questions.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// What stands for "never" where a time limit is longer than the clock can tell.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The end of a time limit that begins now. Callers choose limits: even [`Duration::MAX`] must not overflow.
pub(crate) fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(NEVER)
}

/// Asks until there is an answer, ever less often. `None` when `deadline` has passed; it is asked once in any case.
pub(crate) fn until<T, E>(
    deadline: Instant,
    mut ask: impl FnMut() -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let mut pause = FIRST_PAUSE;
    loop {
        if let Some(answer) = ask()? {
            return Ok(Some(answer));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// As [`until`], for a question of yes or no. False when `deadline` has passed.
pub(crate) fn until_true<E>(deadline: Instant, mut ask: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
    Ok(until(deadline, || Ok(ask()?.then_some(())))?.is_some())
}

/// Waits until one of `watched` is ready, or `deadline` has passed: then none is. Without a deadline, for ever.
pub(crate) fn ready(watched: &mut [PollFd<'_>], deadline: Option<Instant>) -> rustix::io::Result<()> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        match rustix::event::poll(watched, left.as_ref()) {
            Err(Errno::INTR) => {}
            result => return result.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn no_limit_is_too_long() {
        assert!(deadline(Duration::MAX) > Instant::now());
        let reader = std::fs::File::open("/dev/zero").unwrap();
        let mut watched = [PollFd::new(&reader, rustix::event::PollFlags::IN)];
        ready(&mut watched, Some(deadline(Duration::MAX))).unwrap();
        assert!(!watched[0].revents().is_empty());
    }

    #[test]
    fn the_deadline_ends_the_questions() {
        let mut asked = 0;
        let never = |asked: &mut i32| -> Result<bool, Infallible> {
            *asked += 1;
            Ok(false)
        };
        assert_eq!(until_true(Instant::now(), || never(&mut asked)), Ok(false));
        assert_eq!(asked, 1);
        let begin = Instant::now();
        assert_eq!(until_true(begin + Duration::from_millis(30), || never(&mut asked)), Ok(false));
        assert!(begin.elapsed() >= Duration::from_millis(30) && asked > 3, "{asked}");
        let found: Result<_, Infallible> = until(Instant::now(), || Ok(Some(7)));
        assert_eq!(found, Ok(Some(7)));
    }
}
