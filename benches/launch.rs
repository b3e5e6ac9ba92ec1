//! A launch with volume, root, network and limits, against the same of a privileged container, and against bare
//! `lxc-start -d` of the same configuration, but for LXC's own veth pair and user namespace, and no volume; a removal against
//! bare `lxc-stop -k`; and the library's own part of a privileged launch, without LXC's, against the system calls that make
//! the same objects. All sides in turns, in one run; the host is at rest for a moment before each, for what went before makes the
//! kernel quicker at moving processes between control groups.
//!
//! Run it as root with `cargo bench --bench launch`. `DOCKLET_PAIRS` sets the number of pairs (default 150).

#![allow(clippy::print_stdout, missing_docs, reason = "a benchmark prints")]

#[path = "parts/asked.rs"]
mod asked;
#[path = "parts/bare.rs"]
mod bare;
#[path = "../examples/parts/busybox.rs"]
mod busybox;
#[path = "parts/figures.rs"]
mod figures;
#[path = "parts/messages.rs"]
mod messages;
#[path = "parts/raw.rs"]
mod raw;
#[path = "parts/steps.rs"]
mod steps;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use docklet::cgroup::Hierarchies;
use docklet::host::{ContainerSpec, Host, NetworkSpec, Privilege};
use docklet::paths::Paths;
use figures::{percentile, ratio};
use nix::sched::{CloneFlags, unshare};

/// How long the host is left alone before each measurement.
const REST: Duration = Duration::from_millis(50);

/// Set for the run under strace that counts programs.
const ONE_LAUNCH: &str = "DOCKLET_BENCH_ONE_LAUNCH";

