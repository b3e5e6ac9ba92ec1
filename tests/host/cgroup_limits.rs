//! Each limit of a control group, proven by what runs into it, and changed while it does. The kernel's files are read by the test.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use docklet::Error;
use docklet::cgroup::{
    Cgroup, CgroupLimits, CpuQuota, CpuSet, CpuWeight, Hierarchies, HugePageSize, IoDevice, IoLimits,
    IoWeight, Limit,
};

use crate::groups::{Groups, MIB, content, is_v1, max, memory, number, oom_kills, run_in, ticks};
use crate::kernel::{self, wait_until};

/// The processors that are online, by the kernel's word.
fn online() -> Vec<u32> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").expect("online");
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<u32>().expect("first")..=last.parse::<u32>().expect("last"));
    }
    numbers
}

fn on_cpus(cpus: &[u32]) -> CgroupLimits {
    CgroupLimits { cpus: Some(CpuSet::new(cpus.iter().copied()).unwrap()), ..CgroupLimits::default() }
}

fn weighted(weight: u64) -> CgroupLimits {
    CgroupLimits { cpu_weight: Some(CpuWeight::new(weight).unwrap()), ..CgroupLimits::default() }
}

fn status(process: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("status");
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.expect(key).trim().to_owned()
}

/// The processor that a process ran on last (`man 5 proc_pid_stat`).
fn ran_on(process: u32) -> u32 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("stat");
    let fields: Vec<_> = stat.rsplit_once(')').expect("comm").1.split_whitespace().collect();
    fields[36].parse().expect("processor")
}

fn busy(group: &Cgroup) -> Child {
    run_in(group, &["perl", "-e", "1 while 1"])
}

/// CPU time that a group has used, in microseconds. (Ticks are only a sample.)
fn used(group: &Cgroup) -> u64 {
    if is_v1("cpuacct") {
        return content(group, "cpuacct", "cpuacct.usage").parse::<u64>().expect("nanoseconds") / 1000;
    }
    number(group, "cpu", "cpu.stat", "usage_usec ")
}

