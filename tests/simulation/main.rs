//! The cluster's decisions, simulated: masters, workers, fencers and a store with clocks of their own, and faults of all kinds. It shows
//! that no container runs twice, no node and no quota is overdrawn, no address is shared, and that all is as wished once the faults end.
//!
//! What is simulated is all around the decisions; the decisions are the library's own. A history follows from its seed:
//! `DOCKLET_SIMULATION_SEED` runs and tells one, and `DOCKLET_SIMULATION_HISTORIES` says how many are run.

#![allow(clippy::print_stdout, reason = "what happened, for who asks")]

mod check;
mod faults;
mod machine;
mod master;
mod random;
mod store;
mod users;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use world::{QUIET, TROUBLE, World};

/// How many histories a run has by default.
const SAMPLE: u64 = 500;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// What happened in a history: that it is not about nothing.
#[derive(Debug, PartialEq)]
struct Told {
    runs: u64,
    granted: u64,
    revision: u64,
}

fn history(seed: u64) -> Told {
    let mut world = World::new(seed);
    world.told = number("DOCKLET_SIMULATION_SEED").is_some();
    world.run(TROUBLE);
    faults::heal_all(&mut world);
    world.run(TROUBLE + QUIET);
    check::quiet(&world);
    Told { runs: world.runs, granted: world.granted, revision: world.store.revision }
}

/// Whatever goes wrong, and whenever.
#[test]
fn nothing_runs_twice_and_all_becomes_as_wished() {
    let (first, count) = match number("DOCKLET_SIMULATION_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("DOCKLET_SIMULATION_HISTORIES").unwrap_or(SAMPLE)),
    };
    let (next, runs, granted) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0));
    let failed = AtomicU64::new(u64::MAX);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while failed.load(Ordering::Relaxed) == u64::MAX {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let Ok(told) = catch_unwind(AssertUnwindSafe(|| history(seed))) else {
                        failed.fetch_min(seed, Ordering::Relaxed);
                        return;
                    };
                    runs.fetch_add(told.runs, Ordering::Relaxed);
                    granted.fetch_add(told.granted, Ordering::Relaxed);
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert_eq!(failed, u64::MAX, "DOCKLET_SIMULATION_SEED={failed} shows it again");
    let (runs, granted) = (runs.into_inner(), granted.into_inner());
    println!("{count} histories: {granted} requests were granted, containers were started {runs} times");
    assert!(runs >= count && granted >= count, "histories are about something");
}

/// A seed gives the same history each time.
#[test]
fn a_seed_is_one_history() {
    let first: BTreeMap<u64, Told> = (0..5).map(|seed| (seed, history(seed))).collect();
    assert!(first.iter().all(|(seed, told)| history(*seed) == *told));
}
