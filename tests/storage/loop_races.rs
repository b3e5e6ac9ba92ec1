//! Loop devices under many hands at once (`man 4 loop`).

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::stage::together;
use crate::volume::{MIB, message, pool, spec};

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_races_for_devices_are_all_won() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    let volumes: Vec<_> =
        (0..24).map(|i| pool.ensure(&spec(&format!("v{i}"), 16 * MIB)).expect("ensure")).collect();
    let spaces = together(24, |i| volumes[i].mount().expect("mount"));
    let loops = kernel::loops_beneath(sandbox.paths.prefix());
    assert_eq!(loops.len(), 24, "{loops:?}");
    for (volume, space) in volumes.iter().zip(&spaces) {
        fs::write(space.path().join("name"), volume.spec().name.as_str()).expect("write");
    }
    together(24, |i| volumes[i].unmount().expect("unmount"));
    assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()), Vec::<String>::new());
    for volume in &volumes {
        let space = volume.mount().expect("mount");
        assert_eq!(fs::read_to_string(space.path().join("name")).expect("read"), volume.spec().name.as_str());
        volume.unmount().expect("unmount");
    }
}

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_races_of_whole_lives_leave_nothing() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    together(8, |i| {
        for _ in 0..5 {
            let volume = pool.ensure(&spec(&format!("v{i}"), 16 * MIB)).expect("ensure");
            let space = volume.mount().expect("mount");
            fs::write(space.path().join("file"), "x").expect("write");
            volume.unmount().expect("unmount");
            pool.remove(&volume.spec().name).expect("remove");
        }
    });
    assert_eq!(pool.list().expect("list"), []);
    assert_eq!(pool.tidy().expect("tidy"), Vec::<String>::new());
}

/// A container that is being started has a copy of all mounts for a moment.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_races_with_a_copy_of_the_namespace_are_waited_for() {
    let sandbox = Sandbox::new();
    let volume = pool(&sandbox).ensure(&spec("data", 32 * MIB)).expect("ensure");
    let space = volume.mount().expect("mount");
    let hold = |seconds: &str| {
        let child = Command::new("unshare").args(["--mount", "sleep", seconds]).spawn().expect("unshare");
        let info = format!("/proc/{}/mountinfo", child.id());
        let own = fs::read_link("/proc/thread-self/ns/mnt").expect("namespace");
        let deadline = Instant::now() + Duration::from_secs(10);
        while fs::read_link(format!("/proc/{}/ns/mnt", child.id())).expect("namespace") == own {
            assert!(Instant::now() < deadline, "no namespace");
            thread::sleep(Duration::from_millis(1));
        }
        assert!(fs::read_to_string(info).expect("mountinfo").contains(space.path().to_str().expect("UTF-8")));
        child
    };
    let mut brief = hold("0.3");
    volume.unmount().expect("unmount waits");
    assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()), Vec::<String>::new());
    brief.wait().expect("wait");

    volume.mount().expect("mount");
    let mut long = hold("60");
    let refused = message(volume.unmount());
    let holder = format!("another mount namespace holds, that of process {} (sleep), /dev/loop", long.id());
    assert!(refused.contains(&holder), "{refused}");
    // It is not attached a second time: two devices on one file would destroy it.
    volume.mount().expect("mount while it is held");
    assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()).len(), 1);
    long.kill().expect("kill");
    long.wait().expect("wait");
    volume.unmount().expect("unmount");
}
