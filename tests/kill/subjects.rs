//! What is killed, and what must be true afterwards.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::process;
use crate::sandbox::Sandbox;
use crate::snapshot::Snapshot;
use crate::tracer::{Mode, Moment, NumberedCall, Outcome, Strike};

/// How long the kernel may take to finish what has been asked for: dying processes and namespaces.
const SETTLING: Duration = Duration::from_secs(1);

/// An operation to kill, in each of `modes`.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) modes: &'static [Mode],
    /// The program that is traced.
    pub(crate) program: &'static str,
    /// Programs to run once in a new sandbox, before its state is taken as the one to come back to.
    pub(crate) once: &'static [&'static str],
    /// Programs to run before each run of `program`.
    pub(crate) before: &'static [&'static str],
    pub(crate) must: Must,
}

/// What must be true after a kill.
pub(crate) enum Must {
    /// [`recovers`].
    Recover(Recovery),
    /// The driver's own test: as many directories as calls took effect.
    Count,
    /// The driver's own test: a child process has ended its work, though its parent was killed.
    Continue,
}

/// The programs that mend and look.
pub(crate) struct Recovery {
    /// Prints a line for everything it changed.
    pub(crate) recover: &'static str,
    /// Prints "running" or "absent".
    pub(crate) state: &'static str,
    /// Removes what is running.
    pub(crate) remove: &'static str,
}

const CONTAINER: Recovery = Recovery { recover: "recover", state: "state", remove: "remove" };

pub(crate) const SUBJECTS: &[Subject] = &[
    Subject {
        name: "directories",
        modes: &[Mode::Own],
        program: "make-directories",
        once: &[],
        before: &[],
        must: Must::Count,
    },
    Subject {
        name: "child",
        modes: &[Mode::Runtime],
        program: "spawn",
        once: &[],
        before: &[],
        must: Must::Count,
    },
    Subject {
        name: "orphan",
        modes: &[Mode::Orphan],
        program: "spawn",
        once: &[],
        before: &[],
        must: Must::Continue,
    },
    Subject {
        name: "remove-tree",
        modes: &[Mode::Own],
        program: "remove-tree",
        once: &[],
        before: &["make-tree"],
        must: Must::Recover(Recovery { recover: "remove-tree", state: "tree-state", remove: "remove-tree" }),
    },
    Subject {
        name: "launch",
        modes: &Mode::ALL,
        program: "launch",
        once: &["prepare"],
        before: &[],
        must: Must::Recover(CONTAINER),
    },
    Subject {
        name: "remove",
        modes: &Mode::ALL,
        program: "remove",
        once: &["prepare"],
        before: &["launch"],
        must: Must::Recover(CONTAINER),
    },
    Subject {
        name: "recover",
        modes: &Mode::ALL,
        program: "recover",
        once: &["prepare"],
        before: &["launch", "crash"],
        must: Must::Recover(CONTAINER),
    },
];

impl Subject {
    /// Says what is wrong after `program` was killed at `strike`, or has ended. Leaves the sandbox as `baseline`.
    pub(crate) fn judge(
        &self,
        sandbox: &Sandbox,
        baseline: &Snapshot,
        strike: Option<Strike>,
        outcome: &Outcome,
    ) -> Result<(), String> {
        if strike.is_none() && outcome.status != 0 {
            return Err(format!("failed without a kill: {}", sandbox.last_output().trim()));
        }
        match &self.must {
            Must::Recover(recovery) => recovers(recovery, sandbox, baseline),
            Must::Count => counts(sandbox, strike, outcome),
            Must::Continue => continues(sandbox),
        }?;
        comes_back(sandbox, baseline)
    }
}

/// One recover leaves a running container or nothing at all; a second one changes nothing.
fn recovers(programs: &Recovery, sandbox: &Sandbox, baseline: &Snapshot) -> Result<(), String> {
    sandbox.operate(programs.recover)?;
    let state = sandbox.operate(programs.state)?;
    match state.trim() {
        "absent" => comes_back(sandbox, baseline)?,
        "running" if inside_a_container() => {}
        state => return Err(format!("after recover it is {state:?}: {}", sandbox.last_output().trim())),
    }
    let first = settled(sandbox);
    let changes = sandbox.operate(programs.recover)?;
    if !changes.trim().is_empty() {
        return Err(format!("a second recover changed: {}", changes.trim()));
    }
    same(&first, &settled(sandbox)).map_err(|changes| format!("a second recover changed:\n{changes}"))?;
    if state.trim() == "running" {
        sandbox.operate(programs.remove)?;
    }
    Ok(())
}

/// Whether a process runs in a namespace below this one.
fn inside_a_container() -> bool {
    let own = process::pid_namespace(1);
    process::others().into_iter().any(|pid| process::pid_namespace(pid) != own)
}

/// As many directories as calls to make one took effect.
fn counts(sandbox: &Sandbox, strike: Option<Strike>, outcome: &Outcome) -> Result<(), String> {
    let made = |calls: &[NumberedCall]| calls.iter().filter(|call| call.text.starts_with("mkdir")).count();
    let effective = match strike {
        Some((point, Moment::Before)) => point - 1,
        Some((point, Moment::After)) => point,
        None => outcome.calls.len(),
    };
    let expected = made(&outcome.calls[..effective.min(outcome.calls.len())]);
    let found = sandbox.scratch_entries();
    clear(sandbox);
    if found == expected { Ok(()) } else { Err(format!("{found} directories, expected {expected}")) }
}

/// The child goes on to its end.
fn continues(sandbox: &Sandbox) -> Result<(), String> {
    let deadline = Instant::now() + SETTLING;
    while sandbox.scratch_entries() < 3 || !process::others().is_empty() {
        if Instant::now() > deadline {
            return Err(format!("the child made {} of 3 directories", sandbox.scratch_entries()));
        }
        thread::sleep(Duration::from_millis(1));
    }
    clear(sandbox);
    Ok(())
}

fn clear(sandbox: &Sandbox) {
    for entry in fs::read_dir(sandbox.scratch()).expect("scratch") {
        fs::remove_dir(entry.expect("entry").path()).expect("remove");
    }
}

/// The host is as it was.
fn comes_back(sandbox: &Sandbox, baseline: &Snapshot) -> Result<(), String> {
    let deadline = Instant::now() + SETTLING;
    loop {
        match same(baseline, &sandbox.snapshot()) {
            Ok(()) => return Ok(()),
            Err(changes) if Instant::now() > deadline => {
                return Err(format!("not as it was before:\n{changes}"));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn same(one: &Snapshot, other: &Snapshot) -> Result<(), String> {
    let changes = one.changes(other);
    if changes.is_empty() { Ok(()) } else { Err(changes.join("\n")) }
}

/// The state once it no longer changes by itself.
pub(crate) fn settled(sandbox: &Sandbox) -> Snapshot {
    let deadline = Instant::now() + SETTLING;
    let mut last = sandbox.snapshot();
    loop {
        thread::sleep(Duration::from_millis(2));
        let now = sandbox.snapshot();
        if now == last || Instant::now() > deadline {
            return now;
        }
        last = now;
    }
}
