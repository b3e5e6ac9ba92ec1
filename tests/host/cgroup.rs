//! Control groups: limits are read back from the kernel's files, and proven by processes that run into them.

use std::fs;
use std::thread;
use std::time::Duration;

use docklet::Error;
use docklet::cgroup::{Cgroup, CgroupLimits, Controller, CpuQuota, Hierarchies, Limit, Version};

use crate::groups::{
    Groups, MIB, PATIENCE, content, cpu_files, dir, is_v1, max, memory, memory_files, memory_wanted, number,
    oom_kills, run_in, run_in_files, ticks, without_unified,
};
use crate::kernel::{self, wait_until};
use crate::sandbox::Sandbox;

/// Has every hierarchy a directory of the group?
fn present(group: &Cgroup) -> Vec<bool> {
    group.hierarchies().mounts().iter().map(|h| h.mount.join(group.path()).is_dir()).collect()
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_detect_agrees_with_the_kernel() {
    let _sandbox = Sandbox::new();
    let hierarchies = Hierarchies::detect().unwrap();
    for line in fs::read_to_string("/proc/self/cgroup").unwrap().lines() {
        let mut fields = line.splitn(3, ':');
        let (number, controllers) = (fields.next().unwrap(), fields.next().unwrap());
        let known = match number {
            "0" => hierarchies.unified().is_some(),
            _ => hierarchies
                .mounts()
                .iter()
                .any(|h| h.version == Version::V1 && h.controllers.join(",") == controllers),
        };
        assert!(known, "{line}: {hierarchies:?}");
    }
    for controller in [Controller::Cpu, Controller::Memory, Controller::Pids] {
        let hierarchy = hierarchies.serving(controller).expect("served");
        assert!(hierarchy.mount.join("cgroup.procs").exists(), "{hierarchy:?}");
    }
}

/// Ensuring twice is one group, and removing twice is none.
#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_ensure_and_remove_are_repeatable() {
    let groups = Groups::new();
    let group = groups.top.child("a").unwrap();
    assert!(!group.exists());
    assert_eq!(groups.top.children().unwrap(), Vec::<String>::new());
    group.ensure().unwrap();
    group.ensure().unwrap();
    assert!(present(&group).iter().all(|there| *there));
    for name in ["b/c/d", "b/c/e", "f"] {
        groups.group(&format!("a/{name}"));
    }
    assert_eq!(group.children().unwrap(), ["b", "f"]);
    assert!(!group.remove_unused().unwrap(), "it has groups beneath it");
    assert!(present(&group).iter().all(|there| *there));
    group.remove().unwrap();
    assert!(!present(&group).iter().any(|there| *there));
    group.remove().unwrap();
    assert!(groups.top.remove_unused().unwrap());
    assert!(!groups.top.exists());
    // Everything on a group that is not there says so.
    assert_eq!(group.processes().unwrap(), Vec::<u32>::new());
    assert!(!group.is_populated().unwrap() && !group.is_frozen().unwrap());
    group.kill(PATIENCE).unwrap();
    let mut errors = vec![
        group.apply(&memory(8 * MIB, 0)).unwrap_err(),
        group.verify(&memory(8 * MIB, 0)).unwrap_err(),
        group.limits().unwrap_err(),
        group.usage().unwrap_err(),
        group.freeze(PATIENCE).unwrap_err(),
        group.unfreeze(PATIENCE).unwrap_err(),
    ];
    if kernel::unified().is_some() {
        errors.push(group.dir_for_clone().unwrap_err());
    }
    let expected = format!("cgroup `{}` does not exist", group.path());
    for error in errors {
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_tracking_is_one_directory() {
    let groups = Groups::new();
    let group = groups.top.child("id/start").unwrap();
    group.ensure_tracking().unwrap();
    assert_eq!(present(&group).iter().filter(|there| **there).count(), 1);
    assert!(group.exists());
    // Without v2 the kernel cannot make a process inside a group.
    assert_eq!(group.dir_for_clone().unwrap().is_some(), kernel::unified().is_some());
    let mut child = run_in_files([group.procs_file().unwrap()].into_iter(), &["sleep", "100"]);
    wait_until("entering", || group.processes().unwrap() == [child.id()]);
    assert_eq!(groups.top.processes().unwrap(), [child.id()], "found from above, too");
    let message = group.remove().unwrap_err().to_string();
    assert!(message.contains("is busy: not empty") && message.contains(&child.id().to_string()), "{message}");
    group.kill(PATIENCE).unwrap();
    child.wait().unwrap();
    group.remove().unwrap();
}

/// A container can nest its groups deeper than any path can be long.
#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_remove_reaches_beyond_the_longest_path() {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let groups = Groups::new();
    let group = groups.group("deep");
    let name = "x".repeat(200);
    for hierarchy in group.hierarchies().mounts() {
        let mut here =
            openat(CWD, hierarchy.mount.join(group.path()), OFlags::RDONLY, Mode::empty()).unwrap();
        for _ in 0..30 {
            mkdirat(&here, &name, Mode::from_raw_mode(0o755)).unwrap();
            here = openat(&here, &name, OFlags::RDONLY, Mode::empty()).unwrap();
        }
    }
    assert_eq!(group.processes().unwrap(), Vec::<u32>::new());
    group.usage().unwrap();
    group.remove().unwrap();
    assert!(!group.exists());
}

/// The kernel's own files, read by the test, hold each limit; again and again, up and down.
#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_limits_are_applied_in_any_direction() {
    let groups = Groups::new();
    let group = groups.group("limits");
    assert_eq!(group.limits().unwrap().memory_max_bytes, Some(Limit::Max));
    for (memory_mib, swap_mib) in [(32, 0), (32, 0), (64, 0), (16, 0), (16, 48), (128, 8), (12, 100), (40, 0)]
    {
        let limits = memory(memory_mib * MIB, swap_mib * MIB);
        group.apply(&limits).unwrap();
        assert_eq!(memory_files(&group), memory_wanted(memory_mib * MIB, swap_mib * MIB));
        group.verify(&limits).unwrap();
        let found = group.limits().unwrap();
        assert_eq!(
            (found.memory_max_bytes, found.memory_swap_max_bytes),
            (max(memory_mib * MIB), max(swap_mib * MIB))
        );
    }
    // In v1 memory alone cannot be raised above the sum: the error says what to do.
    let alone = CgroupLimits { memory_max_bytes: max(80 * MIB), ..CgroupLimits::default() };
    if is_v1("memory") {
        let message = group.apply(&alone).unwrap_err().to_string();
        assert!(message.contains("state memory_swap_max_bytes, too"), "{message}");
    } else {
        group.apply(&alone).unwrap();
        assert_eq!(memory_files(&group), memory_wanted(80 * MIB, 0));
    }
    // Less than a page more is the same.
    group.apply(&memory(40 * MIB + 100, 0)).unwrap();
    assert_eq!(memory_files(&group), memory_wanted(40 * MIB, 0));

    let ms = Duration::from_millis;
    for (quota, period) in [(50, 100), (10, 20), (500, 1000), (50, 1000), (1, 5), (200, 100)] {
        let quota_of = CpuQuota::new(ms(quota), ms(period)).unwrap();
        group.apply(&CgroupLimits { cpu: Some(quota_of), ..CgroupLimits::default() }).unwrap();
        assert_eq!(cpu_files(&group), format!("{} {}", quota * 1000, period * 1000));
        assert_eq!(group.limits().unwrap().cpu, Some(quota_of));
    }
    group.apply(&CgroupLimits { pids_max: max(7), ..CgroupLimits::default() }).unwrap();
    assert_eq!(content(&group, "pids", "pids.max"), "7");
    assert_eq!(group.limits().unwrap().pids_max, max(7));

    let free = CgroupLimits {
        memory_max_bytes: Some(Limit::Max),
        memory_swap_max_bytes: Some(Limit::Max),
        cpu: Some(CpuQuota::unlimited()),
        pids_max: Some(Limit::Max),
        ..CgroupLimits::default()
    };
    group.apply(&free).unwrap();
    let endless = if is_v1("memory") { "9223372036854771712" } else { "max" };
    assert_eq!(memory_files(&group), [endless, endless]);
    assert!(cpu_files(&group).starts_with("max "), "{}", cpu_files(&group));
    assert_eq!(content(&group, "pids", "pids.max"), "max");
    let found = group.limits().unwrap();
    assert_eq!((found.memory_max_bytes, found.memory_swap_max_bytes), (Some(Limit::Max), Some(Limit::Max)));
    assert_eq!((found.cpu, found.pids_max), (free.cpu, free.pids_max));
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_verify_names_each_file_that_differs() {
    let groups = Groups::new();
    let group = groups.group("differs");
    let limits =
        CgroupLimits { pids_max: max(5), cpu: Some(CpuQuota::cores(0.5).unwrap()), ..memory(16 * MIB, 0) };
    group.apply(&limits).unwrap();
    fs::write(dir(&group, "pids").join("pids.max"), "6").unwrap();
    let (file, value, cpu) = if is_v1("cpu") {
        ("cpu.cfs_quota_us", "-1", "cpu.cfs_quota_us is -1, asked 50000")
    } else {
        ("cpu.max", "max", "cpu.max is max 100000, asked 50000 100000")
    };
    fs::write(dir(&group, "cpu").join(file), value).unwrap();
    assert_eq!(
        group.verify(&limits).unwrap_err().to_string(),
        format!("cgroup `{}` exists but differs: {cpu}, pids.max is 6, asked 5", group.path())
    );
    let invalid = CgroupLimits { pids_max: max(0), ..limits };
    assert!(group.apply(&invalid).unwrap_err().to_string().contains("must be 1 to 4194304"));
    assert_eq!(content(&group, "pids", "pids.max"), "6", "nothing is written before all is checked");
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_memory_limit_kills_what_exceeds_it() {
    let groups = Groups::new();
    let group = groups.group("memory");
    group.apply(&memory(32 * MIB, 0)).unwrap();
    let hog =
        |mib: u32| run_in(&group, &["perl", "-e", &format!("$x = 'a' x ({mib} << 20)")]).wait().unwrap();
    assert!(hog(8).success(), "what fits runs");
    assert_eq!(group.usage().unwrap().oom_kills, Some(0));
    let status = hog(100);
    assert!(!status.success(), "{status}");
    assert!(oom_kills(&group) >= 1);
    let usage = group.usage().unwrap();
    assert!(usage.oom_kills >= Some(1), "{usage:?}");
    let peak = usage.memory_peak_bytes.unwrap();
    assert!(peak > 16 * MIB && peak <= 32 * MIB, "{peak}");
    // A kill beneath the group counts for the group.
    let inner = groups.group("memory/inner");
    run_in(&inner, &["perl", "-e", "$x = 'a' x (100 << 20)"]).wait().unwrap();
    assert!(group.usage().unwrap().oom_kills > usage.oom_kills);
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_memory_in_use_cannot_be_taken_away() {
    let groups = Groups::new();
    let group = groups.group("shrink");
    group.apply(&memory(100 * MIB, 0)).unwrap();
    let mut child = run_in(&group, &["perl", "-e", "$x = 'a' x (40 << 20); sleep 1000"]);
    wait_until("using memory", || group.usage().unwrap().memory_bytes.unwrap() > 40 * MIB);
    let message = group.apply(&memory(8 * MIB, 0)).unwrap_err().to_string();
    assert!(message.contains("is busy: its processes use more than 8388608 bytes"), "{message}");
    assert!(child.try_wait().unwrap().is_none(), "it lives on");
    assert_eq!(memory_files(&group), memory_wanted(100 * MIB, 0));
    group.kill(PATIENCE).unwrap();
    child.wait().unwrap();
    group.apply(&memory(8 * MIB, 0)).unwrap();
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_pids_limit_refuses_forks() {
    let groups = Groups::new();
    let group = groups.group("pids");
    group.apply(&CgroupLimits { pids_max: max(5), ..CgroupLimits::default() }).unwrap();
    // Exits with the number of children it could make, and the reason in the high bit.
    let script = "use POSIX; $n = 0; while ($n < 50) { $p = fork; last unless defined $p; \
                  if (!$p) { sleep 1000; exit } $n++ } exit($n + ($! == POSIX::EAGAIN ? 100 : 0))";
    let status = run_in(&group, &["perl", "-e", script]).wait().unwrap();
    assert_eq!(status.code(), Some(104), "four children beside itself, then EAGAIN");
    assert!(number(&group, "pids", "pids.events", "max ") >= 1);
    assert_eq!(group.usage().unwrap().pids, Some(4));
    assert_eq!(group.processes().unwrap().len(), 4);
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_cpu_quota_holds_processes_back() {
    let groups = Groups::new();
    let group = groups.group("cpu");
    let quota = CpuQuota::new(Duration::from_millis(4), Duration::from_millis(20)).unwrap();
    group.apply(&CgroupLimits { cpu: Some(quota), ..CgroupLimits::default() }).unwrap();
    let mut children: Vec<_> = (0..2).map(|_| run_in(&group, &["perl", "-e", "1 while 1"])).collect();
    wait_until("throttling", || number(&group, "cpu", "cpu.stat", "nr_throttled ") > 20);
    group.kill(PATIENCE).unwrap();
    children.iter_mut().for_each(|child| drop(child.wait()));
    // The share by the kernel's own count of periods, not by a clock: at most the quota, and a slice for each CPU.
    let periods = u32::try_from(number(&group, "cpu", "cpu.stat", "nr_periods ")).unwrap();
    let usage = group.usage().unwrap();
    let most = Duration::from_millis(4) * periods + Duration::from_millis(50);
    assert!(usage.cpu_time.unwrap() <= most, "{usage:?} in {periods} periods");
    assert!(usage.cpu_throttled.unwrap() > Duration::ZERO);
    assert!(usage.cpu_throttled_periods.unwrap() > 20);
}

fn freeze_and_unfreeze(groups: &Groups) {
    let group = groups.group("freeze");
    let mut child = run_in(&group, &["perl", "-e", "1 while 1"]);
    wait_until("running", || group.is_populated().unwrap() && ticks(child.id()) > 0);
    assert!(!group.is_frozen().unwrap());
    for _ in 0..3 {
        group.freeze(PATIENCE).unwrap();
        assert!(group.is_frozen().unwrap());
        let before = ticks(child.id());
        thread::sleep(Duration::from_millis(60));
        assert_eq!(ticks(child.id()), before, "it stands still");
        group.freeze(PATIENCE).unwrap();
        group.unfreeze(PATIENCE).unwrap();
        assert!(!group.is_frozen().unwrap());
        wait_until("going on", || ticks(child.id()) > before);
    }
    group.freeze(PATIENCE).unwrap();
    group.kill(PATIENCE).unwrap();
    assert!(!group.is_populated().unwrap());
    assert!(!child.wait().unwrap().success());
    group.remove().unwrap();
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_freeze_and_unfreeze() {
    let groups = Groups::new();
    freeze_and_unfreeze(&groups);
    // What another program froze, in v1 by the freezer there, is seen, and killed.
    let group = groups.group("others");
    let mut child = run_in(&group, &["sleep", "1000"]);
    wait_until("running", || group.is_populated().unwrap());
    let (file, value) = if is_v1("freezer") { ("freezer.state", "FROZEN") } else { ("cgroup.freeze", "1") };
    fs::write(dir(&group, "freezer").join(file), value).unwrap();
    wait_until("freezing", || group.is_frozen().unwrap());
    group.kill(PATIENCE).unwrap();
    assert!(!child.wait().unwrap().success());
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_freeze_and_unfreeze_by_v1() {
    let groups = Groups::on(without_unified);
    let group = groups.group("none");
    if is_v1("freezer") {
        freeze_and_unfreeze(&groups);
        assert!(group.dir_for_clone().unwrap().is_none());
    } else {
        let error = group.freeze(PATIENCE).unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
        let error = group.ensure_tracking().unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}

/// Hundreds of processes that do nothing but fork.
fn fork_bomb(groups: &Groups) {
    let group = groups.group("bomb");
    group.apply(&CgroupLimits { pids_max: max(150), ..CgroupLimits::default() }).unwrap();
    let inner = groups.group("bomb/inner");
    let mut child = run_in(&inner, &["perl", "-e", "$SIG{CHLD} = 'IGNORE'; while (1) { fork }"]);
    wait_until("exploding", || group.usage().unwrap().pids.unwrap() >= 100);
    group.kill(PATIENCE).unwrap();
    assert_eq!(group.processes().unwrap(), Vec::<u32>::new());
    assert_eq!(content(&group, "pids", "pids.max"), "150", "the limit is as it was");
    assert!(!child.wait().unwrap().success());
    group.remove().unwrap();
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_kill_wins_against_a_fork_bomb() {
    fork_bomb(&Groups::new());
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_kill_wins_against_a_fork_bomb_in_v1() {
    let groups = Groups::on(without_unified);
    if is_v1("pids") {
        fork_bomb(&groups);
    } else {
        let limits = CgroupLimits { pids_max: max(150), ..CgroupLimits::default() };
        let error = groups.group("bomb").apply(&limits).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    }
}

/// What is in one v1 hierarchy only, where no freezer and no `cgroup.kill` reaches it, is killed as well.
#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_kill_finds_what_is_in_one_hierarchy_only() {
    let groups = Groups::new();
    for controller in ["memory", "pids"] {
        let group = groups.group(&format!("only-{controller}"));
        group.apply(&CgroupLimits { pids_max: max(100), ..CgroupLimits::default() }).unwrap();
        let procs = [dir(&group, controller).join("cgroup.procs")];
        let script =
            if controller == "pids" { "$SIG{CHLD} = 'IGNORE'; while (1) { fork }" } else { "sleep 1000" };
        let mut child = run_in_files(procs.into_iter(), &["perl", "-e", script]);
        wait_until("entering", || group.is_populated().unwrap());
        group.kill(PATIENCE).unwrap();
        assert!(!group.is_populated().unwrap());
        assert!(!child.wait().unwrap().success());
    }
}

/// Another process that happens to be looked at is left alone.
#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_kill_leaves_others_alone() {
    let groups = Groups::new();
    let (one, other) = (groups.group("one"), groups.group("one-more"));
    let mut inside = run_in(&one, &["sleep", "1000"]);
    let mut outside = run_in(&other, &["sleep", "1000"]);
    wait_until("entering", || one.is_populated().unwrap() && other.is_populated().unwrap());
    one.kill(PATIENCE).unwrap();
    assert!(!inside.wait().unwrap().success());
    assert!(outside.try_wait().unwrap().is_none());
    assert_eq!(other.processes().unwrap(), [outside.id()]);
    other.kill(PATIENCE).unwrap();
    outside.wait().unwrap();
}

/// A file that stays open is of the group that it was opened in, and of no other at the same path.
#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_meter_tells_of_the_group_that_there_is() {
    let groups = Groups::new();
    let group = groups.top.child("metered").unwrap();
    let mut meter = group.meter();
    let gone = format!("cgroup `{}` does not exist", group.path());
    for round in 0..3 {
        assert_eq!(meter.usage().unwrap_err().to_string(), gone);
        assert_eq!(meter.descriptors(), 0);
        group.ensure().unwrap();
        group.apply(&CgroupLimits { pids_max: max(2), ..memory(32 * MIB, 0) }).unwrap();
        assert_eq!(meter.usage().unwrap(), group.usage().unwrap());
        assert_eq!(meter.usage().unwrap().pids_max_hits, Some(0), "round {round}: nothing of the one before");
        assert!(meter.descriptors() > 5);
        refused_fork(&group);
        let hits = meter.usage().unwrap().pids_max_hits;
        assert_eq!(hits, group.usage().unwrap().pids_max_hits);
        assert!(hits >= Some(1), "{hits:?}");
        // Removed and made again between two looks, and then removed only.
        group.remove().unwrap();
        group.ensure().unwrap();
        assert_eq!(meter.usage().unwrap(), group.usage().unwrap());
        assert_eq!(meter.usage().unwrap().pids_max_hits, Some(0));
        group.remove().unwrap();
    }
}

/// What happens in groups beneath counts, whenever they come, and one that goes takes its v1 counts along.
#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_meter_follows_the_groups_beneath() {
    let groups = Groups::new();
    let group = groups.group("nested");
    let mut meter = group.meter();
    let mut hits = |why: &str| {
        let [metered, fresh] = [meter.usage().unwrap(), group.usage().unwrap()];
        assert_eq!(metered.pids_max_hits, fresh.pids_max_hits, "{why}");
        assert_eq!(metered.oom_kills, fresh.oom_kills, "{why}");
        (metered.pids_max_hits.unwrap(), meter.descriptors())
    };
    assert_eq!(hits("empty").0, 0);
    for path in ["nested/a", "nested/a/b"] {
        let beneath = groups.group(path);
        let (before, _) = hits(path);
        beneath.apply(&CgroupLimits { pids_max: max(2), ..CgroupLimits::default() }).unwrap();
        refused_fork(&beneath);
        assert!(hits(path).0 > before, "{path}");
    }
    // Made anew with the name and the number of those before.
    groups.top.child("nested/a/b").unwrap().remove().unwrap();
    hits("one less");
    let again = groups.group("nested/a/b");
    hits("again");
    again.remove().unwrap();
    groups.group("nested/a/b");
    hits("replaced between two looks");
    let (_, few) = hits("few");
    // Who makes many groups does not take the host's descriptors.
    for number in 0..100 {
        fs::create_dir(dir(&group, "pids").join(format!("n{number}"))).unwrap();
        fs::create_dir(dir(&group, "memory").join(format!("m{number}"))).ok();
    }
    let (_, many) = hits("many");
    assert!(many <= few, "{many} of {few}");
}

/// A process of the group that cannot make all the children it wants.
fn refused_fork(group: &Cgroup) {
    let script = "for (1..5) { $p = fork; exit 7 unless defined $p; if (!$p) { sleep 1000; exit } } exit 0";
    let mut child = run_in(group, &["perl", "-e", script]);
    assert_eq!(child.wait().unwrap().code(), Some(7));
    group.kill(PATIENCE).unwrap();
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_sixteen_threads_at_once() {
    let groups = Groups::new();
    thread::scope(|scope| {
        for number in 0..16 {
            let group = groups.top.child(&format!("t{number}")).unwrap();
            scope.spawn(move || {
                for round in 1..=3_u64 {
                    let limits =
                        CgroupLimits { pids_max: max(round + 10), ..memory((8 + round) * MIB, round * MIB) };
                    group.ensure().unwrap();
                    group.apply(&limits).unwrap();
                    let mut child = run_in(&group, &["sleep", "1000"]);
                    wait_until("entering", || group.processes().unwrap() == [child.id()]);
                    group.verify(&limits).unwrap();
                    group.kill(PATIENCE).unwrap();
                    child.wait().unwrap();
                    group.remove().unwrap();
                    assert!(!group.exists());
                }
            });
        }
    });
    assert_eq!(groups.top.children().unwrap(), Vec::<String>::new());
    assert_eq!(kernel::cgroups_named("t0").iter().filter(|dir| dir.contains(groups.top.path())).count(), 0);
}
