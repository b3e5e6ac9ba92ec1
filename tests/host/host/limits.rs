//! A container's limits: set at its start, changed while it runs, found again, by the kernel's files and from inside.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use docklet::Error;
use docklet::cgroup::{
    Cgroup, CgroupLimits, CpuQuota, CpuSet, CpuWeight, HitLimit, IoDevice, IoLimits, IoWeight, Limit,
    LimitEvent,
};
use docklet::host::{ContainerLimitEvents, ContainerSpec, Host};
use docklet::lxc::{Exec, MountEntry, State};
use docklet::name::ContainerName;

use super::fixture::{Fixture, spec};
use crate::cgroup_limits::assert_gets_more;
use crate::groups::is_v1;
use crate::kernel::{self, wait_until};

/// A file of a container's group with the limits, or of the one beneath, where its processes are.
pub(super) fn file(host: &Host, name: &ContainerName, controller: &str, beneath: &str, file: &str) -> String {
    let group: Cgroup = host.runtime(name).unwrap().payload().clone();
    let v1 = Path::new("/sys/fs/cgroup").join(controller);
    let root: PathBuf = if v1.is_dir() { v1 } else { kernel::unified().expect("v2") };
    let path = root.join(group.path()).join(beneath).join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

fn either(controller: &str, v1: &'static str, v2: &'static str) -> &'static str {
    if is_v1(controller) { v1 } else { v2 }
}

/// The number of the loop device over a container's volume, by `losetup`'s word.
fn volume_device(fixture: &Fixture) -> String {
    let devices = kernel::loops_beneath(fixture.sandbox.paths.prefix());
    let [device] = devices.as_slice() else { panic!("one loop device: {devices:?}") };
    let name = device.trim_matches('"').split(['"', ' ']).next().unwrap().trim_start_matches("/dev/");
    fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap().trim().to_owned()
}

fn volume(limits: IoLimits) -> std::collections::BTreeMap<IoDevice, IoLimits> {
    [(IoDevice::Volume, limits)].into()
}

fn many() -> CgroupLimits {
    CgroupLimits {
        cpu: Some(CpuQuota::cores(0.5).unwrap().with_burst(Duration::from_millis(20)).unwrap()),
        cpu_weight: Some(CpuWeight::new(200).unwrap()),
        cpus: Some(CpuSet::new([0]).unwrap()),
        io: volume(IoLimits { write_bytes_per_second: Some(Limit::At(1 << 20)), ..IoLimits::default() }),
        hugetlb_max_bytes: [("2MB".parse().unwrap(), Limit::At(0))].into(),
        ..spec("x").limits
    }
}

fn assert_many(fixture: &Fixture, name: &ContainerName) {
    let host = &fixture.host;
    assert_eq!(
        file(host, name, "cpu", "", either("cpu", "cpu.shares", "cpu.weight")),
        either("cpu", "2048", "200")
    );
    assert_eq!(file(host, name, "cpu", "", either("cpu", "cpu.cfs_burst_us", "cpu.max.burst")), "20000");
    assert_eq!(
        file(host, name, "hugetlb", "", either("hugetlb", "hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max")),
        "0"
    );
    let cpus = either("cpuset", "cpuset.effective_cpus", "cpuset.cpus.effective");
    assert_eq!(file(host, name, "cpuset", "", cpus), "0");
    let number = volume_device(fixture);
    if is_v1("blkio") {
        // Where its processes are, or the kernel would not look at it.
        for beneath in ["", "inner"] {
            let kept = file(host, name, "blkio", beneath, "blkio.throttle.write_bps_device");
            assert_eq!(kept, format!("{number} 1048576"));
        }
    } else {
        let kept = file(host, name, "blkio", "", "io.max");
        assert_eq!(kept, format!("{number} rbps=max wbps=1048576 riops=max wiops=max"));
    }
}

