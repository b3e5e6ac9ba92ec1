//! Prints the LXC configuration of a container for this host, or what is wrong with a file. Needs LXC, but changes nothing.
//!
//! `cargo run --example lxc_config`, `cargo run --example lxc_config -- /var/lib/lxc/NAME/config`

#![allow(clippy::print_stderr, reason = "an example speaks to the person who runs it")]

#[macro_use]
#[path = "parts/say.rs"]
mod say;

use std::path::Path;
use std::process::ExitCode;

use docklet::cgroup::{CgroupLimits, CpuQuota, Hierarchies, Limit};
use docklet::error::Chain;
use docklet::lxc::{ConfigText, HaltSignal, LxcConfig, LxcTarget, MountEntry};
use docklet::name::ContainerName;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lxc_config: {}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> docklet::Result<ExitCode> {
    match std::env::args_os().nth(1) {
        Some(file) => judge(Path::new(&file)),
        None => print().map(|()| ExitCode::SUCCESS),
    }
}

/// What LXC would not take of a file and those that it includes, then what has no place in a typed configuration.
fn judge(file: &Path) -> docklet::Result<ExitCode> {
    let text = ConfigText::read(file)?;
    match LxcConfig::try_from(&text) {
        Ok(config) => {
            say!("a container with the root {}", config.root().display());
            Ok(ExitCode::SUCCESS)
        }
        Err(problems) => {
            problems.list().iter().for_each(|problem| say!("{problem}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn print() -> docklet::Result<()> {
    let target = LxcTarget::detect(&Hierarchies::detect()?)?;
    let mut config = LxcConfig::new(&ContainerName::new("web")?, "/srv/roots/web")?;
    config.init(["/sbin/init"])?.halt_signal(HaltSignal::SYSTEMD_HALT);
    config.environment("GREETING", "hello world")?;
    config.limits(&CgroupLimits {
        memory_max_bytes: Some(Limit::At(128 << 20)),
        cpu: Some(CpuQuota::cores(0.5)?),
        pids_max: Some(Limit::At(64)),
        ..CgroupLimits::default()
    });
    config.mount(MountEntry::bind("/etc/hostname", "/etc/host name")?.read_only().create_file())?;
    // A mistake is told before anything is touched.
    if let Err(error) = config.mount(MountEntry::bind("/proc", "/host-proc")?.create_file()) {
        say!("# refused: {error}");
    }
    say!("{}", config.render(&target)?.trim_end());
    Ok(())
}
