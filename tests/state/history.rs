//! What concurrent clients did and saw, and whether one order of all of it explains that.
//!
//! The store says which order it claims: every change has a revision, every read is of one. So nothing is searched: the claim is checked.
//! Replayed by revisions, each read must have seen what was there at its revision; whatever ended before something else began must be
//! before it in that order; what was refused must have deserved it at some moment between its begin and its end. A history that passes is
//! linearizable, with that order as the witness. A change whose outcome is unknown may be in the log or not.

use std::collections::BTreeMap;

/// One call of one client. Times are of one clock, and unique.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) saw: Saw,
}

/// What it asked for, and was told.
#[derive(Debug, Clone)]
pub(crate) enum Saw {
    /// All keys had these texts at this revision.
    Read { revision: u64, found: BTreeMap<String, String> },
    /// It was committed with this revision.
    Committed { revision: u64, wanted: Wanted },
    /// A check did not hold.
    Refused { wanted: Wanted },
    /// It is not known.
    Unknown { wanted: Wanted },
    /// It was told that nothing was done.
    NotDone,
}

/// A transaction: which keys had to be last written by which revision (`None`: absent), and what is put or deleted (`None`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) checks: Vec<(String, Option<u64>)>,
    pub(crate) writes: BTreeMap<String, Option<String>>,
}

impl Wanted {
    /// Whether it changes something for certain: a deletion may find nothing, a put never does.
    fn puts(&self) -> bool {
        self.writes.values().any(Option::is_some)
    }
}

/// Each revision that changed something, with what it changed, as a watch told it.
pub(crate) type Log = BTreeMap<u64, BTreeMap<String, Option<String>>>;

/// The state after each revision: key → (text, revision of the write).
struct Replay {
    states: BTreeMap<u64, BTreeMap<String, (String, u64)>>,
}

impl Replay {
    fn of(log: &Log) -> Self {
        let mut state = BTreeMap::new();
        let mut states = BTreeMap::from([(0, state.clone())]);
        for (&revision, changes) in log {
            for (key, text) in changes {
                match text {
                    Some(text) => state.insert(key.clone(), (text.clone(), revision)),
                    None => state.remove(key),
                };
            }
            states.insert(revision, state.clone());
        }
        Self { states }
    }

    fn at(&self, revision: u64) -> &BTreeMap<String, (String, u64)> {
        self.states.range(..=revision).next_back().expect("the empty state").1
    }

    fn holds(&self, wanted: &Wanted, revision: u64) -> bool {
        let state = self.at(revision);
        wanted.checks.iter().all(|(key, at)| state.get(key).map(|(_, written)| *written) == *at)
    }
}

/// What `wanted` would have changed in the state before `revision`: deleting what is not there changes nothing.
fn effect(replay: &Replay, wanted: &Wanted, revision: u64) -> BTreeMap<String, Option<String>> {
    let before = replay.at(revision - 1);
    let changes = wanted.writes.iter().filter(|(key, text)| text.is_some() || before.contains_key(*key));
    changes.map(|(key, text)| (key.clone(), text.clone())).collect()
}

/// Why no order explains the calls. Each text put is put by one call only.
pub(crate) fn check(calls: &[Call], log: &Log) -> Result<(), String> {
    let replay = Replay::of(log);
    let windows = windows(calls);
    let mut owned: BTreeMap<u64, &Call> = BTreeMap::new();
    for (call, window) in calls.iter().zip(&windows) {
        explain(call, window, log, &replay).map_err(|reason| format!("{call:?} {reason}"))?;
        if let Saw::Committed { revision, wanted } = &call.saw
            && log.get(revision) == Some(&effect(&replay, wanted, *revision))
            && let Some(other) = owned.insert(*revision, call)
            && wanted.puts()
        {
            return Err(format!("{call:?} and {other:?} have one revision"));
        }
    }
    let mut unknown: Vec<_> = calls
        .iter()
        .zip(&windows)
        .filter_map(|(call, window)| match &call.saw {
            Saw::Unknown { wanted } => Some((wanted, window.lowest)),
            _ => None,
        })
        .collect();
    for (&revision, changes) in log.iter().filter(|(revision, _)| !owned.contains_key(revision)) {
        let fits = |(wanted, lowest): &(&Wanted, u64)| {
            revision > *lowest
                && effect(&replay, wanted, revision) == *changes
                && replay.holds(wanted, revision - 1)
        };
        let Some(place) = unknown.iter().position(fits) else {
            return Err(format!("revision {revision} is nobody's: {changes:?}"));
        };
        unknown.swap_remove(place);
    }
    Ok(())
}

