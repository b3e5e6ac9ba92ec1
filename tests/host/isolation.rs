//! What a container's root cannot do: exceed or raise its limits, open the host's devices, see its network.

use std::fs;
use std::path::Path;

use docklet::cgroup::{CgroupLimits, CpuQuota, Limit};
use docklet::lxc::Container;

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::scripted_root::{self, exec, sh};

fn processes_in(container: &Container) -> Vec<u32> {
    container.payload().processes().unwrap()
}

#[test]
#[ignore = "needs root: containers"]
fn container_limits_hold_and_cannot_be_raised() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    let limits = CgroupLimits {
        memory_max_bytes: Some(Limit::At(64 << 20)),
        cpu: Some(CpuQuota::cores(0.5).unwrap()),
        pids_max: Some(Limit::At(40)),
        ..CgroupLimits::default()
    };
    let mut config = scripted_root::config(&root);
    config.limits(&limits);
    container.start(&config).unwrap();
    let payload = container.payload().clone();
    payload.verify(&limits).unwrap();
    // The kernel's word, in whichever hierarchy.
    let read = |names: &[&str]| {
        let files =
            names.iter().map(|name| Path::new("/sys/fs/cgroup").join(name.replace("GROUP", payload.path())));
        let file = files.into_iter().find(|file| file.exists()).expect("one of the files");
        fs::read_to_string(file).unwrap().trim().to_owned()
    };
    let pids = || read(&["pids/GROUP/pids.max", "GROUP/pids.max"]);
    let memory = || read(&["memory/GROUP/memory.limit_in_bytes", "GROUP/memory.max"]);
    assert_eq!(pids(), "40");
    assert_eq!(memory(), (64 << 20).to_string());
    // From inside: forking ends at the limit.
    let output = exec(&container, &["sh", "-c", "for i in $(seq 100); do sleep 20 & done"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("can't fork"), "{output:?}");
    assert!(processes_in(&container).len() <= 40);
    container.kill().unwrap();
    container.start(&config).unwrap();
    // Root mounts the hierarchies inside: it sees its own group, which has no limits, and nothing above.
    let line = "for c in pids memory cpu; do mkdir -p /tmp/$c; mount -t cgroup -o $c none /tmp/$c; done; \
                mkdir -p /tmp/u; mount -t cgroup2 none /tmp/u; \
                for f in $(find /tmp -name pids.max -o -name memory.limit_in_bytes -o -name memory.max); do echo max > $f; echo -1 > $f; done; \
                cat /tmp/pids/pids.max; find /tmp -name payload";
    let output = exec(&container, &["sh", "-c", line]);
    assert!(!String::from_utf8_lossy(&output.stdout).contains("payload"), "{output:?}");
    payload.verify(&limits).unwrap();
    assert_eq!(pids(), "40");
    assert_eq!(memory(), (64 << 20).to_string());
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}

#[test]
#[ignore = "needs root: containers"]
fn container_cannot_reach_host_devices_or_network() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    container.start(&scripted_root::config(&root)).unwrap();
    // A node can be made, but not opened.
    let output = exec(&container, &["sh", "-c", "mknod /tmp/loop b 7 0; cat /tmp/loop"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Operation not permitted"), "{output:?}");
    assert_eq!(sh(&container, "echo x > /dev/null; head -c 3 /dev/zero | wc -c"), "3\n");
    assert_eq!(sh(&container, "ls /sys/class/net"), "lo\n");
    container.kill().unwrap();
    // A namespace that was made before is joined.
    let pinned = sandbox.dir("net").join("netns");
    fs::write(&pinned, "").unwrap();
    kernel::run(
        "unshare",
        [&format!("--net={}", pinned.display()), "ip", "link", "add", "pinned0", "type", "bridge"],
    );
    let mut config = scripted_root::config(&root);
    config.join_network(&pinned).unwrap();
    container.start(&config).unwrap();
    assert!(sh(&container, "ls /sys/class/net").contains("pinned0"));
    container.kill().unwrap();
    kernel::unmount(&pinned);
    scripted_root::end(&sandbox);
}

/// Where AppArmor is on, LXC's profile holds init and every command: terminals of its own are refused. Elsewhere not.
#[test]
#[ignore = "needs root: containers"]
fn container_is_confined_where_apparmor_is_on() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let container = scripted_root::container(&sandbox);
    container.start(&scripted_root::config(&root)).unwrap();
    let mount = exec(&container, &["mount", "-t", "devpts", "none", "/tmp"]);
    if Path::new("/sys/kernel/security/apparmor/profiles").exists() {
        for process in ["1", "self"] {
            let profile = sh(&container, &format!("cat /proc/{process}/attr/current"));
            assert_eq!(profile, "lxc-container-default-cgns (enforce)\n");
        }
        let said = String::from_utf8_lossy(&mount.stderr).into_owned();
        assert!(!mount.status.success() && said.contains("ermission denied"), "{mount:?}");
    } else {
        assert!(mount.status.success(), "{mount:?}");
    }
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}
