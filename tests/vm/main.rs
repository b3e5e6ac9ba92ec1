//! The VM tier: the other tiers and whole hosts, on a Debian kernel under QEMU, over reboots and power cuts.
//!
//! `tests/vm/run.sh` boots the guests (`make test-vm`); `tests/vm/jobs` is what they do. This binary is the steps of
//! those jobs that need the library, run inside the guest as `vm --step NAME`, with FS_PREFIX set.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests speak to the person who runs them")]

mod boot;
#[path = "../../examples/parts/busybox.rs"]
mod busybox;
mod kept;
mod logical;
mod network;
mod quota;
mod storm;

use std::error::Error;
use std::process::ExitCode;

use docklet::error::Chain;
use docklet::host::Host;
use docklet::lxc::Exec;
use docklet::name::ContainerName;
use docklet::paths::Paths;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["--step", step] => run(step).await,
        // `cargo test` gives every test program the same arguments.
        _ => {
            println!("\nthe VM tier runs with `make test-vm`");
            println!("test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n");
            return ExitCode::SUCCESS;
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vm: {}", Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(step: &str) -> Result {
    let host = Host::open(Paths::from_env()?).await?;
    match step {
        "boot-make" => boot::make(&host).await,
        "boot-back" => boot::back(&host).await,
        "launch" => kept::launch(&host).await,
        "check" => kept::check(&host).await,
        "storm" => storm::rage(&host).await,
        "calm" => storm::calm(&host).await,
        "remove" => remove(&host).await,
        "lvm-make" => logical::make(&host).await,
        "lvm-check" => logical::check(&host).await,
        "lvm-remove" => logical::remove(&host).await,
        "network-make" => network::make(&host).await,
        "network-back" => network::back(&host).await,
        "network-flush" => network::flush(&host).await,
        "quota-make" => quota::make(&host).await,
        "quota-check" => quota::check(&host).await,
        "quota-remove" => quota::remove(&host).await,
        _ => Err(format!("no step is called {step}").into()),
    }
}

/// Everything there is.
async fn remove(host: &Host) -> Result {
    for info in host.list()? {
        host.remove(&info.spec.name).await?;
    }
    for network in host.networks()? {
        host.remove_network(&network.name).await?;
    }
    Ok(())
}

/// Runs a script in a container and returns what it printed.
async fn sh(host: &Host, name: &ContainerName, script: &str) -> Result<String> {
    let output = host.exec(name, Exec::new(["/bin/sh", "-c", script])).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        return Err(format!("`{name}`: {script:?}: {} {}", text(&output.stdout), text(&output.stderr)).into());
    }
    Ok(text(&output.stdout))
}