/// Every kind of limit from the start on; then others while it runs; then those again after a stop.
#[tokio::test]
#[ignore = "needs root: containers"]
async fn limits_of_every_kind_are_changed_live_and_kept() {
    let fixture = Fixture::new().await;
    let host = &fixture.host;
    let spec = ContainerSpec { limits: many(), ..spec("web") };
    let name = spec.name.clone();
    host.launch(spec).await.unwrap();
    assert_many(&fixture, &name);
    assert_eq!(fixture.sh(&name, "nproc").await, "1\n");

    // Nothing but these: what else was limited is free.
    let all = fs::read_to_string("/sys/devices/system/cpu/online").unwrap().trim().to_owned();
    let fewer = CgroupLimits { pids_max: Some(Limit::At(50)), ..CgroupLimits::default() };
    host.apply_limits(&name, fewer.clone()).await.unwrap();
    assert_eq!(host.get(&name).unwrap().spec.limits, fewer);
    assert_eq!(file(host, &name, "pids", "", "pids.max"), "50");
    assert_eq!(
        file(host, &name, "cpu", "", either("cpu", "cpu.shares", "cpu.weight")),
        either("cpu", "1024", "100")
    );
    assert!(
        !file(host, &name, "memory", "", either("memory", "memory.limit_in_bytes", "memory.max"))
            .starts_with("67108864")
    );
    assert_eq!(fixture.sh(&name, "grep Cpus_allowed_list /proc/self/status | cut -f 2").await.trim(), all);
    let blkio = either("blkio", "blkio.throttle.write_bps_device", "io.max");
    for beneath in if is_v1("blkio") { &["", "inner"][..] } else { &[""] } {
        assert_eq!(file(host, &name, "blkio", beneath, blkio).as_str(), "", "{beneath}");
    }

    // And back, and over a stop.
    host.apply_limits(&name, many()).await.unwrap();
    assert_many(&fixture, &name);
    assert_eq!(fixture.sh(&name, "nproc").await, "1\n");
    host.stop(&name, Duration::ZERO).await.unwrap();
    let changed = CgroupLimits { pids_max: Some(Limit::At(40)), ..many() };
    host.apply_limits(&name, changed).await.unwrap();
    host.start(&name).await.unwrap();
    assert_many(&fixture, &name);
    assert_eq!(file(host, &name, "pids", "", "pids.max"), "40");
    let usage = host.usage(&name).unwrap();
    assert!(
        usage.pids >= Some(1) && usage.memory_bytes > Some(0) && usage.cpu_time > Some(Duration::ZERO),
        "{usage:?}"
    );
    host.remove(&name).await.unwrap();
    fixture.end().await;
}

/// All containers at once: those that run, each with the figures of its present run, and not more descriptors than allowed.
#[tokio::test]
#[ignore = "needs root: containers"]
async fn a_meter_tells_what_all_containers_use() {
    let fixture = Fixture::new().await;
    let host = &fixture.host;
    let names: Vec<ContainerName> = ["a", "b", "c"].map(|name| name.parse().unwrap()).into();
    let (mut meter, mut small) = (host.meter(), host.meter().with_most_descriptors(40));
    assert!(meter.usages().unwrap().is_empty());
    for name in &names {
        host.launch(spec(name.as_str())).await.unwrap();
    }
    let killed_in_b = "mount -t tmpfs none /tmp; dd if=/dev/zero of=/tmp/x bs=1M count=100; rm -f /tmp/x";
    for meter in [&mut meter, &mut small] {
        let usages = meter.usages().unwrap();
        assert!(usages.keys().eq(&names), "{usages:?}");
        assert!(
            usages.values().all(|usage| usage.pids >= Some(1) && usage.oom_kills == Some(0)),
            "{usages:?}"
        );
    }
    fixture.sh(&names[1], killed_in_b).await;
    for meter in [&mut meter, &mut small] {
        let usages = meter.usages().unwrap();
        let kills: Vec<_> = usages.values().map(|usage| usage.oom_kills > Some(0)).collect();
        assert_eq!(kills, [false, true, false], "{usages:?}");
    }
    assert!(small.descriptors() <= 40 && small.descriptors() > 0, "{}", small.descriptors());
    assert!(meter.descriptors() > 40, "{}", meter.descriptors());

    // A new run begins at nothing, and what is down or gone has no figures.
    host.stop(&names[0], Duration::ZERO).await.unwrap();
    host.stop(&names[1], Duration::ZERO).await.unwrap();
    host.start(&names[1]).await.unwrap();
    host.remove(&names[2]).await.unwrap();
    for meter in [&mut meter, &mut small] {
        let usages = meter.usages().unwrap();
        assert!(usages.keys().eq([&names[1]]), "{usages:?}");
        assert_eq!(usages[&names[1]].oom_kills, Some(0), "{usages:?}");
    }
    for name in &names[..2] {
        host.remove(name).await.unwrap();
    }
    assert!(meter.usages().unwrap().is_empty());
    assert_eq!(meter.descriptors(), 0);
    fixture.end().await;
}

