//! What concurrent clients did and saw, and whether one order of all of it explains that.
//!
//! The store says which order it claims: every change has a revision, every read is of one. So nothing is searched: the claim is checked.
//! Replayed by revisions, each read must have seen what was there at its revision; whatever ended before something else began must be
//! before it in that order; what was refused must have deserved it at some moment between its begin and its end. A history that passes is
//! linearizable, with that order as the witness. A change whose outcome is unknown may be in the log or not, however late.

use std::collections::{BTreeMap, BTreeSet};

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
    let unknown: Vec<(&Wanted, u64)> = calls
        .iter()
        .zip(&windows)
        .filter_map(|(call, window)| match &call.saw {
            Saw::Unknown { wanted } => Some((wanted, window.lowest)),
            _ => None,
        })
        .collect();
    let ownerless: Vec<u64> = log.keys().copied().filter(|revision| !owned.contains_key(revision)).collect();
    let possible = possible(&unknown, &ownerless, log, &replay);
    match assign(&possible) {
        None => Ok(()),
        Some(place) => {
            let revision = ownerless[place];
            Err(format!("revision {revision} is nobody's: {:?}", log[&revision]))
        }
    }
}

/// Of each of the revisions, which of the calls may have made it.
fn possible(calls: &[(&Wanted, u64)], revisions: &[u64], log: &Log, replay: &Replay) -> Vec<Vec<usize>> {
    // Each text is put by one call only: among all the others only those that delete need be looked at.
    let mut by_text: BTreeMap<Option<&String>, Vec<usize>> = BTreeMap::new();
    for (index, (wanted, _)) in calls.iter().enumerate() {
        by_text.entry(wanted.writes.values().flatten().next()).or_default().push(index);
    }
    let of = |&revision: &u64| {
        let changes = &log[&revision];
        let fits = |index: &&usize| {
            let (wanted, lowest) = calls[**index];
            revision > lowest
                && replay.holds(wanted, revision - 1)
                && effect(replay, wanted, revision) == *changes
        };
        let near = by_text.get(&changes.values().flatten().next()).map_or(&[][..], Vec::as_slice);
        near.iter().filter(fits).copied().collect()
    };
    revisions.iter().map(of).collect()
}

/// Gives each place one of the calls that are possible there, no call twice. The first place that gets none.
fn assign(possible: &[Vec<usize>]) -> Option<usize> {
    let mut given = BTreeMap::new();
    (0..possible.len()).find(|place| !give(*place, possible, &mut given, &mut BTreeSet::new()))
}

/// Gives `place` a call, and whoever has it another one.
fn give(
    place: usize,
    possible: &[Vec<usize>],
    given: &mut BTreeMap<usize, usize>,
    asked: &mut BTreeSet<usize>,
) -> bool {
    for &call in &possible[place] {
        if !asked.insert(call) {
            continue;
        }
        let free = match given.get(&call).copied() {
            None => true,
            Some(other) => give(other, possible, given, asked),
        };
        if free {
            given.insert(call, place);
            return true;
        }
    }
    false
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

mod tests;
