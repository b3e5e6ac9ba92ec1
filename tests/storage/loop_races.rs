//! Loop devices under many hands at once (`man 4 loop`).

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use docklet::Error;
use docklet::error::Chain;
use docklet::name::VolumeName;
use docklet::storage::{Filesystem, SnapshotSpec, VolumePool};

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::stage::{check_whole, names_in, together};
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

/// Who makes a volume mounts it without looking for who else has it. That is nobody: others who find it by its name wait.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_races_for_a_new_one_end_with_one_device() {
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    for round in 0..10 {
        let spec = spec(&format!("v{round}"), 16 * MIB);
        let found = || {
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                match pool.open(&spec.name) {
                    Ok(volume) => break volume,
                    Err(error) => {
                        assert!(matches!(error, Error::NotFound { .. }), "{error}");
                        assert!(Instant::now() < deadline, "no volume");
                    }
                }
            }
        };
        let spaces = together(6, |i| match i {
            0..4 => pool.prepare(&spec).expect("prepare").mount().expect("mount"),
            _ => found().mount().expect("mount"),
        });
        let paths: std::collections::BTreeSet<_> = spaces.iter().map(|space| space.path()).collect();
        assert_eq!(paths.len(), 1);
        assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()).len(), 1);
        assert_eq!(kernel::mounts_beneath(sandbox.paths.prefix()).len(), 1);
        found().unmount().expect("unmount");
        pool.remove(&spec.name).expect("remove");
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

/// Set in the processes that are at one volume at once: the pool's directory.
const STORM: &str = "DOCKLET_TEST_STORM";

/// Everything that can be done with one name, by four processes of four threads each: what is refused is refused for a reason,
/// and nothing is torn or left.
#[test]
#[ignore = "needs root: loop devices and mounts"]
fn volume_races_of_many_processes_for_one_name_tear_nothing() {
    if let Some(directory) = std::env::var_os(STORM) {
        let pool = VolumePool::loop_files(PathBuf::from(directory)).expect("pool");
        together(4, |index| storm(&pool, index));
        return;
    }
    let sandbox = Sandbox::new();
    let pool = pool(&sandbox);
    let myself = std::env::current_exe().expect("own path");
    let name = "loop_races::volume_races_of_many_processes_for_one_name_tear_nothing";
    let storms: Vec<_> = (0..4)
        .map(|_| {
            Command::new(&myself)
                .args(["--exact", name, "--include-ignored", "--quiet", "--nocapture"])
                .env(STORM, pool_directory(&sandbox))
                .spawn()
                .expect("the same program")
        })
        .collect();
    let ended: Vec<_> = storms.into_iter().map(|mut storm| storm.wait().expect("wait")).collect();
    assert!(ended.iter().all(|status| status.success()), "{ended:?}");
    pool.recover().expect("recover");
    for name in pool.list().expect("list") {
        let volume = pool.open(&name).expect("open");
        volume.mount().expect("mount");
        volume.unmount().expect("unmount");
        check_whole(Filesystem::Ext4, &volume.file());
        for snapshot in volume.snapshots().expect("snapshots") {
            volume.remove_snapshot(&snapshot.name).expect("remove");
        }
        pool.remove(&name).expect("remove");
    }
    assert_eq!(kernel::loops_beneath(sandbox.paths.prefix()), Vec::<String>::new());
    pool.tidy().expect("tidy");
    for part in ["files", "snapshots", "mounts", "frozen"] {
        assert_eq!(
            names_in(&pool_directory(&sandbox).join(part)),
            Vec::<std::ffi::OsString>::new(),
            "{part}"
        );
    }
}

fn pool_directory(sandbox: &Sandbox) -> PathBuf {
    sandbox.paths.volumes()
}

fn storm(pool: &VolumePool, index: usize) {
    let wanted = spec("data", 16 * MIB);
    let (copy, then) =
        (VolumeName::new("copy").expect("name"), SnapshotSpec::new("then".parse().expect("name")));
    let mut seed = u64::from(std::process::id()) * 16 + index as u64 + 1;
    for _ in 0..60 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let opened = || pool.open(&wanted.name);
        let what = (seed >> 33) % 13;
        let done = match what {
            0..=2 => pool.ensure(&wanted).map(drop),
            3 => opened().and_then(|volume| volume.snapshot(&then).map(drop)),
            4 => opened().and_then(|mut volume| volume.rollback(&then.name)),
            5 => opened().and_then(|volume| volume.remove_snapshot(&then.name)),
            6 => pool.clone_volume(&wanted.name, &copy).map(drop),
            7 => pool.remove(&copy),
            8 => pool.remove(&wanted.name),
            9 => {
                opened().and_then(|mut volume| volume.grow(if seed >> 60 < 4 { 32 * MIB } else { 24 * MIB }))
            }
            10 => opened().and_then(|volume| volume.mount().map(drop)),
            11 => pool.tidy().map(drop),
            _ => opened().and_then(|volume| volume.unmount()),
        };
        match done {
            Ok(()) | Err(Error::Busy { .. } | Error::NotFound { .. } | Error::Differs { .. }) => {}
            // Somebody has grown it, or mounted it where that takes a capability.
            Err(Error::Invalid { .. } | Error::Unsupported { .. }) if what == 9 => {}
            Err(error) => panic!("{what}: {}", Chain(&error)),
        }
    }
}
