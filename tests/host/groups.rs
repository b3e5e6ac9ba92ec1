//! Control groups of a test's own, the kernel's files in them, and processes that enter them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use docklet::cgroup::{Cgroup, CgroupLimits, Hierarchies, HierarchyProbe, Limit};

use crate::kernel;
use crate::sandbox::Sandbox;

/// Generous: other tests use the same two processors.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const MIB: u64 = 1 << 20;

/// The groups of one test, beneath one of the sandbox's mark. Its end kills and removes them.
pub(crate) struct Groups {
    pub(crate) top: Cgroup,
    pub(crate) sandbox: Sandbox,
}

impl Groups {
    pub(crate) fn new() -> Self {
        Self::on(|hierarchies| hierarchies)
    }

    /// With the hierarchies that `choose` makes of what the host has.
    pub(crate) fn on(choose: impl FnOnce(Hierarchies) -> Hierarchies) -> Self {
        let sandbox = Sandbox::new();
        let hierarchies = choose(Hierarchies::detect().expect("hierarchies"));
        let path = format!("docklet/{}", sandbox.paths.tag());
        Self { top: Cgroup::new(&hierarchies, path).expect("path"), sandbox }
    }

    pub(crate) fn group(&self, name: &str) -> Cgroup {
        let group = self.top.child(name).expect("path");
        group.ensure().expect("ensure");
        group
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let killed = self.top.kill(PATIENCE);
        let removed = self.top.remove();
        if !thread::panicking() {
            killed.expect("kill");
            removed.expect("remove");
        }
    }
}

/// A host without v2, as far as the library can see. Where there is nothing but v2, that is a host without any.
pub(crate) fn without_unified(_: Hierarchies) -> Hierarchies {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("mountinfo");
    Hierarchies::from_probe(HierarchyProbe {
        mountinfo: mounts.lines().filter(|line| !line.contains(" - cgroup2 ")).collect::<Vec<_>>().join("\n"),
        controllers: fs::read_to_string("/proc/cgroups").expect("/proc/cgroups"),
        can_swap: true,
        swap_file: Some(true),
        quota_file: Some(true),
        ..HierarchyProbe::default()
    })
}

pub(crate) fn max(value: u64) -> Option<Limit> {
    Some(Limit::At(value))
}

pub(crate) fn memory(memory_bytes: u64, swap_bytes: u64) -> CgroupLimits {
    CgroupLimits {
        memory_max_bytes: max(memory_bytes),
        memory_swap_max_bytes: max(swap_bytes),
        ..CgroupLimits::default()
    }
}

pub(crate) fn v1_root(controller: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(controller)
}

/// Whether this host has `controller` in v1, by the test's own reckoning.
pub(crate) fn is_v1(controller: &str) -> bool {
    v1_root(controller).is_dir()
}

/// The group's directory in the hierarchy of `controller`.
pub(crate) fn dir(group: &Cgroup, controller: &str) -> PathBuf {
    let root = if is_v1(controller) { v1_root(controller) } else { kernel::unified().expect("v2") };
    root.join(group.path())
}

/// The kernel's two files for memory: in v1 the second one is for memory and swap together.
pub(crate) fn memory_files(group: &Cgroup) -> [String; 2] {
    let v1 = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"];
    let names = if is_v1("memory") { v1 } else { ["memory.max", "memory.swap.max"] };
    names.map(|name| content(group, "memory", name))
}

/// What [`memory_files`] must be.
pub(crate) fn memory_wanted(memory: u64, swap: u64) -> [String; 2] {
    [memory, if is_v1("memory") { memory + swap } else { swap }].map(|bytes| bytes.to_string())
}

/// Quota and period as v2 prints them, in microseconds.
pub(crate) fn cpu_files(group: &Cgroup) -> String {
    if is_v1("cpu") {
        let [quota, period] =
            ["cpu.cfs_quota_us", "cpu.cfs_period_us"].map(|name| content(group, "cpu", name));
        format!("{} {period}", if quota == "-1" { "max" } else { &quota })
    } else {
        content(group, "cpu", "cpu.max")
    }
}

pub(crate) fn oom_kills(group: &Cgroup) -> u64 {
    let file = if is_v1("memory") { "memory.oom_control" } else { "memory.events" };
    number(group, "memory", file, "oom_kill ")
}

pub(crate) fn content(group: &Cgroup, controller: &str, name: &str) -> String {
    let path = dir(group, controller).join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

pub(crate) fn number(group: &Cgroup, controller: &str, name: &str, key: &str) -> u64 {
    let text = content(group, controller, name);
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("{name} has no {key:?}: {text}"))
}

/// Runs `program` in the group: a shell enters every hierarchy of it, then becomes the program.
pub(crate) fn run_in(group: &Cgroup, program: &[&str]) -> Child {
    let files = group.hierarchies().mounts().iter().map(|h| h.mount.join(group.path()).join("cgroup.procs"));
    run_in_files(files, program)
}

pub(crate) fn run_in_files(files: impl Iterator<Item = PathBuf>, program: &[&str]) -> Child {
    let files: Vec<_> = files.collect();
    let script = "n=$1; shift; while [ $n -gt 0 ]; do echo 0 > \"$1\" || exit 99; shift; n=$((n-1)); done; exec \"$@\"";
    Command::new("sh")
        .args(["-c", script, "sh", &files.len().to_string()])
        .args(files)
        .args(program)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh")
}

/// CPU time that a process has used, in clock ticks (`man 5 proc_pid_stat`).
pub(crate) fn ticks(process: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("stat");
    let fields: Vec<_> = stat.rsplit_once(')').expect("comm").1.split_whitespace().collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}
