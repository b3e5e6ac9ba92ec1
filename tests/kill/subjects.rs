//! What is killed, and what must be true afterwards.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::process;
use crate::sandbox::Sandbox;
use crate::snapshot::Snapshot;
use crate::tracer::{Mode, Moment, NumberedCall, Outcome, Strike};

/// How long the kernel may take to finish what has been asked for: dying processes and namespaces, also in a slow guest.
const SETTLING: Duration = Duration::from_secs(10);

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
    /// Prints one of `states`.
    pub(crate) state: &'static str,
    /// What there may be then.
    pub(crate) states: &'static [State],
    /// Removes what is there.
    pub(crate) remove: &'static str,
}

/// What a subject's object is after a recovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing of it is there.
    Absent,
    /// It is there, and no process of it.
    Present,
    /// A container that runs.
    Running,
}

const CONTAINER: Recovery = Recovery {
    recover: "recover",
    state: "state",
    states: &[State::Absent, State::Running],
    remove: "remove",
};
/// A container that exists before and after, up or down.
const STANDING: Recovery = Recovery { states: &[State::Present, State::Running], ..CONTAINER };
/// One that runs before and after, with interfaces that are all what they are written down to be.
const CONNECTED: Recovery = Recovery { state: "interfaces-state", states: &[State::Running], ..CONTAINER };
/// One that runs before and after, with limits that are all what they are written down to be.
const LIMITED: Recovery = Recovery { state: "limits-state", ..CONNECTED };
/// The same with mounts.
const MOUNTED: Recovery = Recovery { state: "mounts-state", ..CONNECTED };
const NETWORK: Recovery = Recovery {
    recover: "recover",
    state: "network-state",
    states: &[State::Absent, State::Present],
    remove: "remove-network",
};
/// What holds for all networks, or does not; the table says the same.
const ISOLATION: Recovery = Recovery { state: "isolation-state", remove: "clear-isolation", ..NETWORK };
/// A table that is changed, or goes: whole at every moment.
const FIREWALL: Recovery = Recovery {
    recover: "recover-firewall",
    state: "firewall-state",
    states: &[State::Present],
    remove: "remove-firewall",
};
/// A bridge that is half made is whole after the same call.
const BRIDGE: Recovery = Recovery {
    recover: "ensure-bridge",
    state: "bridge-state",
    states: &[State::Present],
    remove: "remove-bridge",
};
/// A port that is half made is whole after the same call.
const PORT: Recovery = Recovery {
    recover: "ensure-port",
    state: "port-state",
    states: &[State::Present],
    remove: "remove-port",
};
/// What an image that was never finished stored is garbage, which is collected.
const IMAGE: Recovery =
    Recovery { recover: "recover-images", state: "image-state", remove: "remove-image", ..NETWORK };
/// A volume that is half grown is whole after the same call.
const VOLUME: Recovery =
    Recovery { recover: "grow", state: "volume-state", states: &[State::Present], remove: "remove-volume" };
/// A volume that is being made or removed.
const MADE: Recovery = Recovery {
    recover: "recover-volumes",
    state: "made-state",
    states: &[State::Absent, State::Present],
    remove: "remove-volume",
};
const IN_MEMORY: Recovery =
    Recovery { recover: "tidy-tmpfs", state: "tmpfs-state", remove: "remove-tmpfs", ..MADE };
/// A volume that is there before and after, with or without a snapshot and a clone.
const KEPT: Recovery = Recovery {
    recover: "recover-volumes",
    state: "snapshot-state",
    states: &[State::Present],
    remove: "remove-volumes",
};
/// A root that is half mounted is whole after the same call.
const OVERLAY: Recovery = Recovery {
    recover: "mount-overlay",
    state: "overlay-state",
    states: &[State::Present],
    remove: "remove-overlay",
};

