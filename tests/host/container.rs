//! A container's life, seen from the kernel and from inside.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use docklet::Error;
use docklet::cgroup::{CgroupLimits, Limit};
use docklet::error::Chain;
use docklet::lxc::{Container, Exec, HaltSignal, LxcConfig, MountEntry, State, StopOutcome};

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::scripted_root::{self, sh};

/// Gone, or dead and not reaped yet by the host's init.
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X'])))
}

fn processes_in(container: &Container) -> Vec<u32> {
    container.payload().processes().unwrap()
}

#[test]
#[ignore = "needs root: containers"]
fn container_starts_and_stops() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    assert_eq!(container.state().unwrap(), State::Stopped);
    let started = container.start(&scripted_root::config(&root)).unwrap();
    assert_eq!(container.state().unwrap(), State::Running);
    assert_eq!(container.init_pid().unwrap(), Some(started.init_pid));
    // The kernel's word: that process is the first of its pid namespace, and runs our init.
    let status = fs::read_to_string(format!("/proc/{}/status", started.init_pid)).unwrap();
    assert!(status.lines().any(|line| line == format!("NSpid:\t{}\t1", started.init_pid)), "{status}");
    assert_eq!(sh(&container, "hostname"), "inside\n");
    let message = container.start(&scripted_root::config(&root)).unwrap_err().to_string();
    assert!(message.contains("is busy: it runs already"), "{message}");
    assert_eq!(container.stop(Duration::from_secs(10)).unwrap(), StopOutcome::Graceful);
    assert_eq!(fs::read_to_string(root.join("halted")).unwrap(), "bye\n");
    assert_eq!(container.state().unwrap(), State::Stopped);
    assert_eq!(container.stop(Duration::from_secs(10)).unwrap(), StopOutcome::NotRunning);
    assert_eq!(container.kill().unwrap(), StopOutcome::NotRunning);
    scripted_root::end(&sandbox);
}

/// What a crash right before or after the start would leave: a second handle must see and end the same container.
#[test]
#[ignore = "needs root: containers"]
fn container_is_found_again_and_killed() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    let mut config = scripted_root::config(&root);
    // This init has no handler for it, so the kernel shields it.
    config.halt_signal(HaltSignal::TERMINATE);
    let started = container.start(&config).unwrap();
    let again = container.clone();
    assert_eq!(again.init_pid().unwrap(), Some(started.init_pid));
    let begin = Instant::now();
    assert_eq!(again.stop(Duration::from_millis(300)).unwrap(), StopOutcome::Killed);
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert!(container.init_pidfd().unwrap().is_none());
    assert!(container.wait(None).unwrap());
    // Without the proof of its start it does not count as started, but is ended all the same.
    let started = container.start(&config).unwrap();
    fs::remove_file(record(&sandbox)).unwrap();
    assert_eq!(container.state().unwrap(), State::Stopped);
    container.clean().unwrap();
    assert!(has_ended(started.init_pid));
    // A record of an earlier boot means nothing.
    container.start(&config).unwrap();
    let text = fs::read_to_string(record(&sandbox)).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(record(&sandbox), text.replace(boot.trim(), "another")).unwrap();
    assert_eq!(container.state().unwrap(), State::Stopped);
    fs::write(record(&sandbox), "").unwrap();
    assert_eq!(container.state().unwrap(), State::Stopped);
    container.clean().unwrap();
    container.clean().unwrap();
    scripted_root::end(&sandbox);
}

/// The record of the sandbox's only container.
fn record(sandbox: &Sandbox) -> PathBuf {
    let mut entries = fs::read_dir(sandbox.paths.containers()).unwrap();
    entries.next().unwrap().unwrap().path().join("started.json")
}

#[test]
#[ignore = "needs root: containers"]
fn container_is_waited_for() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    assert!(container.wait(None).unwrap());
    let init = container.start(&scripted_root::config(&root)).unwrap().init_pid;
    assert!(!container.wait(Some(Duration::from_millis(50))).unwrap());
    let waiting = container.clone();
    let waiter = thread::spawn(move || waiting.wait(Some(Duration::from_secs(60))).unwrap());
    // Until it has its handler the kernel keeps signals from an init.
    while !waiter.is_finished() {
        Command::new("kill").args(["-USR1", &init.to_string()]).stderr(Stdio::null()).status().unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    assert!(waiter.join().unwrap());
    assert_eq!(container.state().unwrap(), State::Stopped);
    assert!(processes_in(&container).is_empty());
    container.clean().unwrap();
    scripted_root::end(&sandbox);
}

