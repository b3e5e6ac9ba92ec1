//! Limits a group to 32 MiB, half a processor and 16 processes, runs `COMMAND` in it, and shows what it used:
//!
//! ```text
//! cargo run --example limits -- COMMAND [ARGUMENT…]
//! ```
//!
//! Needs root. The group is removed in the end.

#![allow(clippy::print_stderr, reason = "a program speaks to the person who runs it")]

#[macro_use]
#[path = "parts/say.rs"]
mod say;

use std::process::{Command, ExitCode};
use std::time::Duration;

use docklet::cgroup::{Cgroup, CgroupLimits, CpuQuota, Hierarchies, Limit};
use docklet::error::Chain;

fn main() -> ExitCode {
    let command: Vec<_> = std::env::args().skip(1).collect();
    let command = if command.is_empty() { vec!["true".to_owned()] } else { command };
    match run(&command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("limits: {}", Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(command: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let hierarchies = Hierarchies::detect()?;
    say!("layout: {}", hierarchies.layout());
    let limits = CgroupLimits {
        memory_max_bytes: Some(Limit::At(32 << 20)),
        memory_swap_max_bytes: Some(Limit::At(0)),
        cpu: Some(CpuQuota::cores(0.5)?),
        pids_max: Some(Limit::At(16)),
        ..CgroupLimits::default()
    };
    let group = Cgroup::new(&hierarchies, format!("docklet/example-{}", std::process::id()))?;
    group.ensure()?;
    let done = run_in(&group, &limits, command);
    // Whatever happened: nothing stays. Printing comes later, for it can fail, too.
    group.kill(Duration::from_secs(5))?;
    group.remove()?;
    say!("{}", done?);
    Ok(())
}

/// Runs `command` in the group and reports how it went.
fn run_in(
    group: &Cgroup,
    limits: &CgroupLimits,
    command: &[String],
) -> Result<String, Box<dyn std::error::Error>> {
    group.apply(limits)?;
    let limits = serde_json::to_string(&group.limits()?)?;
    // A small shell script enters the group in each hierarchy, then becomes the command.
    let hierarchies = group.hierarchies().mounts();
    let files = hierarchies.iter().map(|hierarchy| hierarchy.mount.join(group.path()).join("cgroup.procs"));
    let enter = "while [ \"$1\" != -- ]; do echo 0 > \"$1\" || exit 126; shift; done; shift; exec \"$@\"";
    let status = Command::new("sh").args(["-c", enter, "sh"]).args(files).arg("--").args(command).status()?;
    let usage = serde_json::to_string_pretty(&group.usage()?)?;
    Ok(format!("limits: {limits}\n{status}\nusage: {usage}"))
}