/// Waits until of two busy groups on one processor, with weights of 400 and 100, the first has got about four times as much.
/// What else runs on the machine takes from both; where that is much (a guest without KVM), their turns are long, and it takes
/// some of them.
pub(crate) fn assert_gets_more(more: &Cgroup, less: &Cgroup) {
    let now = || [used(more), used(less)];
    let start = now();
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        let [more, less] = [0, 1].map(|index| now()[index] - start[index]);
        if less >= 400_000 && (less * 5 / 2..less * 8).contains(&more) {
            return;
        }
        assert!(Instant::now() < deadline, "{more} {less}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_weight_divides_a_processor() {
    let groups = Groups::new();
    let (light, heavy) = (groups.group("light"), groups.group("heavy"));
    let cpu = *online().last().unwrap();
    for (group, weight) in [(&light, 100), (&heavy, 400)] {
        group.apply(&CgroupLimits { cpus: on_cpus(&[cpu]).cpus, ..weighted(weight) }).unwrap();
        assert_eq!(group.limits().unwrap().cpu_weight, weighted(weight).cpu_weight);
    }
    let (file, values) =
        if is_v1("cpu") { ("cpu.shares", ["1024", "4096"]) } else { ("cpu.weight", ["100", "400"]) };
    assert_eq!([&light, &heavy].map(|group| content(group, "cpu", file)), values);
    let children = [busy(&light), busy(&heavy)];
    assert_gets_more(&heavy, &light);
    // The other way round, while they run.
    light.apply(&weighted(400)).unwrap();
    heavy.apply(&weighted(100)).unwrap();
    assert_gets_more(&light, &heavy);
    groups.top.kill(crate::groups::PATIENCE).unwrap();
    children.into_iter().for_each(|mut child| drop(child.wait()));
}

/// Also for the groups beneath, which in v1 must never have what the one above lacks.
#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_processors_are_those_asked_for() {
    let groups = Groups::new();
    let all = online();
    assert!(all.len() > 1, "this test needs two processors");
    let (first, last) = (all[0], *all.last().unwrap());
    let group = groups.group("cpus");
    group.apply(&on_cpus(&[last])).unwrap();
    let inner = groups.group("cpus/inner/deep");
    let child = busy(&inner);
    for cpus in [&[last][..], &[first], &[last], &all, &[first]] {
        let limits = on_cpus(cpus);
        group.apply(&limits).unwrap();
        group.verify(&limits).unwrap();
        assert_eq!(group.limits().unwrap().cpus, limits.cpus);
        let shown = limits.cpus.unwrap().to_string();
        wait_until("moving", || status(child.id(), "Cpus_allowed_list") == shown);
        let before = ticks(child.id());
        wait_until("running there", || ticks(child.id()) > before && cpus.contains(&ran_on(child.id())));
    }
    // What is not online is refused, whatever the kernel would make of it.
    let message = group.apply(&on_cpus(&[first, 8_000])).unwrap_err().to_string();
    assert!(message.contains("are online"), "{message}");
    // Somebody takes processors away above.
    groups.top.apply(&on_cpus(&[first])).unwrap();
    let message = group.apply(&on_cpus(&[last])).unwrap_err().to_string();
    assert!(message.contains("above has not all") || message.contains("differs"), "{message}");
    groups.top.kill(crate::groups::PATIENCE).unwrap();
    drop({ child }.wait());
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_burst_lets_what_was_idle_catch_up() {
    let groups = Groups::new();
    let group = groups.group("burst");
    let ms = Duration::from_millis;
    let limits = |quota, burst| CgroupLimits {
        cpu: Some(CpuQuota::new(ms(quota), ms(100)).unwrap().with_burst(ms(burst)).unwrap()),
        ..CgroupLimits::default()
    };
    let file = if is_v1("cpu") { "cpu.cfs_burst_us" } else { "cpu.max.burst" };
    for (quota, burst) in [(50, 50), (20, 20), (80, 0), (80, 60), (10, 5), (20, 20)] {
        group.apply(&limits(quota, burst)).unwrap();
        assert_eq!(content(&group, "cpu", file), (burst * 1000).to_string());
        assert_eq!(
            group.limits().unwrap(),
            CgroupLimits { cpu: limits(quota, burst).cpu, ..group.limits().unwrap() }
        );
    }
    // Idle for some periods, then busy for more than a quota.
    let script =
        "while (1) { select undef, undef, undef, 0.35; $t = (times)[0] + 0.05; 1 while (times)[0] < $t }";
    let mut child = run_in(&group, &["perl", "-e", script]);
    wait_until("a burst", || number(&group, "cpu", "cpu.stat", "nr_bursts ") > 0);
    group.apply(&CgroupLimits { cpu: Some(CpuQuota::unlimited()), ..CgroupLimits::default() }).unwrap();
    assert_eq!(content(&group, "cpu", file), "0");
    group.kill(crate::groups::PATIENCE).unwrap();
    drop(child.wait());
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_high_limit_holds_back_and_kills_nobody() {
    let groups = Groups::new();
    let group = groups.group("high");
    let limits = CgroupLimits { memory_high_bytes: max(16 * MIB), ..memory(256 * MIB, 0) };
    if is_v1("memory") {
        let error = group.apply(&limits).unwrap_err();
        assert!(matches!(&error, Error::Unsupported { .. }), "{error}");
        assert!(
            error.to_string().contains("memory.soft_limit_in_bytes does not hold processes back"),
            "{error}"
        );
        return assert_eq!(group.limits().unwrap().memory_max_bytes, Some(Limit::Max), "nothing was written");
    }
    group.apply(&limits).unwrap();
    assert_eq!(content(&group, "memory", "memory.high"), (16 * MIB).to_string());
    let mut child = run_in(&group, &["perl", "-e", "$x = 'a' x (40 << 20); sleep 1000"]);
    wait_until("being held back", || number(&group, "memory", "memory.events", "high ") > 0);
    assert_eq!(oom_kills(&group), 0);
    assert!(group.usage().unwrap().memory_high_hits > Some(0));
    assert!(child.try_wait().unwrap().is_none(), "it lives");
    group.kill(crate::groups::PATIENCE).unwrap();
    drop(child.wait());
}

#[test]
#[ignore = "needs root: cgroups"]
fn cgroup_oom_group_dies_together() {
    let groups = Groups::new();
    let group = groups.group("together");
    let limits = CgroupLimits { memory_oom_group: Some(true), ..memory(32 * MIB, 0) };
    if is_v1("memory") {
        let message = group.apply(&limits).unwrap_err().to_string();
        assert!(message.contains("v1 kills one process at a time"), "{message}");
        return group.apply(&CgroupLimits { memory_oom_group: Some(false), ..limits }).unwrap();
    }
    group.apply(&limits).unwrap();
    assert_eq!(content(&group, "memory", "memory.oom.group"), "1");
    assert_eq!(group.limits().unwrap().memory_oom_group, Some(true));
    let inner = groups.group("together/inner");
    let mut bystander = run_in(&inner, &["sleep", "1000"]);
    wait_until("entering", || group.processes().unwrap() == [bystander.id()]);
    let hog = run_in(&inner, &["perl", "-e", "$x = 'a' x (100 << 20)"]).wait().unwrap();
    assert_eq!(hog.signal(), Some(9), "{hog}");
    assert_eq!(bystander.wait().unwrap().signal(), Some(9), "it was killed, too");
}

/// A loop device, and the file of its own that it is over. Its end detaches it.
struct LoopDevice(PathBuf, PathBuf);

impl LoopDevice {
    fn new(groups: &Groups) -> Self {
        let file = groups.sandbox.dir("disks").join("disk");
        fs::File::create(&file).unwrap().set_len(64 * MIB).unwrap();
        let path = kernel::run("losetup", ["--find", "--show", file.to_str().unwrap()]);
        Self(path.trim().into(), file)
    }

    fn device(&self) -> IoDevice {
        IoDevice::Path(self.0.clone())
    }

    fn number(&self) -> String {
        let name = self.0.file_name().unwrap().to_str().unwrap();
        fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap().trim().to_owned()
    }

    fn scheduler(&self) -> PathBuf {
        Path::new("/sys/block").join(self.0.file_name().unwrap()).join("queue/scheduler")
    }

    /// How much of the group's direct writing has been done, as the process that writes is told.
    fn write(&self, group: &Cgroup, block: &str, count: u64) -> Child {
        let (path, count) = (self.0.to_str().unwrap(), count.to_string());
        let args = [
            "if=/dev/zero",
            &format!("of={path}"),
            &format!("bs={block}"),
            &format!("count={count}"),
            "oflag=direct",
        ];
        run_in(group, &[&["dd"][..], &args].concat())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        kernel::run("losetup", ["--detach", self.0.to_str().unwrap()]);
        // It goes with its last user. That can be udev, which looks at it.
        wait_until("its end", || kernel::loops_beneath(&self.1).is_empty());
    }
}

/// Bytes that a process has written past the page cache (`man 5 proc_pid_io`).
fn written(child: &Child) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok()).unwrap_or(0)
}