/// What cannot be had changes nothing.
#[tokio::test]
#[ignore = "needs root: containers"]
async fn limits_that_do_not_fit_leave_the_old_ones() {
    let fixture = Fixture::new().await;
    let host = &fixture.host;
    let spec = spec("web");
    let (name, before) = (spec.name.clone(), spec.limits.clone());
    host.launch(spec).await.unwrap();
    // Memory of its own: what is on a tmpfs is charged to who writes it.
    fixture.sh(&name, "mount -t tmpfs none /tmp && dd if=/dev/zero of=/tmp/x bs=1M count=30").await;
    let less = CgroupLimits {
        memory_max_bytes: Some(Limit::At(16 << 20)),
        cpu_weight: Some(CpuWeight::new(7).unwrap()),
        ..before.clone()
    };
    let error = host.apply_limits(&name, less).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    assert!(error.to_string().contains("use more than 16777216 bytes"), "{error}");
    assert_eq!(host.get(&name).unwrap().spec.limits, before);
    assert_eq!(
        file(host, &name, "memory", "", either("memory", "memory.limit_in_bytes", "memory.max")),
        "67108864"
    );
    assert_eq!(
        file(host, &name, "cpu", "", either("cpu", "cpu.shares", "cpu.weight")),
        either("cpu", "1024", "100")
    );
    let absent = CgroupLimits {
        io: [(
            "/dev/no-such".parse().unwrap(),
            IoLimits { read_bytes_per_second: Some(Limit::At(5)), ..IoLimits::default() },
        )]
        .into(),
        ..before.clone()
    };
    let error = host.apply_limits(&name, absent).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    let error = host.apply_limits(&"none".parse().unwrap(), before.clone()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert_eq!(host.get(&name).unwrap().spec.limits, before);
    assert_eq!(fixture.sh(&name, "ls -l /tmp/x | wc -l").await, "1\n", "it went on");
    host.remove(&name).await.unwrap();
    fixture.end().await;
}

/// Of two that are busy on one processor, the one with four times the weight gets about four times as much of it; and the other
/// way round, while they are at it.
#[tokio::test]
#[ignore = "needs root: containers"]
async fn weights_divide_a_processor_between_containers() {
    let fixture = Fixture::new().await;
    let host = &fixture.host;
    let weighted = |weight| CgroupLimits {
        cpus: Some(CpuSet::new([0]).unwrap()),
        cpu_weight: Some(CpuWeight::new(weight).unwrap()),
        ..CgroupLimits::default()
    };
    let [light, heavy] = [("light", 100), ("heavy", 400)]
        .map(|(name, weight)| ContainerSpec { limits: weighted(weight), ..spec(name) });
    for container in [&light, &heavy] {
        host.launch(container.clone()).await.unwrap();
        let busy = Exec::new(["/bin/sh", "-c", "(while :; do :; done) >/dev/null 2>&1 &"]);
        assert!(host.exec(&container.name, busy).await.unwrap().status.success());
    }
    let group = |container: &ContainerSpec| host.runtime(&container.name).unwrap().payload().clone();
    assert_gets_more(&group(&heavy), &group(&light));
    host.apply_limits(&light.name, weighted(400)).await.unwrap();
    host.apply_limits(&heavy.name, weighted(100)).await.unwrap();
    assert_gets_more(&group(&light), &group(&heavy));
    for container in [light, heavy] {
        host.remove(&container.name).await.unwrap();
    }
    fixture.end().await;
}

/// On the group that has the other containers' beside it, as on the one with the limits; and they go again.
#[tokio::test]
#[ignore = "needs root: containers, BFQ"]
async fn weights_stand_beside_those_of_other_containers() {
    let fixture = Fixture::new().await;
    let host = &fixture.host;
    let spec = spec("web");
    let name = spec.name.clone();
    host.launch(spec).await.unwrap();
    let scheduler = Path::new("/sys/dev/block").join(volume_device(&fixture)).join("queue/scheduler");
    if !fs::read_to_string(&scheduler).unwrap().contains("bfq") {
        kernel::run("modprobe", ["bfq"]);
    }
    fs::write(&scheduler, "bfq").unwrap();
    let weighted = CgroupLimits {
        cpu_weight: Some(CpuWeight::new(300).unwrap()),
        io_weight: Some(IoWeight::new(700).unwrap()),
        ..CgroupLimits::default()
    };
    let free = [either("cpu", "1024", "100"), "100"];
    for (limits, values) in
        [(weighted, [either("cpu", "3072", "300"), "700"]), (CgroupLimits::default(), free)]
    {
        host.apply_limits(&name, limits).await.unwrap();
        for group in ["", ".."] {
            let cpu = file(host, &name, "cpu", group, either("cpu", "cpu.shares", "cpu.weight"));
            let io = file(host, &name, "blkio", group, either("blkio", "blkio.bfq.weight", "io.bfq.weight"));
            assert_eq!([cpu.as_str(), io.split_whitespace().last().unwrap()], values, "{group:?}");
        }
    }
    host.remove(&name).await.unwrap();
    fixture.end().await;
}

/// With each end, those of the run that it ended. Control groups v1 may have forgotten them by then.
#[tokio::test]
#[ignore = "needs root: containers"]
async fn kills_for_memory_are_counted_with_each_end() {
    let fixture = Fixture::new().await;
    let host = &fixture.host;
    let spec = spec("web");
    let name = spec.name.clone();
    host.launch(spec).await.unwrap();
    // Memory of its own, which goes with it: nobody else is in need then.
    let hog = "dd if=/dev/zero of=/dev/null bs=100M count=1; true";
    let assert_told = |kills| {
        let told = host.get(&name).unwrap().last_end.expect("its end").oom_kills;
        assert!(told == Some(kills) || told.is_none() && is_v1("memory"), "{kills}: {told:?}");
    };

    // It ends by itself, and is started before anybody has written down how.
    fixture.sh(&name, hog).await;
    let init = host.runtime(&name).unwrap().init_pid().unwrap().unwrap();
    kernel::run("kill", ["-KILL", &init.to_string()]);
    wait_until("its end", || host.runtime(&name).unwrap().state().unwrap() == State::Stopped);
    assert_told(1);
    host.start(&name).await.unwrap();
    assert_told(1);
    // Twice, then not at all.
    fixture.sh(&name, &format!("{hog}; {hog}")).await;
    host.stop(&name, Duration::ZERO).await.unwrap();
    assert_told(2);
    host.start(&name).await.unwrap();
    host.stop(&name, Duration::ZERO).await.unwrap();
    assert_told(0);
    host.remove(&name).await.unwrap();
    fixture.end().await;
}

/// The volume's own device, from inside: with four writes a second, one that writes 256 times is at it for a minute, and has done
/// little when another container has done as much.
#[tokio::test]
#[ignore = "needs root: containers"]
async fn io_of_a_volume_is_limited() {
    let fixture = Fixture::new().await;
    let host = &fixture.host;
    let slow = IoLimits { write_operations_per_second: Some(Limit::At(4)), ..IoLimits::default() };
    let limits = CgroupLimits { io: volume(slow), ..spec("x").limits };
    let (held, free) = (ContainerSpec { limits, ..spec("held") }, spec("free"));
    let write = "for n in $(seq 256); do dd if=/dev/zero of=/data bs=4k count=1 conv=fsync 2>/dev/null; echo $n > /dev/shm/at; done";
    for container in [&held, &free] {
        host.launch(container.clone()).await.unwrap();
        fixture.sh(&container.name, "mkdir -p /dev/shm").await;
    }
    let background = format!("({write}) >/dev/null 2>&1 &");
    host.exec(&held.name, Exec::new(["/bin/sh", "-c", &background])).await.unwrap();
    fixture.sh(&free.name, write).await;
    let at: u32 =
        fixture.sh(&held.name, "cat /dev/shm/at 2>/dev/null || echo 0").await.trim().parse().unwrap();
    assert!(at < 256, "{at}");
    for container in [held, free] {
        host.remove(&container.name).await.unwrap();
    }
    fixture.end().await;
}

async fn until(events: &mut ContainerLimitEvents, wanted: impl Fn(&LimitEvent) -> bool) {
    let found = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let event = events.next().await.unwrap().expect("before its end");
            if wanted(&event) {
                return event;
            }
        }
    });
    found.await.expect("the event");
}