#[test]
#[ignore = "needs root: containers"]
fn container_is_frozen_and_unfrozen() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    let message = container.freeze().unwrap_err().to_string();
    assert!(message.contains("a running container"), "{message}");
    container.start(&scripted_root::config(&root)).unwrap();
    sh(&container, "(while :; do date +%s%N > /tick; done) > /dev/null 2>&1 &");
    while !root.join("tick").exists() {
        thread::sleep(Duration::from_millis(1));
    }
    container.freeze().unwrap();
    assert_eq!(container.state().unwrap(), State::Frozen);
    let tick = fs::read(root.join("tick")).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert_eq!(fs::read(root.join("tick")).unwrap(), tick);
    let message = container.exec(&Exec::new(["true"])).unwrap_err().to_string();
    assert!(message.contains("it is frozen"), "{message}");
    container.unfreeze().unwrap();
    assert_eq!(container.state().unwrap(), State::Running);
    sh(&container, "true");
    container.freeze().unwrap();
    assert_eq!(container.stop(Duration::from_secs(10)).unwrap(), StopOutcome::Graceful);
    container.start(&scripted_root::config(&root)).unwrap();
    container.freeze().unwrap();
    assert_eq!(container.kill().unwrap(), StopOutcome::Killed);
    scripted_root::end(&sandbox);
}

#[test]
#[ignore = "needs root: containers"]
fn container_start_failures_have_reasons() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    let refused = |config: &LxcConfig| {
        // An init that ends at once can be seen running before: only then is a start repeated.
        let starts = (0..50).map(|_| {
            container.start(config).inspect(|_| {
                assert!(container.wait(Some(Duration::from_secs(10))).unwrap(), "it goes on running");
                container.clean().unwrap();
            })
        });
        let error = starts.filter_map(Result::err).next().expect("every start succeeded");
        assert_eq!(container.state().unwrap(), State::Stopped);
        assert_eq!(scripted_root::lock_files(&sandbox), "");
        assert_eq!(sandbox.remains(), scripted_root::tag_groups(&sandbox));
        assert!(!matches!(error, Error::LeftBehind { .. }), "{error:?}");
        Chain(&error).to_string()
    };
    let message = refused(&scripted_root::config(&sandbox.dir("x").join("none")));
    assert!(message.starts_with("root `/var/tmp/") && message.ends_with("none` does not exist"), "{message}");
    let message = refused(&scripted_root::config(&root.join("etc/passwd")));
    assert!(message.contains("invalid root") && message.contains("must be a directory"), "{message}");
    let mut config = scripted_root::config(&root);
    config.init(["/sbin/missing"]).unwrap();
    let message = refused(&config);
    assert!(
        message.starts_with("init `/sbin/missing` in the root") && message.ends_with("does not exist"),
        "{message}"
    );
    config.init(["/etc/passwd"]).unwrap();
    assert!(refused(&config).contains("must be an executable file"));
    config.init(["/bin"]).unwrap();
    assert!(refused(&config).contains("must be an executable file"));
    // Only the kernel finds these.
    scripted_root::write_program(&root.join("sbin/script"), "#!/bin/missing\n");
    config.init(["/sbin/script"]).unwrap();
    let message = refused(&config);
    assert!(message.starts_with("lxc-start failed (") && message.contains("/sbin/script"), "{message}");
    // A mount that is there when it is checked, and gone when LXC makes it.
    let source = sandbox.dir("gone");
    let mut config = scripted_root::config(&root);
    config.mount(MountEntry::bind(&source, "/data").unwrap()).unwrap();
    fs::remove_dir(&source).unwrap();
    assert_eq!(refused(&config), format!("mount source `{}` does not exist", source.display()));
    let mut config = scripted_root::config(&root);
    let pinned = sandbox.dir("y").join("netns");
    config.join_network(&pinned).unwrap();
    let message = refused(&config);
    assert!(
        message.starts_with("network namespace `") && message.ends_with("netns` does not exist"),
        "{message}"
    );
    fs::write(&pinned, "").unwrap();
    assert!(refused(&config).contains("must be a pinned namespace"));
    // Init that ends at once is a start that succeeded or failed, but never one that hangs or is left running. What
    // is no program is given to /bin/sh, and ends like that.
    for text in ["#!/bin/sh\nexit 0\n", "\x7fELF rubbish"] {
        scripted_root::write_program(&root.join("sbin/brief"), text);
        let mut config = scripted_root::config(&root);
        config.init(["/sbin/brief"]).unwrap();
        if let Err(error) = container.start(&config) {
            assert!(error.to_string().contains("init ended as soon as it was started"), "{error}");
        }
        assert!(container.wait(Some(Duration::from_secs(10))).unwrap());
        container.clean().unwrap();
    }
    // And the same container starts after all that.
    container.start(&scripted_root::config(&root)).unwrap();
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}