/// Whether what one call saw is so at its revision, and that within its window.
fn explain(call: &Call, window: &Window, log: &Log, replay: &Replay) -> Result<(), String> {
    let in_window = |revision: u64| {
        let right = window.lowest <= revision && revision <= window.highest;
        if right { Ok(()) } else { Err(format!("is out of order: it can be of {window:?}")) }
    };
    match &call.saw {
        Saw::Read { revision, found } => {
            let there = replay.at(*revision);
            if !there.iter().map(|(key, (text, _))| (key, text)).eq(found) {
                return Err(format!("saw what was not there: {there:?}"));
            }
            in_window(*revision)
        }
        Saw::Committed { revision, wanted } => {
            // It made the revision, or found nothing to change at it.
            let made = log.get(revision) == Some(&effect(replay, wanted, *revision));
            let idle = effect(replay, wanted, revision + 1).is_empty();
            if !made && !idle {
                return Err(format!("was told otherwise: {:?}", log.get(revision)));
            }
            let made = made && replay.holds(wanted, revision - 1);
            if !(made || idle && replay.holds(wanted, *revision)) {
                return Err("was committed, though a check did not hold".into());
            }
            if !idle {
                in_window(revision - 1)?;
            }
            in_window(*revision)
        }
        Saw::Refused { wanted } => {
            let first =
                replay.states.range(..=window.lowest).next_back().map_or(0, |(revision, _)| *revision);
            let last = window.highest.max(first);
            let deserved =
                replay.states.range(first..=last).any(|(&revision, _)| !replay.holds(wanted, revision));
            if deserved { Ok(()) } else { Err("was refused, though its checks held all the time".into()) }
        }
        Saw::Unknown { .. } | Saw::NotDone => Ok(()),
    }
}

/// Of which revisions a call can be, by what ended before it began and what began after it ended.
#[derive(Debug, Clone, Copy)]
struct Window {
    lowest: u64,
    highest: u64,
}

fn windows(calls: &[Call]) -> Vec<Window> {
    let mut times: Vec<(u64, bool, usize)> = Vec::new();
    for (index, call) in calls.iter().enumerate() {
        times.extend([(call.begin, true, index), (call.end, false, index)]);
    }
    times.sort_unstable();
    let mut windows = vec![Window { lowest: 0, highest: u64::MAX }; calls.len()];
    let mut seen = 0;
    for &(_, begins, index) in &times {
        match &calls[index].saw {
            _ if begins => windows[index].lowest = seen,
            Saw::Read { revision, .. } | Saw::Committed { revision, .. } => seen = seen.max(*revision),
            _ => {}
        }
    }
    let mut next = u64::MAX;
    for &(_, begins, index) in times.iter().rev() {
        match &calls[index].saw {
            _ if !begins => windows[index].highest = next,
            // What begins later made that revision itself: what is before it is of a lesser one.
            Saw::Committed { revision, wanted } if wanted.puts() => next = next.min(*revision - 1),
            Saw::Read { revision, .. } | Saw::Committed { revision, .. } => next = next.min(*revision),
            _ => {}
        }
    }
    windows
}

/// The checker is checked: these must fail, each for one reason.
mod tests {
    use super::*;

    fn wanted(checks: &[(&str, Option<u64>)], writes: &[(&str, Option<&str>)]) -> Wanted {
        let own = |text: &&str| (*text).to_owned();
        Wanted {
            checks: checks.iter().map(|(key, at)| (own(key), *at)).collect(),
            writes: writes.iter().map(|(key, text)| (own(key), text.as_ref().map(own))).collect(),
        }
    }

    fn put(text: &str) -> Wanted {
        wanted(&[], &[("a", Some(text))])
    }

    fn read(revision: u64, text: Option<&str>) -> Saw {
        let found = text.map(|text| ("a".to_owned(), text.to_owned())).into_iter().collect();
        Saw::Read { revision, found }
    }

    fn call(begin: u64, end: u64, saw: Saw) -> Call {
        Call { begin, end, saw }
    }

    fn committed(revision: u64, wanted: Wanted) -> Saw {
        Saw::Committed { revision, wanted }
    }

    fn log(changes: &[(u64, Option<&str>)]) -> Log {
        let change = |text: &Option<&str>| BTreeMap::from([("a".to_owned(), text.map(str::to_owned))]);
        changes.iter().map(|(revision, text)| (*revision, change(text))).collect()
    }