/// What runs out of memory or of processes is told, and the end.
#[tokio::test]
#[ignore = "needs root: containers"]
async fn limits_that_are_hit_and_the_end_are_told() {
    let fixture = Fixture::new().await;
    let host = &fixture.host;
    let spec = spec("web");
    let name = spec.name.clone();
    assert!(matches!(host.limit_events(&name).unwrap_err(), Error::NotFound { .. }));
    host.launch(spec).await.unwrap();
    let mut events = host.limit_events(&name).unwrap();
    fixture
        .sh(&name, "mount -t tmpfs none /tmp; dd if=/dev/zero of=/tmp/x bs=1M count=100; rm -f /tmp/x")
        .await;
    until(&mut events, |event| matches!(event, LimitEvent::OomKill { count: 1.. })).await;
    assert!(host.usage(&name).unwrap().oom_kills >= Some(1));
    fixture.sh(&name, "(for n in $(seq 100); do sleep 1 & done) 2>/dev/null; true").await;
    let hits = host.usage(&name).unwrap().pids_max_hits;
    assert!(hits >= Some(1), "{hits:?}");
    if !is_v1("pids") {
        until(&mut events, |event| {
            matches!(event, LimitEvent::LimitHit { limit: HitLimit::Pids, count: 1.. })
        })
        .await;
    }
    wait_until("their end", || host.usage(&name).unwrap().pids.unwrap() < 20);
    // Another one of the first kind, by who watches already.
    fixture.sh(&name, "dd if=/dev/zero of=/tmp/x bs=1M count=100; true").await;
    until(&mut events, |event| matches!(event, LimitEvent::OomKill { count: 1.. })).await;
    host.stop(&name, Duration::ZERO).await.unwrap();
    let end = async { while events.next().await.unwrap().is_some() {} };
    tokio::time::timeout(Duration::from_secs(60), end).await.expect("the end");
    assert_eq!(events.next().await.unwrap(), None);
    host.remove(&name).await.unwrap();
    fixture.end().await;
}

