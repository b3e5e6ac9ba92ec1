//! Volumes under many hands at once.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::volume::{MIB, message, pool, spec};

/// Runs `work` in `count` threads that start at the same moment.
fn together<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(count);
    let (barrier, work) = (&barrier, &work);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|index| {
                scope.spawn(move || {
                    barrier.wait();
                    work(index)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("thread")).collect()
    })
}

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
fn volume_races_make_one_file_one_device_one_mount() {
    use std::os::unix::fs::MetadataExt;
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    let wanted = spec("data", 32 * MIB);
    let inodes: BTreeSet<u64> = together(16, |_| {
        let volume = pool.ensure(&wanted).expect("ensure");
        fs::metadata(volume.file()).expect("stat").ino()
    })
    .into_iter()
    .collect();
    assert_eq!(inodes.len(), 1);
    assert_eq!(fs::read_dir(sandbox.paths.volumes().join("files")).expect("list").count(), 1);

    let volume = pool.open(&wanted.name).expect("open");
    let spaces = together(8, |_| volume.mount().expect("mount"));
    assert!(spaces.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()).len(), 1);
    assert_eq!(kernel::mounts_beneath(spaces[0].path()).len(), 1);
    together(8, |_| volume.unmount().expect("unmount"));
    assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()), Vec::<String>::new());
    together(8, |_| pool.remove(&wanted.name).expect("remove"));
    assert_eq!(pool.list().expect("list"), []);
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
    assert!(refused.contains("another mount namespace holds") && refused.contains("(sleep)"), "{refused}");
    // It is not attached a second time: two devices on one file would destroy it.
    volume.mount().expect("mount while it is held");
    assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()).len(), 1);
    long.kill().expect("kill");
    long.wait().expect("wait");
    volume.unmount().expect("unmount");
}
