//! What a container does so that the host loses sight of it, or of what holds it. Tried from inside real containers.

use std::fs;
use std::path::Path;
use std::time::Duration;

use docklet::cgroup::{Cgroup, CgroupLimits, Limit};
use docklet::host::{ContainerSpec, Outcome};
use docklet::lxc::{Container, Exec, ExecStatus, State};

use super::fixture::{Fixture, spec};

/// Puts a script in the place of the container's init, and starts it again.
async fn become_script(fixture: &Fixture, spec: &ContainerSpec, script: &str) {
    let place = Exec {
        stdin: format!("#!/bin/sh\n{script}\n").into_bytes(),
        ..Exec::new(["/bin/sh", "-c", "rm /sbin/init && cat > /sbin/init && chmod 755 /sbin/init"])
    };
    assert!(fixture.host.exec(&spec.name, place).await.unwrap().status.success());
    fixture.host.stop(&spec.name, Duration::ZERO).await.unwrap();
    fixture.host.start(&spec.name).await.unwrap();
}

/// Waits until init is what is wanted of it, which the file `of` of it tells, and returns its pid.
async fn once_init(fixture: &Fixture, spec: &ContainerSpec, of: &str, wanted: impl Fn(&[u8]) -> bool) -> u32 {
    for _ in 0..1200 {
        if let Some(init) = fixture.host.runtime(&spec.name).unwrap().init_pid().unwrap()
            && fs::read(format!("/proc/{init}/{of}")).is_ok_and(|text| wanted(&text))
        {
            return init;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("init has never been what it should be");
}

/// A program's name may be any bytes. Who has one that is no text is seen, and killed, all the same.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_name_that_is_no_text_hides_nobody() {
    let fixture = Fixture::new().await;
    let spec = spec("a");
    fixture.host.launch(spec.clone()).await.unwrap();
    let script = "trap : USR2; printf '\\377\\033x) S 1 1' > /proc/$$/comm; while :; do sleep 1; done";
    become_script(&fixture, &spec, script).await;
    let before = fixture.host.runtime(&spec.name).unwrap().init_pid().unwrap().unwrap();
    // Asked of the kernel alone, until it is so.
    let comm = format!("/proc/{before}/comm");
    for _ in 0..1200 {
        if fs::read(&comm).unwrap().first() == Some(&0xff) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(fs::read(&comm).unwrap()[..3], [0xff, 0x1b, b'x']);
    assert_eq!(fixture.host.get(&spec.name).unwrap().state, State::Running);
    assert_eq!(fixture.host.runtime(&spec.name).unwrap().init_pid().unwrap(), Some(before));
    assert_eq!(fixture.sh(&spec.name, "echo x").await, "x\n");
    let recovered = fixture.host.recover().await.unwrap();
    assert_eq!(recovered.containers, [(spec.name.clone(), Outcome::Unchanged)]);

    // So is a command that outlives its time, which is told from others by its family.
    let processes = || fixture.host.runtime(&spec.name).unwrap().payload().processes().unwrap();
    let exec = Exec {
        timeout: Some(Duration::from_secs(2)),
        ..Exec::new(["/bin/sh", "-c", "printf '\\377' > /proc/$$/comm; while :; do sleep 100; done"])
    };
    assert_eq!(fixture.host.exec(&spec.name, exec).await.unwrap().status, ExecStatus::TimedOut);
    let cmdline = |pid: &u32| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let left: Vec<_> = processes().iter().map(cmdline).filter(|line| line.ends_with(b"100\0")).collect();
    assert_eq!(left, Vec::<Vec<u8>>::new());
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// An init that moves into a group of its own making after a reboot from inside, as systemd does, runs for all to see.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn an_init_in_a_group_of_its_own_is_found() {
    let fixture = Fixture::new().await;
    let spec = spec("a");
    fixture.host.launch(spec.clone()).await.unwrap();
    let script = "
        [ -e /rebooted ] || { touch /rebooted; sleep 1; exec reboot -f; }
        mkdir /tmp/v2 /tmp/v1
        mount -t cgroup2 none /tmp/v2 && mkdir /tmp/v2/own && echo $$ > /tmp/v2/own/cgroup.procs || {
            mount -t cgroup -o freezer none /tmp/v1 && mkdir /tmp/v1/own && echo $$ > /tmp/v1/own/cgroup.procs
        }
        while :; do sleep 1; done";
    become_script(&fixture, &spec, script).await;
    let own = |text: &[u8]| text.split(|byte| *byte == b'\n').any(|line| line.ends_with(b"/inner/own"));
    once_init(&fixture, &spec, "cgroup", own).await;
    assert_eq!(fixture.host.get(&spec.name).unwrap().state, State::Running);
    assert_eq!(fixture.sh(&spec.name, "ls /rebooted").await, "/rebooted\n");
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// The group that a container's own is in.
fn payload_parent(container: &Container) -> Cgroup {
    let payload = container.payload();
    let (parent, _) = payload.path().rsplit_once('/').unwrap();
    Cgroup::new(payload.hierarchies(), parent).unwrap()
}

/// LXC makes the control group anew when a container reboots from inside, with the limits of the start. Those that were changed
/// since come back with the first recovery, which a supervisor makes at once.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_reboot_from_inside_shakes_off_no_limit() {
    let fixture = Fixture::new().await;
    let spec = spec("a");
    fixture.host.launch(spec.clone()).await.unwrap();
    let limits = CgroupLimits {
        memory_max_bytes: Some(Limit::At(32 << 20)),
        pids_max: Some(Limit::At(20)),
        ..spec.limits.clone()
    };
    fixture.host.apply_limits(&spec.name, limits.clone()).await.unwrap();
    let runtime = fixture.host.runtime(&spec.name).unwrap();
    let first = runtime.init_pid().unwrap().unwrap();
    // It may be told that the container has stopped beneath it.
    drop(fixture.host.exec(&spec.name, Exec::new(["reboot", "-f"])).await);
    let other = |init: u32| init != first && Path::new(&format!("/proc/{init}")).exists();
    for _ in 0..1200 {
        if runtime.init_pid().unwrap().is_some_and(other) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(runtime.init_pid().unwrap().is_some_and(other));
    // Until then the group above holds it, with room for LXC's own programs.
    let outer = payload_parent(&runtime);
    outer.verify(&CgroupLimits { pids_max: Some(Limit::At(20 + 1024)), ..CgroupLimits::default() }).unwrap();
    let memory = Some(Limit::At((32 + 256) << 20));
    outer.verify(&CgroupLimits { memory_max_bytes: memory, ..CgroupLimits::default() }).unwrap();
    let recovered = fixture.host.recover().await.unwrap();
    assert_eq!(recovered.containers, [(spec.name.clone(), Outcome::Changed)]);
    runtime.payload().verify(&limits).unwrap();
    let forks = "for i in $(seq 40); do sleep 5 & done 2>&1";
    let output = fixture.host.exec(&spec.name, Exec::new(["/bin/sh", "-c", forks])).await.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("fork"), "{output:?}");
    let recovered = fixture.host.recover().await.unwrap();
    assert_eq!(recovered.containers, [(spec.name.clone(), Outcome::Unchanged)]);
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}

/// A program that only waits, as small as an executable file can be: a header, one segment, and three instructions.
#[cfg(target_arch = "x86_64")]
fn waiting_program() -> Vec<u8> {
    let code = b"\xb8\x22\0\0\0\x0f\x05\xeb\xf7"; // pause(), for ever
    let size = (64 + 56 + code.len()) as u64;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\x3e\0\x01\0\0\0".to_vec();
    file.extend([120_u64, 64, 0].into_iter().flat_map(u64::to_le_bytes)); // where it begins, and its segments
    file.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0");
    // It can be written to: before Linux 6.7 the kernel itself zeroes the rest of a loader's last page.
    file.extend(b"\x01\0\0\0\x07\0\0\0");
    file.extend([0, 0, 0, size, size, 4096].into_iter().flat_map(u64::to_le_bytes));
    file.extend(code);
    file
}

/// `/proc/self/exe` of what becomes init is LXC's program, and its loader the container's: so init can run the monitor's own file.
/// It is no part of LXC for that.
#[cfg(target_arch = "x86_64")]
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn an_init_that_runs_lxcs_own_file_is_found() {
    let fixture = Fixture::new().await;
    let spec = spec("a");
    fixture.host.launch(spec.clone()).await.unwrap();
    let loader =
        "mkdir -p /lib64 && cat > /lib64/ld-linux-x86-64.so.2 && chmod 755 /lib64/ld-linux-x86-64.so.2";
    let place = Exec { stdin: waiting_program(), ..Exec::new(["/bin/sh", "-c", loader]) };
    assert!(fixture.host.exec(&spec.name, place).await.unwrap().status.success());
    fixture.sh(&spec.name, "printf '#!/proc/self/exe\\n' > /sbin/next && chmod 755 /sbin/next").await;
    let script = "sleep 1; mv /sbin/next /sbin/init; exec reboot -f";
    become_script(&fixture, &spec, script).await;
    once_init(&fixture, &spec, "cmdline", |line| line == b"/proc/self/exe\0/sbin/init\0").await;
    for _ in 0..2 {
        let info = fixture.host.start(&spec.name).await.unwrap();
        assert_eq!(info.state, State::Running);
        let init = fixture.host.runtime(&spec.name).unwrap().init_pid().unwrap().unwrap();
        assert!(fs::read_link(format!("/proc/{init}/exe")).unwrap().ends_with("lxc-start"));
        fixture.host.stop(&spec.name, Duration::ZERO).await.unwrap();
    }
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}