/// A node that both containers see, and one may open.
#[tokio::test]
#[ignore = "needs root: containers"]
async fn devices_are_allowed_by_name_only() {
    let fixture = Fixture::new().await;
    let host = &fixture.host;
    let node = fixture.sandbox.dir("nodes").join("kmsg");
    kernel::run("mknod", ["--mode=0666", node.to_str().unwrap(), "c", "1", "11"]);
    for dir in node.ancestors().skip(1).take(3) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (name, devices, expected) in [("with", &["c 1:11 w"][..], "opened\n"), ("without", &[], "refused\n")]
    {
        let spec = ContainerSpec {
            devices: devices.iter().map(|rule| rule.parse().unwrap()).collect(),
            mounts: vec![MountEntry::bind(node.parent().unwrap(), "/nodes").unwrap().create_dir()],
            ..spec(name)
        };
        let name = spec.name.clone();
        host.launch(spec).await.unwrap();
        assert_eq!(
            fixture.sh(&name, "(exec 3>/nodes/kmsg) 2>/dev/null && echo opened || echo refused").await,
            expected
        );
        if is_v1("devices") {
            let list = file(host, &name, "devices", "", "devices.list");
            assert_eq!(list.lines().any(|line| line == "c 1:11 w"), !devices.is_empty(), "{list}");
        }
        // Reading was not asked for.
        assert_eq!(
            fixture.sh(&name, "(exec 3</nodes/kmsg) 2>/dev/null && echo opened || echo refused").await,
            "refused\n"
        );
        host.remove(&name).await.unwrap();
    }
    fixture.end().await;
}

/// Who has its own part of the tree cannot fill the kernel with groups, where the kernel has a bound for that.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn groups_beneath_are_bounded() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    let info = fixture.host.launch(spec.clone()).await.unwrap();
    let found = kernel::unified().map(|root| {
        let dir = root.join("docklet").join(fixture.sandbox.paths.tag()).join(info.id.as_str());
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        (read("cgroup.max.descendants"), read("cgroup.max.depth"))
    });
    let is_v2 = fs::read_to_string("/proc/self/mounts").unwrap().contains(" cgroup2 ");
    assert_eq!(found, is_v2.then(|| ("10000\n".to_owned(), "64\n".to_owned())));
    fixture.host.remove(&spec.name).await.unwrap();
    fixture.end().await;
}