fn io(device: &LoopDevice, limits: IoLimits) -> CgroupLimits {
    CgroupLimits { io: [(device.device(), limits)].into(), ..CgroupLimits::default() }
}

/// Of two that write the same, the one without a limit is done while the other is still at it. Then it is let go.
#[test]
#[ignore = "needs root: cgroups, a loop device"]
fn cgroup_io_limits_hold_writers_back() {
    let groups = Groups::new();
    let device = LoopDevice::new(&groups);
    let at = |value| Some(Limit::At(value));
    let bytes = IoLimits { write_bytes_per_second: at(MIB / 4), ..IoLimits::default() };
    let operations = IoLimits { write_operations_per_second: at(4), ..IoLimits::default() };
    for (name, limits, block, count) in [("bytes", bytes, "64k", 256), ("operations", operations, "4k", 256)]
    {
        let (free, held) = (groups.group(&format!("free-{name}")), groups.group(&format!("held-{name}")));
        // In v1 it is the group beneath that must have it, too.
        let inner = groups.group(&format!("held-{name}/inner"));
        held.apply(&io(&device, limits)).unwrap();
        held.verify(&io(&device, limits)).unwrap();
        let [free_file, held_file] = [&free, &held].map(|group| {
            let v1 = ["blkio.throttle.write_bps_device", "blkio.throttle.write_iops_device"];
            let file = if is_v1("blkio") { v1[usize::from(name == "operations")] } else { "io.max" };
            content(group, "blkio", file)
        });
        assert_eq!(free_file, "");
        assert!(held_file.starts_with(&device.number()), "{held_file}");
        let mut slow = device.write(&inner, block, count);
        wait_until("beginning", || written(&slow) > 0);
        assert!(device.write(&free, block, count).wait().unwrap().success());
        assert!(slow.try_wait().unwrap().is_none(), "{name}: it is held back");
        let freed = IoLimits {
            write_bytes_per_second: Some(Limit::Max),
            write_operations_per_second: Some(Limit::Max),
            ..IoLimits::default()
        };
        held.apply(&io(&device, freed)).unwrap();
        assert!(
            held.limits()
                .unwrap()
                .io
                .values()
                .all(|limits| limits.write_bytes_per_second != bytes.write_bytes_per_second)
        );
        assert!(slow.wait().unwrap().success());
        let used = held.usage().unwrap();
        let block_bytes = if block == "4k" { 4096 } else { 65536 };
        // With Linux 5.16 to 6.2 v1 counts only what is being held back.
        let least = if is_v1("blkio") && !kernel::is_at_least(6, 3) { 0 } else { count * block_bytes };
        assert!(used.io.values().map(|io| io.write_bytes).sum::<u64>() >= least, "{used:?}");
    }
}