#[test]
#[ignore = "needs root: containers"]
fn container_console_is_kept_and_capped() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    let log = sandbox.dir("console").join("log");
    scripted_root::write_program(
        &root.join("sbin/chatty"),
        "#!/bin/sh\necho first words > /dev/console\nwhile :; do seq 1 2000; touch /written; done > /dev/console\n",
    );
    let mut config = scripted_root::config(&root);
    config.init(["/sbin/chatty"]).unwrap().console_log(&log, 65536).unwrap();
    container.start(&config).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while !log.with_extension("1").exists() && !sandbox.dir("console").join("log.1").exists() {
        assert!(Instant::now() < deadline, "the console's log was not turned over");
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(300));
    container.kill().unwrap();
    let total: u64 =
        fs::read_dir(sandbox.dir("console")).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    assert!((1..=3 * 65536).contains(&total), "{total}");
    scripted_root::end(&sandbox);
}

/// LXC's own reboot: the monitor stays and starts a new init.
#[test]
#[ignore = "needs root: containers"]
fn container_survives_a_reboot_from_inside() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    symlink("busybox", root.join("bin/reboot")).unwrap();
    scripted_root::write_program(
        &root.join("sbin/rebooting"),
        "#!/bin/sh\nif [ -e /once ]; then while :; do sleep 1; done; fi\ntouch /once\nsleep 0.2\nexec reboot -f\n",
    );
    let container = scripted_root::container(&sandbox);
    let limits = CgroupLimits { pids_max: Some(Limit::At(40)), ..CgroupLimits::default() };
    let mut config = scripted_root::config(&root);
    config.init(["/sbin/rebooting"]).unwrap().limits(&limits);
    let first = container.start(&config).unwrap().init_pid;
    let deadline = Instant::now() + Duration::from_secs(20);
    let second = loop {
        match container.init_pid().unwrap() {
            Some(pid) if pid != first => break pid,
            _ => assert!(Instant::now() < deadline, "it did not come back"),
        }
        thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(container.state().unwrap(), State::Running);
    container.payload().verify(&limits).unwrap();
    assert!(!container.wait(Some(Duration::from_millis(50))).unwrap());
    container.kill().unwrap();
    assert!(has_ended(second));
    scripted_root::end(&sandbox);
}

#[test]
#[ignore = "needs root: containers"]
fn container_starts_ten_times_fast_and_two_at_once() {
    let sandbox = Sandbox::new();
    let roots = ["a", "b"].map(|name| scripted_root::root(&sandbox, name));
    let container = scripted_root::container(&sandbox);
    for _ in 0..10 {
        container.start(&scripted_root::config(&roots[0])).unwrap();
        container.kill().unwrap();
    }
    let workers = roots.map(|root| {
        let container = scripted_root::container(&sandbox);
        thread::spawn(move || {
            for _ in 0..10 {
                container.start(&scripted_root::config(&root)).unwrap();
                assert_eq!(container.state().unwrap(), State::Running);
                container.kill().unwrap();
            }
        })
    });
    for worker in workers {
        worker.join().unwrap();
    }
    scripted_root::end(&sandbox);
}

/// What a killed program leaves: `lxc-start` at work, and nobody who waits for it. Its end is found by the group.
#[test]
#[ignore = "needs root: containers"]
fn container_half_started_is_cleaned() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    // It has just been started, and has not moved anywhere yet.
    let slow = sandbox.dir("slow").join("lxc-start");
    scripted_root::write_program(&slow, "#!/bin/sh\nsleep 1000\nexec /usr/bin/lxc-start \"$@\"\n");
    let mut target = scripted_root::target();
    target.lxc_start = slow;
    let container = scripted_root::container_with(&sandbox, &target);
    let starting = container.clone();
    let config = scripted_root::config(&root);
    let start = config.clone();
    let starter = thread::spawn(move || starting.start(&start).unwrap_err().to_string());
    let tracking = kernel::unified().unwrap_or_else(|| "/sys/fs/cgroup/freezer".into());
    let group = tracking.join(container.payload().path());
    let procs = group.with_file_name("start").join("cgroup.procs");
    while fs::read_to_string(&procs).unwrap_or_default().is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(container.state().unwrap(), State::Stopped);
    container.clean().unwrap();
    let message = starter.join().unwrap();
    assert!(message.starts_with("lxc-start failed (signal: 9)"), "{message}");
    // At any later moment.
    let container = scripted_root::container(&sandbox);
    for millis in 0..24 {
        let (starting, start) = (container.clone(), config.clone());
        let starter = thread::spawn(move || starting.start(&start).map(drop));
        thread::sleep(Duration::from_millis(millis * 3 / 2));
        // It may meet a start that goes on making groups; what counts is the last one, when nothing makes any more.
        let _ = container.clean();
        let result = starter.join().unwrap();
        container.clean().unwrap_or_else(|e| panic!("{e} after {result:?}"));
        assert_eq!(container.state().unwrap(), State::Stopped);
        assert_eq!(sandbox.remains(), scripted_root::tag_groups(&sandbox), "after {millis} ms");
    }
    container.start(&config).unwrap();
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}