fn main() {
    let pairs = std::env::var("DOCKLET_PAIRS").ok().and_then(|n| n.parse().ok()).unwrap_or(150);
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("root is needed: unshare");
    bare::run("mount", &["--make-rprivate", "/"]);
    bare::enter_sysfs();
    let prefix = PathBuf::from(format!("/var/tmp/docklet-bench-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let recorded = steps::record();
    let bench = runtime.block_on(Bench::new(&prefix, recorded.clone()));
    if std::env::var_os(ONE_LAUNCH).is_some() {
        mark("launch");
        runtime.block_on(bench.host.launch(bench.spec.clone())).expect("launch");
        mark("removal");
        runtime.block_on(bench.host.remove(&bench.spec.name)).expect("remove");
        mark("end");
    } else {
        recorded.clear();
        let sides = RefCell::new(Sides::default());
        let mut criterion = Criterion::default()
            .without_plots()
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_millis(500));
        let mut group = criterion.benchmark_group("launch");
        group.sampling_mode(SamplingMode::Flat);
        // The parts, which are last, are of the same pairs.
        for (side, name) in SIDES.into_iter().enumerate().take(6) {
            group.bench_function(name, |bencher| {
                bencher
                    .iter_custom(|n| (0..n).map(|_| sides.borrow_mut().next(side, &bench, &runtime)).sum());
            });
        }
        group.finish();
        while sides.borrow().all[0].len() < pairs {
            sides.borrow_mut().pair(&bench, &runtime);
        }
        sides.borrow().print();
        recorded.print();
        // Each pair is of two launches and removals.
        recorded.print_durability(2 * sides.borrow().all[0].len());
        print_programs();
    }
    runtime.block_on(bench.end());
    drop(runtime);
    docklet::storage::remove_tree(Path::new("/var/tmp"), Path::new(prefix.file_name().expect("name")))
        .expect("remove the prefix");
}

/// What [`mark`] asks for; it does not exist.
const MARK: &str = "/docklet-bench-mark";

const SIDES: [&str; 8] = [
    "docklet launch",
    "privileged launch",
    "lxc-start -d",
    "docklet remove",
    "privileged remove",
    "lxc-stop -k",
    "own part of a launch",
    "its system calls",
];

/// The measurements of all sides. Each pair is measured together; criterion takes them one side at a time.
#[derive(Default)]
struct Sides {
    waiting: [VecDeque<Duration>; 8],
    all: [Vec<Duration>; 8],
}

impl Sides {
    fn next(&mut self, side: usize, bench: &Bench, runtime: &tokio::runtime::Runtime) -> Duration {
        loop {
            if let Some(duration) = self.waiting[side].pop_front() {
                return duration;
            }
            self.pair(bench, runtime);
        }
    }

    fn pair(&mut self, bench: &Bench, runtime: &tokio::runtime::Runtime) {
        let (launch, remove) = runtime.block_on(bench.one_pair_of_ours(Privilege::default()));
        let (privileged, removed) = runtime.block_on(bench.one_pair_of_ours(Privilege::Privileged));
        let runtimes = bench.steps.last("lxc_start").expect("a launch");
        let (start, stop) = bench.bare.start_and_stop(REST);
        let calls = bench.raw.make(self.all[0].len());
        let own = privileged.saturating_sub(runtimes);
        let durations = [launch, privileged, start, remove, removed, stop, own, calls];
        for (side, duration) in durations.into_iter().enumerate() {
            self.waiting[side].push_back(duration);
            self.all[side].push(duration);
        }
    }

    fn print(&self) {
        println!("\n{} pairs, in turns          median      p10      p90", self.all[0].len());
        for (name, side) in SIDES.iter().zip(&self.all) {
            let [low, middle, high] = [10, 50, 90].map(|percent| percentile(side, percent));
            println!("  {name:<24} {middle:>8.2} {low:>8.2} {high:>8.2} ms");
        }
        println!("  launch / privileged      {:>8.2}", ratio(&self.all[0], &self.all[1]));
        println!("  remove / privileged      {:>8.2}", ratio(&self.all[3], &self.all[4]));
        println!("  launch / lxc-start -d    {:>8.2}", ratio(&self.all[0], &self.all[2]));
        println!("  remove / lxc-stop -k     {:>8.2}", ratio(&self.all[3], &self.all[5]));
        println!("  own part / system calls  {:>8.2}", ratio(&self.all[6], &self.all[7]));
    }
}

/// Both sides, ready to go.
struct Bench {
    host: Host,
    spec: ContainerSpec,
    network: NetworkSpec,
    bare: bare::Bare,
    raw: raw::Raw,
    steps: steps::Steps,
}

impl Bench {
    async fn new(prefix: &Path, steps: steps::Steps) -> Self {
        let host = Host::open(Paths::new(prefix).expect("prefix")).await.expect("host");
        let (image, network, spec) = asked::prepare(&host, "10.77.0.1/24").await;
        // Makes the volume's template, too.
        let info = host.launch(spec.clone()).await.expect("launch");
        let configuration = prefix.join("local/containers").join(info.id.as_str()).join("config");
        let configuration = std::fs::read_to_string(configuration).expect("configuration");
        let root = info.ids.as_ref().expect("id map").root();
        let bare = bare::Bare::new(&prefix.join("bare"), &image.layers[0], &configuration, root);
        let link = PathBuf::from("/sys/class/net")
            .join(info.interfaces[&"eth0".parse().expect("name")].link.as_str());
        let messages =
            messages::Messages::new(number(&link.join("master/ifindex")), number(&link.join("ifindex")));
        host.remove(&spec.name).await.expect("remove");
        let templates = prefix.join("local/volumes/templates");
        let mut templates =
            std::fs::read_dir(templates).expect("templates").map(|entry| entry.expect("entry").path());
        let template =
            templates.find(|path| path.extension().is_some_and(|ending| ending == "img")).expect("template");
        let hierarchies = Hierarchies::detect().expect("cgroups");
        let group = hierarchies.mounts()[0].mount.join(format!("docklet/bench-{}", std::process::id()));
        let raw = raw::Raw::new(&prefix.join("raw"), &template, &image.layers[0], messages, &group);
        Self { host, spec, network, bare, raw, steps }
    }

    async fn one_pair_of_ours(&self, privilege: Privilege) -> (Duration, Duration) {
        let spec = ContainerSpec { privilege, ..self.spec.clone() };
        thread::sleep(REST);
        let started = Instant::now();
        self.host.launch(spec).await.expect("launch");
        let launch = started.elapsed();
        thread::sleep(REST);
        let started = Instant::now();
        self.host.remove(&self.spec.name).await.expect("remove");
        (launch, started.elapsed())
    }

    async fn end(self) {
        self.bare.end();
        self.raw.end();
        self.host.remove_network(&self.network.name).await.expect("remove the network");
    }
}

/// The number in a file.
fn number(path: &Path) -> u32 {
    std::fs::read_to_string(path).expect("number").trim().parse().expect("number")
}

/// Makes a system call that stands out in strace's log.
fn mark(phase: &str) {
    assert!(!Path::new(MARK).join(phase).exists());
}

/// Runs one more launch and removal under strace, and prints every program that was run by each.
fn print_programs() {
    let log = std::env::temp_dir().join(format!("docklet-bench-{}.strace", std::process::id()));
    let traced = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=execve,stat,statx", "-o"])
        .arg(&log)
        .arg(std::env::current_exe().expect("own path"))
        .env(ONE_LAUNCH, "1")
        .status();
    if !traced.is_ok_and(|status| status.success()) {
        println!("\nprograms: not counted (strace did not run)");
        return;
    }
    let text = std::fs::read_to_string(&log).expect("strace's log");
    std::fs::remove_file(&log).expect("remove strace's log");
    println!("\nprograms run (strace -f -e execve)");
    let mut phase = None;
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once(MARK) {
            phase = rest.trim_start_matches('/').split('"').next().filter(|phase| *phase != "end");
        } else if let Some(phase) = phase
            && line.contains("execve(")
            && !line.contains("= -1")
        {
            println!("  {phase:<8} {}", line.split('"').nth(1).unwrap_or("?"));
        }
    }
}
