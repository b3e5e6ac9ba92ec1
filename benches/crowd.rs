//! Many containers on one host, started two at a time: what each costs, whether the last ones cost more than the first, and what
//! memory one takes that does nothing.
//!
//! Run it as root with `cargo bench --bench crowd`. `DOCKLET_CONTAINERS` sets how many (default 200).

#![allow(clippy::print_stdout, missing_docs, reason = "a benchmark prints")]

#[path = "parts/asked.rs"]
mod asked;
#[path = "parts/bare.rs"]
#[allow(dead_code, reason = "only the sandbox's part is used")]
mod bare;
#[path = "../examples/parts/busybox.rs"]
mod busybox;
#[path = "parts/figures.rs"]
#[allow(dead_code, reason = "each benchmark uses a part")]
mod figures;
#[path = "parts/generous.rs"]
mod generous;
#[path = "parts/steps.rs"]
#[allow(dead_code, reason = "each benchmark uses a part")]
mod steps;

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use docklet::cgroup::{Cgroup, Hierarchies};
use docklet::host::{ContainerSpec, Host, NetworkSpec};
use docklet::name::ContainerName;
use docklet::paths::Paths;
use figures::percentile;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{UsageWho, getrusage};

/// How many of the first and of the last are compared.
const END: usize = 20;

