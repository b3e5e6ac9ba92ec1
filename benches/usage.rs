//! What it costs to ask what containers use: a thousand groups as containers have them (one with the limits, one beneath it with a
//! process), asked in turn. Root: `cargo bench --bench usage [GROUPS [ROUNDS]]`.
//!
//! Time is the thread's own on a processor, since nothing is waited for, and by a clock beside it. "bare" reads the same files of the
//! same groups one after the other, without making anything of them.

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use docklet::cgroup::{Cgroup, CgroupLimits, CpuQuota, Hierarchies, Limit};
use nix::time::{ClockId, clock_gettime};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let mut numbers = std::env::args().filter_map(|argument| argument.parse().ok());
    let (count, rounds) = (numbers.next().unwrap_or(1_000), numbers.next().unwrap_or(21));
    let hierarchies = Hierarchies::detect()?;
    let top = Cgroup::new(&hierarchies, format!("docklet/bench-usage-{}", std::process::id()))?;
    let mut children = Vec::new();
    let done = measure(&top, count, rounds, &mut children);
    top.kill(Duration::from_secs(20))?;
    for mut child in children {
        child.wait()?;
    }
    top.remove()?;
    done
}

fn measure(top: &Cgroup, count: usize, rounds: usize, children: &mut Vec<Child>) -> Outcome {
    let limits = CgroupLimits {
        memory_max_bytes: Some(Limit::At(64 << 20)),
        cpu: Some(CpuQuota::cores(0.5)?),
        pids_max: Some(Limit::At(64)),
        ..CgroupLimits::default()
    };
    let mut groups = Vec::new();
    for number in 0..count {
        let group = top.child(&format!("n{number}"))?.child("payload")?;
        group.ensure()?;
        group.apply(&limits)?;
        let inner = group.child("inner")?;
        inner.ensure()?;
        children.push(enter(&inner)?);
        groups.push(group);
    }
    let names = files(&groups[0])?;
    println!(
        "{count} groups with a process each, {} files of each; {rounds} rounds: median, least, most, by processor time (by a clock)",
        names.len()
    );
    let mut results = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        results[0]
            .push(timed(|| groups.iter().try_for_each(|group| group.usage().map(drop).map_err(Into::into)))?);
        results[1].push(timed(|| {
            for group in &groups {
                for (root, name) in &names {
                    std::hint::black_box(fs::read(root.join(group.path()).join(name))).ok();
                }
            }
            Ok(())
        })?);
    }
    for (what, mut times) in ["Cgroup::usage", "bare"].into_iter().zip(results) {
        times.sort_unstable();
        let shown = |(used, passed): (Duration, Duration)| {
            format!("{:.1} ms ({:.1})", used.as_secs_f64() * 1e3, passed.as_secs_f64() * 1e3)
        };
        println!(
            "{what:14} {}, {}, {}",
            shown(times[times.len() / 2]),
            shown(times[0]),
            shown(times[times.len() - 1])
        );
    }
    Ok(())
}

/// The files that hold a group's figures, by the roots of their hierarchies.
fn files(group: &Cgroup) -> Outcome<Vec<(PathBuf, &'static str)>> {
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
    let mut found = Vec::new();
    for hierarchy in group.hierarchies().mounts() {
        for name in NAMES {
            if hierarchy.mount.join(group.path()).join(name).exists() {
                found.push((hierarchy.mount.clone(), name));
            }
        }
    }
    Ok(found)
}

fn enter(group: &Cgroup) -> Outcome<Child> {
    let files = group.hierarchies().mounts().iter().map(|h| h.mount.join(group.path()).join("cgroup.procs"));
    let script = "for file in \"$@\"; do echo 0 > \"$file\"; done; exec sleep 1000";
    Ok(Command::new("sh").args(["-c", script, "sh"]).args(files).stdin(Stdio::null()).spawn()?)
}

fn timed(work: impl FnOnce() -> Outcome) -> Outcome<(Duration, Duration)> {
    let now = || -> Outcome<Duration> { Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into()) };
    let (began, at) = (now()?, Instant::now());
    work()?;
    Ok((now()? - began, at.elapsed()))
}
