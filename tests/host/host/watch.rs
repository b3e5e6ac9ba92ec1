//! Changes of containers, as they are told.

use std::time::Duration;

use docklet::host::{Change, ContainerSpec, StateChange, StateChanges};
use docklet::lxc::{Exec, Exit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::fixture::{Fixture, spec};

/// The next change, which must come some time.
async fn next(changes: &mut StateChanges) -> StateChange {
    let next = tokio::time::timeout(Duration::from_secs(120), changes.next());
    next.await.expect("a change").unwrap()
}

/// The next change of `spec`, which must be that it runs. Returns its first process.
async fn runs(changes: &mut StateChanges, spec: &ContainerSpec) -> u32 {
    let told = next(changes).await;
    match told.change {
        Change::Running { init_pid } if told.name == spec.name => init_pid,
        _ => panic!("{told:?}"),
    }
}

async fn stopped(changes: &mut StateChanges) -> Option<(Exit, bool)> {
    let told = next(changes).await;
    match told.change {
        Change::Stopped { last_end } => last_end.map(|end| (end.exit, end.asked)),
        _ => panic!("{told:?}"),
    }
}

/// Each change of a life is told once, whoever made it.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn each_change_is_told() {
    let fixture = Fixture::new().await;
    let (host, one) = (&fixture.host, spec("one"));
    let mut changes = host.watch().unwrap();
    host.launch(one.clone()).await.unwrap();
    let runtime = host.runtime(&one.name).unwrap();
    let first = runs(&mut changes, &one).await;
    assert_eq!(runtime.init_pid().unwrap(), Some(first));
    // Also by who comes late.
    let mut late = host.watch().unwrap();
    assert_eq!(runs(&mut late, &one).await, first);
    drop(late);

    host.freeze(&one.name).await.unwrap();
    assert_eq!(next(&mut changes).await.change, Change::Frozen);
    host.unfreeze(&one.name).await.unwrap();
    assert_eq!(runs(&mut changes, &one).await, first);

    host.exec(&one.name, Exec::new(["reboot"])).await.unwrap();
    let second = runs(&mut changes, &one).await;
    assert_ne!(second, first);
    kill(Pid::from_raw(i32::try_from(second).unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(stopped(&mut changes).await, Some((Exit::Signaled(9), false)));
    host.start(&one.name).await.unwrap();
    runs(&mut changes, &one).await;
    host.stop(&one.name, Duration::from_secs(60)).await.unwrap();
    assert_eq!(stopped(&mut changes).await, Some((Exit::Halted, true)));
    host.remove(&one.name).await.unwrap();
    assert_eq!(next(&mut changes).await.change, Change::Removed);

    // A monitor that is killed takes its container along, and nobody knows how that ended.
    let two = host.launch(spec("two")).await.unwrap();
    let init = runs(&mut changes, &two.spec).await;
    let status = std::fs::read_to_string(format!("/proc/{init}/stat")).unwrap();
    let monitor = status.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(1).unwrap();
    kill(Pid::from_raw(monitor.parse().unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(stopped(&mut changes).await, Some((Exit::Unknown, false)));
    // Nobody has looked at what was told before it was asked for: one end and one start, not more.
    host.start(&two.spec.name).await.unwrap();
    let before = runs(&mut changes, &two.spec).await;
    for _ in 0..3 {
        host.stop(&two.spec.name, Duration::ZERO).await.unwrap();
        host.start(&two.spec.name).await.unwrap();
    }
    assert_eq!(stopped(&mut changes).await, Some((Exit::Signaled(9), true)));
    assert_ne!(runs(&mut changes, &two.spec).await, before);
    host.remove(&two.spec.name).await.unwrap();
    assert_eq!(next(&mut changes).await.change, Change::Removed);
    fixture.end().await;
}