#[test]
#[ignore = "needs root: cgroups, a loop device"]
fn cgroup_io_limits_are_read_back_for_each_device() {
    let groups = Groups::new();
    let (one, other) = (LoopDevice::new(&groups), groups.group("io"));
    let at = |value| Some(Limit::At(value));
    let limits = IoLimits::default();
    for limits in [
        IoLimits { read_bytes_per_second: at(MIB), write_operations_per_second: at(7), ..limits },
        IoLimits { read_bytes_per_second: at(2 * MIB), read_operations_per_second: at(100), ..limits },
        IoLimits { write_bytes_per_second: at(u64::from(u32::MAX) * 8), ..limits },
    ] {
        other.apply(&io(&one, limits)).unwrap();
        let found = other.limits().unwrap().io;
        let found = found[&format!("/dev/block/{}", one.number()).parse().unwrap()];
        let pairs = [
            (limits.read_bytes_per_second, found.read_bytes_per_second),
            (limits.write_bytes_per_second, found.write_bytes_per_second),
            (limits.read_operations_per_second, found.read_operations_per_second),
            (limits.write_operations_per_second, found.write_operations_per_second),
        ];
        assert!(pairs.iter().all(|(asked, found)| asked.is_none() || asked == found), "{pairs:?}");
    }
    for (device, rule) in [
        ("/dev/null", "is not a block device"),
        ("/dev/no-such", "does not exist"),
        ("volume", "by its path"),
    ] {
        let io = [(device.parse().unwrap(), IoLimits { read_bytes_per_second: at(1), ..limits })].into();
        let message = other.apply(&CgroupLimits { io, ..CgroupLimits::default() }).unwrap_err().to_string();
        assert!(message.contains(rule), "{message}");
    }
}

