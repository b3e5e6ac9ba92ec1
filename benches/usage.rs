//! What it costs to ask what containers use, beside many of them: `cargo bench --bench usage [CONTAINERS [ROUNDS]]`, as root. They are
//! launched by a `Host`, have limits, and sleep.
//!
//! "meter" is `UsageMeter::usages`, for all of them; "usage" is `Host::usage` for each. "bare" opens and reads the same files of the same
//! groups one after the other, without making anything of them; "bare, open" reads those that stay open. Time is the thread's own on a
//! processor, since nothing is waited for, and by a clock beside it. All are measured in turns.

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use docklet::cgroup::{Cgroup, CgroupLimits, CpuQuota, Limit};
use docklet::host::{ContainerSpec, Host, RootVolume};
use docklet::name::ContainerName;
use docklet::paths::Paths;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::{ClockId, clock_gettime};

#[path = "../examples/parts/busybox.rs"]
mod busybox;
#[path = "parts/generous.rs"]
mod generous;

/// The files that hold a group's figures, in either version.
const NAMES: [&str; 17] = [
    "memory.usage_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.memsw.usage_in_bytes",
    "memory.failcnt",
    "memory.oom_control",
    "memory.current",
    "memory.peak",
    "memory.swap.current",
    "memory.events",
    "cpu.stat",
    "cpuacct.usage",
    "pids.current",
    "pids.events",
    "blkio.throttle.io_service_bytes_recursive",
    "blkio.throttle.io_serviced_recursive",
    "io.stat",
    "cpu.pressure",
];

/// Those of them that v1 does not add up: they are read where the processes are, too.
const FLAT: [&str; 2] = ["memory.oom_control", "pids.events"];

fn main() {
    // Threads of the runtime that is made later are in it, too.
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("root is needed: unshare");
    let made = Command::new("mount").args(["--make-rprivate", "/"]).status().expect("mount");
    assert!(made.success(), "mount: {made}");
    let mut numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let (count, rounds) = (numbers.next().unwrap_or(1_000), numbers.next().unwrap_or(21));
    // What a monitor of that many would do: kept files, and as many again for "bare, open".
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("setrlimit");
    let prefix = PathBuf::from(format!("/var/tmp/docklet-test-{}-usage", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("runtime").block_on(measure(&prefix, count, rounds));
    let name = prefix.file_name().expect("name");
    docklet::storage::remove_tree(Path::new("/var/tmp"), Path::new(name)).expect("remove the prefix");
}

async fn measure(prefix: &Path, count: usize, rounds: usize) {
    let host = generous::open(Paths::new(prefix).expect("prefix")).await;
    busybox::ensure(host.images(), &"busybox".parse().expect("name")).expect("image");
    let names: Vec<_> = (0..count).map(|n| format!("c{n}").parse().expect("name")).collect();
    launch(&host, &names).await;
    compare(&host, &names, rounds);
    for name in &names {
        host.remove(name).await.expect("remove");
    }
}

async fn launch(host: &Host, names: &[ContainerName]) {
    let limits = CgroupLimits {
        memory_max_bytes: Some(Limit::At(64 << 20)),
        cpu: Some(CpuQuota::cores(0.5).expect("quota")),
        pids_max: Some(Limit::At(64)),
        ..CgroupLimits::default()
    };
    let volume = RootVolume { size_bytes: 16 << 20, ..RootVolume::default() };
    for name in names {
        let spec = ContainerSpec::new(name.clone(), "busybox".parse().expect("name"));
        host.launch(ContainerSpec { limits: limits.clone(), volume, ..spec }).await.expect("launch");
    }
}

fn compare(host: &Host, names: &[ContainerName], rounds: usize) {
    let groups: Vec<Cgroup> =
        names.iter().map(|name| host.runtime(name).expect("runtime").payload().clone()).collect();
    let files: Vec<PathBuf> = groups.iter().flat_map(files).collect();
    // Half of the descriptors for each of the two that keep files open.
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
    let half = usize::try_from(most).expect("descriptors").saturating_sub(400) / 2;
    let alone = files.len() > half;
    let mut meter = host.meter().with_most_descriptors(if alone { 2 * half } else { half });
    let begin = Instant::now();
    assert_eq!(meter.usages().expect("usages").len(), names.len());
    let first = begin.elapsed();
    println!(
        "{} containers, {} files; the meter keeps {} descriptors, its first look took {first:.1?}; {rounds} rounds: median, least, \
         most, by processor time (by a clock)",
        names.len(),
        files.len(),
        meter.descriptors(),
    );
    let open: Vec<File> =
        if alone { Vec::new() } else { files.iter().map(|path| File::open(path).expect("open")).collect() };
    let mut results = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        results[0].push(timed(|| drop(meter.usages().expect("usages"))));
        results[1].push(timed(|| {
            for name in names {
                std::hint::black_box(host.usage(name).expect("usage"));
            }
        }));
        results[2].push(timed(|| {
            for path in &files {
                std::hint::black_box(fs::read(path)).ok();
            }
        }));
        results[3].push(timed(|| {
            let mut buffer = [0; 4096];
            for file in &open {
                std::hint::black_box(file.read_at(&mut buffer, 0)).ok();
            }
        }));
    }
    for (what, mut times) in ["meter", "usage", "bare", "bare, open"].into_iter().zip(results) {
        times.sort_unstable();
        let shown = |(used, passed): (Duration, Duration)| {
            format!("{:.1} ms ({:.1})", used.as_secs_f64() * 1e3, passed.as_secs_f64() * 1e3)
        };
        let [median, least, greatest] = [times.len() / 2, 0, times.len() - 1].map(|at| shown(times[at]));
        println!("{what:10} {median}, {least}, {greatest}");
    }
    if alone {
        println!("There are not enough descriptors for \"bare, open\" beside the meter.");
    }
}

/// The files that hold a container's figures.
fn files(group: &Cgroup) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in group.hierarchies().mounts() {
        let dir = hierarchy.mount.join(group.path());
        found.extend(NAMES.iter().map(|name| dir.join(name)));
        if !dir.join("cgroup.controllers").exists() {
            found.extend(FLAT.iter().map(|name| dir.join("inner").join(name)));
        }
    }
    found.retain(|path| path.exists());
    found
}

fn timed(work: impl FnOnce()) -> (Duration, Duration) {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("clock_gettime"));
    let (began, at) = (now(), Instant::now());
    work();
    (now() - began, at.elapsed())
}
