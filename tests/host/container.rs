//! A container's life, seen from the kernel and from inside.

use std::fs;
use std::time::Duration;

use docklet::lxc::{State, StopOutcome};

use crate::busybox;
use crate::sandbox::Sandbox;

#[test]
#[ignore = "needs root: containers"]
fn container_starts_and_stops() {
    let sandbox = Sandbox::new();
    let root = busybox::root(&sandbox, "a");
    let container = busybox::container(&sandbox);
    assert_eq!(container.state().unwrap(), State::Stopped);
    let started = container.start(&busybox::config(&root)).unwrap();
    assert_eq!(container.state().unwrap(), State::Running);
    assert_eq!(container.init_pid().unwrap(), Some(started.init_pid));
    // The kernel's word: that process is the first of its pid namespace, and its root is ours.
    let status = fs::read_to_string(format!("/proc/{}/status", started.init_pid)).unwrap();
    assert!(status.lines().any(|line| line == format!("NSpid:\t{}\t1", started.init_pid)), "{status}");
    assert_eq!(busybox::sh(&container, "hostname"), "inside\n");
    assert_eq!(container.stop(Duration::from_secs(10)).unwrap(), StopOutcome::Graceful);
    assert_eq!(fs::read_to_string(root.join("halted")).unwrap(), "bye\n");
    assert_eq!(container.state().unwrap(), State::Stopped);
    assert_eq!(container.stop(Duration::from_secs(10)).unwrap(), StopOutcome::NotRunning);
    busybox::end(&sandbox);
}