/// A tunnel that is half made or changed is whole after the same call.
const TUNNEL: Recovery = Recovery {
    recover: "ensure-mesh",
    state: "mesh-state",
    states: &[State::Present],
    remove: "remove-tunnel",
};

/// The same export again.
const EXPORT: Recovery = Recovery {
    recover: "export-image",
    state: "export-state",
    states: &[State::Present],
    remove: "remove-export",
};

/// An embedded store that is made, or changed.
const STORE: Recovery = Recovery {
    recover: "recover-store",
    state: "store-state",
    states: &[State::Absent, State::Present],
    remove: "remove-store",
};
/// One that is there before and after.
const STANDING_STORE: Recovery = Recovery { states: &[State::Present], ..STORE };

/// An operation of docklet that runs no program which goes on without it.
const fn own(
    name: &'static str,
    once: &'static [&'static str],
    before: &'static [&'static str],
    recovery: Recovery,
) -> Subject {
    Subject { name, modes: &[Mode::Own], program: name, once, before, must: Must::Recover(recovery) }
}

/// Growing, of a file system that the kernel grows.
const fn growth(
    name: &'static str,
    once: &'static [&'static str],
    before: &'static [&'static str],
) -> Subject {
    Subject { name, modes: &[Mode::Own], program: "grow", once, before, must: Must::Recover(VOLUME) }
}

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
        must: Must::Recover(Recovery {
            recover: "remove-tree",
            state: "tree-state",
            states: &[State::Absent],
            remove: "remove-tree",
        }),
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
    own("stop", &["prepare"], &["launch"], STANDING),
    Subject {
        name: "start",
        modes: &Mode::ALL,
        program: "start",
        once: &["prepare"],
        before: &["launch", "stop"],
        must: Must::Recover(STANDING),
    },
    Subject {
        name: "supervise",
        modes: &[Mode::Own],
        program: "supervise",
        once: &["prepare"],
        before: &["launch", "crash"],
        must: Must::Recover(Recovery { states: &[State::Running], ..CONTAINER }),
    },
    own("apply-limits", &["prepare"], &["launch"], LIMITED),
    Subject {
        name: "give-up",
        modes: &[Mode::Own],
        program: "recover",
        once: &["prepare"],
        before: &["launch-mortal", "die"],
        must: Must::Recover(Recovery { states: &[State::Present], ..CONTAINER }),
    },
    Subject {
        name: "restart",
        modes: &[Mode::Own],
        program: "recover",
        once: &["prepare"],
        before: &["launch", "die"],
        must: Must::Recover(Recovery { states: &[State::Running], ..CONTAINER }),
    },
    own("ensure-network", &["prepare-networks"], &[], NETWORK),
    own("remove-network", &["prepare-networks"], &["ensure-network"], NETWORK),
    own("launch-wide", &["prepare-networks"], &[], CONTAINER),
    Subject {
        name: "remove-wide",
        modes: &[Mode::Own],
        program: "remove",
        once: &["prepare-networks"],
        before: &["launch-wide"],
        must: Must::Recover(CONTAINER),
    },
    own("widen", &["prepare-networks"], &["launch"], CONNECTED),
    own("narrow", &["prepare-networks"], &["launch-wide"], CONNECTED),
    own(
        "apply-network",
        &["prepare-networks"],
        &["launch"],
        Recovery { remove: "restore-network", ..CONNECTED },
    ),
    own("launch-mounted", &["prepare"], &[], CONTAINER),
    own("add-mounts", &["prepare"], &["launch"], MOUNTED),
    own("take-mounts-away", &["prepare"], &["launch-mounted"], MOUNTED),
    own("apply-isolation", &["prepare-networks"], &[], ISOLATION),
    own("clear-isolation", &["prepare-networks"], &["apply-isolation"], ISOLATION),
    Subject {
        name: "change-firewall",
        modes: &Mode::ALL,
        program: "change-firewall",
        once: &[],
        before: &["prepare-firewall"],
        must: Must::Recover(FIREWALL),
    },
    Subject {
        name: "remove-firewall",
        modes: &Mode::ALL,
        program: "remove-firewall",
        once: &[],
        before: &["prepare-firewall"],
        must: Must::Recover(Recovery { recover: "finish-firewall", states: &[State::Absent], ..FIREWALL }),
    },
    own("ensure-bridge", &[], &[], BRIDGE),
    own(
        "remove-bridge",
        &[],
        &["ensure-bridge"],
        Recovery { recover: "remove-bridge", states: &[State::Absent], ..BRIDGE },
    ),
    own(
        "attach-port",
        &["make-port"],
        &["ensure-bridge"],
        Recovery { recover: "attach-port", state: "attached-state", ..BRIDGE },
    ),
    own(
        "detach-port",
        &["make-port"],
        &["ensure-bridge", "attach-port"],
        Recovery { recover: "detach-port", state: "detached-state", ..BRIDGE },
    ),
    own("ensure-port", &["prepare-port"], &[], PORT),
    own("ensure-ports", &["prepare-port"], &[], Recovery { recover: "ensure-ports", ..PORT }),
    own("apply-port", &["prepare-port"], &["ensure-port"], Recovery { recover: "apply-port", ..PORT }),
    own(
        "remove-port",
        &["prepare-port"],
        &["ensure-port"],
        Recovery { recover: "remove-port", states: &[State::Absent], ..PORT },
    ),
    own("build-image", &["prepare", "recover-images"], &[], IMAGE),
    own("import-image", &["prepare", "recover-images"], &[], IMAGE),
    own("commit", &["prepare", "launch", "stop", "recover-images"], &[], IMAGE),
    own(
        "tag",
        &["prepare", "recover-images"],
        &["build-image"],
        Recovery { states: &[State::Present], ..IMAGE },
    ),
    own("remove-image", &["prepare", "recover-images"], &["build-image"], IMAGE),
    own(
        "collect-garbage",
        &["prepare", "recover-images"],
        &["build-image", "forget-image"],
        Recovery { states: &[State::Absent], ..IMAGE },
    ),
    own("export-image", &["prepare", "build-image"], &[], EXPORT),
    own("mount-overlay", &["prepare-overlay"], &[], OVERLAY),
    own("mount-mapped", &["prepare-overlay"], &[], Recovery { recover: "mount-mapped", ..OVERLAY }),
    own("mount-read-only", &["prepare-overlay"], &[], Recovery { recover: "mount-read-only", ..OVERLAY }),
    own(
        "unmount-overlay",
        &["prepare-overlay"],
        &["mount-mapped"],
        Recovery { recover: "remove-overlay", states: &[State::Absent], ..OVERLAY },
    ),
    own("ensure-mesh", &["prepare-tunnel"], &[], TUNNEL),
    own(
        "change-mesh",
        &["prepare-tunnel"],
        &["ensure-mesh"],
        Recovery { recover: "change-mesh", state: "changed-mesh-state", ..TUNNEL },
    ),
    own(
        "ensure-star",
        &["prepare-tunnel"],
        &[],
        Recovery { recover: "ensure-star", state: "star-state", ..TUNNEL },
    ),
    own(
        "change-star",
        &["prepare-tunnel"],
        &["ensure-star"],
        Recovery { recover: "change-star", state: "changed-star-state", ..TUNNEL },
    ),
    own(
        "remove-tunnel",
        &["prepare-tunnel"],
        &["ensure-star"],
        Recovery { recover: "remove-tunnel", state: "star-state", states: &[State::Absent], ..TUNNEL },
    ),
    own("grow", &["make-volume", "remove-volume"], &["make-volume"], VOLUME),
    growth("grow-xfs", &["make-xfs", "remove-volume"], &["make-xfs"]),
    growth("grow-btrfs", &["make-btrfs", "remove-volume"], &["make-btrfs"]),
    own("make-volume", &["make-volume", "remove-volume"], &[], MADE),
    own("make-btrfs", &["make-btrfs", "remove-volume"], &[], MADE),
    own("remove-volume", &["make-volume", "remove-volume"], &["make-volume"], MADE),
    own("make-tmpfs", &["make-tmpfs", "remove-tmpfs"], &[], IN_MEMORY),
    own("remove-tmpfs", &["make-tmpfs", "remove-tmpfs"], &["make-tmpfs"], IN_MEMORY),
    own("snapshot", &["make-volume", "remove-volume"], &["fill-volume"], KEPT),
    Subject {
        name: "snapshot-mounted",
        modes: &[Mode::Own],
        program: "snapshot",
        once: &["make-volume", "remove-volume"],
        before: &["mount-volume"],
        must: Must::Recover(KEPT),
    },
    own("rollback", &["make-volume", "remove-volume"], &["keep-volume"], KEPT),
    own("clone", &["make-volume", "remove-volume"], &["keep-volume"], KEPT),
    own("remove-snapshot", &["make-volume", "remove-volume"], &["keep-volume"], KEPT),
    Subject { name: "make-store", ..own("change-store", &[], &[], STORE) },
    own("change-store", &[], &["change-store"], STANDING_STORE),
];