/// A weight has an effect where a disk has the scheduler for it, and is refused where none has.
#[test]
#[ignore = "needs root: cgroups, a loop device"]
fn cgroup_io_weight_takes_a_disk_with_bfq() {
    let groups = Groups::new();
    let device = LoopDevice::new(&groups);
    if !fs::read_to_string(device.scheduler()).unwrap().contains("bfq") {
        kernel::run("modprobe", ["bfq"]);
    }
    fs::write(device.scheduler(), "bfq").unwrap();
    let weights = [("light", 10), ("heavy", 1000)].map(|(name, weight)| {
        let group = groups.group(name);
        let limits =
            CgroupLimits { io_weight: Some(IoWeight::new(weight).unwrap()), ..CgroupLimits::default() };
        group.apply(&limits).unwrap();
        assert_eq!(group.limits().unwrap().io_weight, limits.io_weight);
        (group, weight)
    });
    let file = if is_v1("blkio") { "blkio.bfq.weight" } else { "io.bfq.weight" };
    for (group, weight) in &weights {
        assert!(content(group, "blkio", file).split_whitespace().any(|word| word == weight.to_string()));
    }
}

/// Huge pages of 2 MiB taken from the machine for a test, and given back.
struct HugePages(u64);

const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

impl HugePages {
    fn reserve(count: u64) -> Self {
        let before: u64 = fs::read_to_string(HUGE_PAGES).expect("huge pages").trim().parse().unwrap();
        fs::write(HUGE_PAGES, (before + count).to_string()).unwrap();
        let now: u64 = fs::read_to_string(HUGE_PAGES).unwrap().trim().parse().unwrap();
        assert_eq!(now, before + count, "the machine has too little memory in one piece");
        Self(before)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        fs::write(HUGE_PAGES, self.0.to_string()).unwrap();
    }
}

#[test]
#[ignore = "needs root: cgroups, huge pages"]
fn cgroup_huge_pages_are_limited() {
    let groups = Groups::new();
    let group = groups.group("huge");
    let size: HugePageSize = "2MB".parse().unwrap();
    let limits =
        |limit| CgroupLimits { hugetlb_max_bytes: [(size, limit)].into(), ..CgroupLimits::default() };
    let _pages = HugePages::reserve(4);
    // Maps two huge pages and reads a byte of each.
    let script = format!(
        "$at = syscall({}, 0, 4 << 20, 3, 0x40022, -1, 0); exit 9 if $at == -1; \
         unpack('P1', pack('Q', $at)); unpack('P1', pack('Q', $at + (2 << 20)));",
        nix::libc::SYS_mmap
    );
    let touch = || run_in(&group, &["perl", "-e", &script]).wait().unwrap();
    group.apply(&limits(Limit::At(2 << 20))).unwrap();
    assert_eq!(group.limits().unwrap().hugetlb_max_bytes[&size], Limit::At(2 << 20));
    let root = if is_v1("hugetlb") {
        PathBuf::from("/sys/fs/cgroup/hugetlb")
    } else {
        kernel::unified().expect("v2")
    };
    let file = if is_v1("hugetlb") { "hugetlb.2MB.limit_in_bytes" } else { "hugetlb.2MB.max" };
    let kept = fs::read_to_string(root.join(group.path()).join(file)).unwrap();
    assert_eq!(kept.trim(), (2 << 20).to_string());
    let refused = touch();
    assert_eq!(refused.signal(), Some(7), "SIGBUS at the second page: {refused}");
    group.apply(&limits(Limit::Max)).unwrap();
    assert_eq!(group.limits().unwrap().hugetlb_max_bytes[&size], Limit::Max);
    let allowed = touch();
    assert!(allowed.success(), "{allowed}");
    let none = CgroupLimits {
        hugetlb_max_bytes: [("8KB".parse().unwrap(), Limit::Max)].into(),
        ..CgroupLimits::default()
    };
    let message = none.check(&Hierarchies::detect().unwrap()).unwrap_err().to_string();
    assert!(message.contains("this machine has huge pages of"), "{message}");
}