fn main() {
    let count = std::env::var("DOCKLET_CONTAINERS").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("root is needed: unshare");
    bare::run("mount", &["--make-rprivate", "/"]);
    let prefix = PathBuf::from(format!("/var/tmp/docklet-bench-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let recorded = steps::record();
    runtime.block_on(async {
        let crowd = Crowd::new(&prefix).await;
        recorded.clear();
        crowd.run(count, &recorded).await;
    });
    drop(runtime);
    docklet::storage::remove_tree(Path::new("/var/tmp"), Path::new(prefix.file_name().expect("name")))
        .expect("remove the prefix");
}

struct Crowd {
    host: Host,
    spec: ContainerSpec,
    network: NetworkSpec,
    /// The control group above those of all containers.
    group: Cgroup,
}

impl Crowd {
    async fn new(prefix: &Path) -> Self {
        let paths = Paths::new(prefix).expect("prefix");
        let group = format!("docklet/{}", paths.tag());
        let host = generous::open(paths).await;
        let (_, network, spec) = asked::prepare(&host, "10.77.0.1/22").await;
        let group = Cgroup::new(&Hierarchies::detect().expect("cgroups"), group).expect("group");
        let crowd = Self { host, spec, network, group };
        // Makes the volume's template.
        crowd.host.launch(crowd.spec.clone()).await.expect("launch");
        crowd.host.remove(&crowd.spec.name).await.expect("remove");
        crowd
    }

    async fn run(self, count: usize, recorded: &steps::Steps) {
        let (own, memory) = (own_memory(), available());
        let used = processor_time(UsageWho::RUSAGE_SELF);
        let used_by_children = processor_time(UsageWho::RUSAGE_CHILDREN);
        let names: Vec<ContainerName> = (0..count).map(|n| format!("c{n}").parse().expect("name")).collect();
        let launch = async |name: &ContainerName| {
            let spec = ContainerSpec { name: name.clone(), ..self.spec.clone() };
            self.host.launch(spec).await.expect("launch");
        };
        let (launches, all) = two_at_a_time(&names, launch).await;
        print("launch", &launches, all);
        let each = |total: f64| total / f64::from(u32::try_from(count).expect("number"));
        let usage = self.group.usage().expect("usage");
        let lxc =
            usage.cpu_time.unwrap_or_default() + processor_time(UsageWho::RUSAGE_CHILDREN) - used_by_children;
        println!(
            "  processor time of each   {:>8.2} ms here, {:.2} ms of LXC's",
            each((processor_time(UsageWho::RUSAGE_SELF) - used).as_secs_f64() * 1e3),
            each(lxc.as_secs_f64() * 1e3)
        );
        recorded.print();
        self.print_memory(&names, own, memory);
        let remove = async |name: &ContainerName| self.host.remove(name).await.expect("remove");
        recorded.clear();
        let used = processor_time(UsageWho::RUSAGE_SELF);
        let (removals, all) = two_at_a_time(&names, remove).await;
        print("remove", &removals, all);
        println!(
            "  processor time of each   {:>8.2} ms here",
            each((processor_time(UsageWho::RUSAGE_SELF) - used).as_secs_f64() * 1e3)
        );
        recorded.print();
        self.host.remove_network(&self.network.name).await.expect("remove the network");
    }

    fn print_memory(&self, names: &[ContainerName], own: u64, available_before: u64) {
        let (mut private, mut shared_out, mut charged) = (Vec::new(), Vec::new(), Vec::new());
        for name in names {
            let info = self.host.get(name).expect("container");
            let group = self.group.child(info.id.as_str()).expect("group");
            for pid in group.child("monitor").expect("group").processes().expect("processes") {
                let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps");
                shared_out.push(field(&text, "Pss:"));
                private.push(field(&text, "Private_Clean:") + field(&text, "Private_Dirty:"));
            }
            let of = |part: &str| {
                let part = group.child(part).expect("group");
                if part.exists() { part.usage().expect("usage").memory_bytes.unwrap_or(0) } else { 0 }
            };
            charged.push((of("monitor") + of("start")) >> 10);
        }
        let middle = |values: &mut Vec<u64>| {
            values.sort_unstable();
            values[values.len() / 2]
        };
        let count = u64::try_from(names.len()).expect("number");
        println!("\nmemory of each idle container, beside what its own control group is charged");
        println!(
            "  LXC's monitor, PSS       {:>8} KiB, {} KiB of it private",
            middle(&mut shared_out),
            middle(&mut private)
        );
        println!(
            "  charged to its group     {:>8} KiB, what the kernel holds for it included",
            middle(&mut charged)
        );
        println!("  of this process          {:>8} KiB", own_memory().saturating_sub(own) / count);
        println!(
            "  of the machine           {:>8} KiB, the container's own included, and whatever else was done meanwhile",
            available_before.saturating_sub(available()) / count
        );
    }
}

/// Does `job` for all of them, two at a time. Returns what each took, in their order, and what all took.
async fn two_at_a_time(
    names: &[ContainerName],
    job: impl AsyncFn(&ContainerName),
) -> (Vec<Duration>, Duration) {
    let (next, taken) = (Cell::new(0), RefCell::new(vec![Duration::ZERO; names.len()]));
    let stream = async || {
        while let Some(name) = names.get(next.replace(next.get() + 1)) {
            let (number, started) = (next.get() - 1, Instant::now());
            job(name).await;
            taken.borrow_mut()[number] = started.elapsed();
        }
    };
    let started = Instant::now();
    tokio::join!(stream(), stream());
    (taken.into_inner(), started.elapsed())
}

fn print(what: &str, taken: &[Duration], all: Duration) {
    let end = END.min(taken.len() / 2);
    let (first, last) = (&taken[..end], &taken[taken.len() - end..]);
    println!("\n{what} of {} containers, two at a time", taken.len());
    println!(
        "  all together, of each    {:>8.2} ms",
        all.as_secs_f64() * 1e3 / f64::from(u32::try_from(taken.len()).expect("number"))
    );
    println!("  median of the first {end}   {:>8.2} ms", percentile(first, 50));
    println!("  median of the last {end}    {:>8.2} ms", percentile(last, 50));
    println!("  last / first             {:>8.2}", figures::ratio(last, first));
}

/// What this process, or those of its children that ended, have used of the processors.
fn processor_time(who: UsageWho) -> Duration {
    let usage = getrusage(who).expect("getrusage");
    let times = [usage.user_time(), usage.system_time()];
    times
        .iter()
        .map(|time| {
            Duration::from_micros(u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).expect("time"))
        })
        .sum()
}

/// What this process has for itself, in KiB.
fn own_memory() -> u64 {
    let text = fs::read_to_string("/proc/self/smaps_rollup").expect("smaps");
    field(&text, "Private_Clean:") + field(&text, "Private_Dirty:")
}

/// What the machine has available, in KiB.
fn available() -> u64 {
    field(&fs::read_to_string("/proc/meminfo").expect("meminfo"), "MemAvailable:")
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("field");
    line.trim().trim_end_matches(" kB").parse().expect("number")
}
