//! A container's root made of the host's busybox, and containers in a sandbox.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use docklet::cgroup::Hierarchies;
use docklet::lxc::{Container, Exec, ExecOutput, LxcConfig, LxcTarget};
use docklet::name::{ContainerName, ObjectId};

use crate::kernel;
use crate::sandbox::Sandbox;

/// What busybox is called by in the root, beside its own name.
const APPLETS: [&str; 40] = [
    "sh", "ls", "cat", "echo", "sleep", "mount", "umount", "mkdir", "touch", "rm", "ps", "kill", "id", "env",
    "pwd", "true", "false", "head", "tail", "wc", "dd", "grep", "stat", "readlink", "hostname", "ip", "ping",
    "cut", "tr", "sort", "find", "test", "date", "printf", "chmod", "mknod", "nohup", "seq", "tee",
    "poweroff",
];

/// Init: runs until SIGPWR, then writes a word and ends.
const INIT: &str = "#!/bin/sh
trap 'echo bye > /halted; exit 0' PWR
trap 'exit 3' USR1
echo ready > /ready
while :; do sleep 1000 & wait $!; done
";

/// A root with busybox in it and a small init that obeys SIGPWR.
pub(crate) fn root(sandbox: &Sandbox, name: &str) -> PathBuf {
    let root = sandbox.dir("roots").join(name);
    for dir in ["bin", "sbin", "proc", "sys", "dev", "tmp", "etc", "root", "data"] {
        fs::create_dir_all(root.join(dir)).expect("root");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox: apt install busybox-static");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("applet");
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("passwd");
    write_program(&root.join("sbin/init"), INIT);
    root
}

pub(crate) fn write_program(path: &Path, text: &str) {
    fs::write(path, text).expect("program");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode");
}

pub(crate) fn target() -> LxcTarget {
    LxcTarget::detect(&Hierarchies::detect().expect("cgroups")).expect("lxc")
}

/// A container of a new id in this sandbox.
pub(crate) fn container(sandbox: &Sandbox) -> Container {
    container_with(sandbox, &target())
}

pub(crate) fn container_with(sandbox: &Sandbox, target: &LxcTarget) -> Container {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let id = ObjectId::new(format!("{:08x}{number:08x}", std::process::id())).expect("id");
    let cgroup = format!("docklet/{}/{id}", sandbox.paths.tag());
    Container::new(&sandbox.paths.containers(), &id, target, cgroup).expect("container")
}

pub(crate) fn config(root: &Path) -> LxcConfig {
    LxcConfig::new(&ContainerName::new("inside").expect("name"), root).expect("config")
}

/// Runs `command` inside.
pub(crate) fn exec(container: &Container, command: &[&str]) -> ExecOutput {
    container.exec(&Exec::new(command.iter().copied())).expect("exec")
}

/// Runs a command line of the container's shell and returns what it printed.
///
/// # Panics
/// If it fails.
pub(crate) fn sh(container: &Container, line: &str) -> String {
    let output = exec(container, &["sh", "-c", line]);
    assert!(output.status.success(), "{line}: {output:?} {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// LXC's lock files of this sandbox.
pub(crate) fn lock_files(sandbox: &Sandbox) -> String {
    let dir = format!("/run/lxc/lock{}", sandbox.paths.prefix().display());
    let output = Command::new("find").arg(dir).output().expect("find");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The sandbox's own group in each hierarchy: containers leave it, their host removes it.
pub(crate) fn tag_groups(sandbox: &Sandbox) -> Vec<String> {
    kernel::cgroups_named(&sandbox.paths.tag())
}

/// Removes what the tests' containers leave in cgroups above their own.
pub(crate) fn end(sandbox: &Sandbox) {
    assert_eq!(lock_files(sandbox), "", "LXC's lock files are left");
    let hierarchies = Hierarchies::detect().expect("cgroups");
    let group = docklet::cgroup::Cgroup::new(&hierarchies, format!("docklet/{}", sandbox.paths.tag()));
    group.expect("group").remove().expect("the sandbox's cgroup");
}