    #[track_caller]
    fn fails(calls: &[Call], log: &Log, reason: &str) {
        let error = check(calls, log).expect_err("no order explains it");
        assert!(error.contains(reason), "{error}");
    }

    #[test]
    fn what_one_order_explains_passes() {
        let log = log(&[(2, Some("x")), (3, Some("y")), (5, None)]);
        let calls = [
            call(1, 2, read(1, None)),
            call(3, 10, committed(2, put("x"))),
            call(4, 11, committed(3, wanted(&[("a", Some(2))], &[("a", Some("y"))]))),
            call(5, 12, Saw::Refused { wanted: wanted(&[("a", None)], &[("a", Some("z"))]) }),
            call(6, 13, read(2, Some("x"))),
            call(20, 21, read(3, Some("y"))),
            call(22, 23, Saw::Unknown { wanted: wanted(&[], &[("a", None)]) }),
            call(24, 25, Saw::NotDone),
            call(30, 31, read(5, None)),
            call(32, 33, committed(5, wanted(&[], &[("b", None)]))),
        ];
        check(&calls, &log).expect("it is linearizable");
    }

    #[test]
    fn a_stale_read_fails() {
        let log = log(&[(2, Some("x")), (3, Some("y"))]);
        let calls = [call(1, 2, committed(2, put("x"))), call(3, 4, committed(3, put("y")))];
        fails(&[&calls[..], &[call(5, 6, read(2, Some("x")))]].concat(), &log, "out of order");
    }

    #[test]
    fn a_read_of_the_future_fails() {
        let log = log(&[(2, Some("x"))]);
        fails(&[call(1, 2, read(2, Some("x"))), call(3, 4, committed(2, put("x")))], &log, "out of order");
    }

    #[test]
    fn a_read_of_what_never_was_fails() {
        fails(
            &[call(1, 2, read(2, Some("z"))), call(1, 3, committed(2, put("x")))],
            &log(&[(2, Some("x"))]),
            "not there",
        );
    }

    #[test]
    fn reads_that_go_back_in_time_fail() {
        let log = log(&[(2, Some("x"))]);
        let calls =
            [call(1, 9, committed(2, put("x"))), call(2, 3, read(2, Some("x"))), call(4, 5, read(1, None))];
        fails(&calls, &log, "out of order");
    }

    #[test]
    fn a_lost_change_fails() {
        fails(&[call(1, 2, committed(2, put("x")))], &log(&[]), "told otherwise");
    }

    #[test]
    fn a_change_that_was_made_twice_fails() {
        let log = log(&[(2, Some("x")), (3, Some("x"))]);
        fails(&[call(1, 2, committed(3, put("x")))], &log, "nobody's");
        let unknown = Saw::Unknown { wanted: put("x") };
        fails(&[call(1, 2, unknown)], &log, "nobody's");
    }

    #[test]
    fn a_change_that_was_said_not_to_be_done_fails() {
        fails(&[call(1, 2, Saw::NotDone)], &log(&[(2, Some("x"))]), "nobody's");
    }

    #[test]
    fn a_change_before_its_beginning_fails() {
        let log = log(&[(2, Some("x")), (3, Some("y"))]);
        let calls = [call(1, 2, committed(3, put("y"))), call(3, 4, Saw::Unknown { wanted: put("x") })];
        fails(&calls, &log, "nobody's");
    }

    #[test]
    fn half_a_transaction_fails() {
        let both = wanted(&[], &[("a", Some("x")), ("b", Some("x"))]);
        fails(&[call(1, 2, committed(2, both))], &log(&[(2, Some("x"))]), "told otherwise");
    }

    #[test]
    fn a_broken_check_fails() {
        let log = log(&[(2, Some("x")), (3, Some("y"))]);
        let swap = wanted(&[("a", None)], &[("a", Some("y"))]);
        fails(&[call(1, 2, committed(2, put("x"))), call(1, 3, committed(3, swap))], &log, "did not hold");
    }

    #[test]
    fn two_winners_fail() {
        let log = log(&[(2, Some("x"))]);
        fails(
            &[call(1, 2, committed(2, put("x"))), call(1, 3, committed(2, put("x")))],
            &log,
            "one revision",
        );
    }

    #[test]
    fn a_refusal_without_a_reason_fails() {
        let log = log(&[(2, Some("x"))]);
        let check = wanted(&[("a", Some(2))], &[("a", Some("y"))]);
        let calls = [call(1, 2, committed(2, put("x"))), call(3, 4, Saw::Refused { wanted: check })];
        fails(&calls, &log, "refused");
    }
}