/// The same on thin LVM.
pub(crate) const ON_LVM: &[Subject] = &[
    own("make-volume", &["prepare-lvm"], &[], MADE),
    own("remove-volume", &["prepare-lvm"], &["make-volume"], MADE),
    own("grow", &["prepare-lvm"], &["make-volume"], VOLUME),
    own("snapshot", &["prepare-lvm"], &["fill-volume"], KEPT),
    own("rollback", &["prepare-lvm"], &["keep-volume"], KEPT),
    own("clone", &["prepare-lvm"], &["keep-volume"], KEPT),
    own("remove-snapshot", &["prepare-lvm"], &["keep-volume"], KEPT),
];

/// The same with project quotas; snapshots there are none.
pub(crate) const ON_QUOTAS: &[Subject] = &[
    own("make-volume", &["prepare-quota-ext4"], &[], MADE),
    own("remove-volume", &["prepare-quota-ext4"], &["fill-volume"], MADE),
    own("grow", &["prepare-quota-ext4"], &["make-volume"], VOLUME),
    Subject { name: "make-on-xfs", ..own("make-volume", &["prepare-quota-xfs"], &[], MADE) },
    Subject { name: "remove-on-xfs", ..own("remove-volume", &["prepare-quota-xfs"], &["fill-volume"], MADE) },
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

/// One recover leaves one of the states that may be; a second one changes nothing.
fn recovers(programs: &Recovery, sandbox: &Sandbox, baseline: &Snapshot) -> Result<(), String> {
    sandbox.operate(programs.recover)?;
    let said = sandbox.operate(programs.state)?;
    let state = match said.trim() {
        "absent" => State::Absent,
        "present" if !inside_a_container() => State::Present,
        "running" if inside_a_container() => State::Running,
        said => return Err(format!("after recover it is {said:?}: {}", sandbox.last_output().trim())),
    };
    if !programs.states.contains(&state) {
        return Err(format!("after recover it is {state:?}: {}", sandbox.last_output().trim()));
    }
    if state == State::Absent {
        comes_back(sandbox, baseline)?;
    }
    let first = settled(sandbox);
    let changes = sandbox.operate(programs.recover)?;
    if !changes.trim().is_empty() {
        return Err(format!("a second recover changed: {}", changes.trim()));
    }
    same(&first, &settled(sandbox)).map_err(|changes| format!("a second recover changed:\n{changes}"))?;
    if state != State::Absent {
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
        if (now == last && !now.has_ending_processes()) || Instant::now() > deadline {
            return now;
        }
        last = now;
    }
}
