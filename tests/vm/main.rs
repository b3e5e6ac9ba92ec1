//! The VM tier: the host tier and whole hosts, on a Debian kernel under QEMU, over reboots and power cuts.
//!
//! `tests/vm/run.sh` boots the guests (`make test-vm`); `tests/vm/jobs` is what they do. This binary is the steps of
//! those jobs that need the library, run inside the guest as `vm --step NAME`, with FS_PREFIX set.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests speak to the person who runs them")]

#[path = "../../examples/parts/busybox.rs"]
mod busybox;

use std::error::Error;
use std::fs;
use std::process::ExitCode;

use docklet::cgroup::{CgroupLimits, CpuQuota, Limit};
use docklet::error::Chain;
use docklet::host::{Attachment, ContainerSpec, Host, NetworkSpec};
use docklet::lxc::{Exec, State};
use docklet::name::ContainerName;
use docklet::paths::Paths;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const NAMES: [&str; 2] = ["one", "two"];
/// What a container has on its own disk: a file that must be the same after any reboot.
const FILL: &str = "seq 1 200000 > /srv/data && hostname >> /srv/data && sync && sha256sum /srv/data";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["--step", "launch"] => launch().await,
        ["--step", "check"] => check().await,
        ["--step", "remove"] => remove().await,
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

/// Two containers on one network, each with limits, a volume and data on it.
async fn launch() -> Result {
    let host = Host::open(Paths::from_env()?).await?;
    let image = busybox::ensure(host.images(), &"busybox".parse()?)?;
    let gateway = "10.77.0.1/24".parse()?;
    host.ensure_network(&NetworkSpec { name: "lan".parse()?, gateway, nat: true, mtu: None }).await?;
    for name in NAMES {
        let spec = ContainerSpec {
            network: Some(Attachment::new("lan".parse()?)),
            limits: CgroupLimits {
                memory_max_bytes: Some(Limit::At(64 << 20)),
                memory_swap_max_bytes: Some(Limit::At(0)),
                cpu: Some(CpuQuota::cores(0.5)?),
                pids_max: Some(Limit::At(32)),
            },
            ..ContainerSpec::new(name.parse()?, image.name.clone())
        };
        let info = host.launch(spec).await?;
        let sum = sh(&host, &info.spec.name, FILL).await?;
        fs::write(expected(&host, name), format!("{} {:?} {sum}", info.id, info.address))?;
    }
    Ok(())
}

/// Both run, are the same containers, with their limits, addresses, data and ways out.
async fn check() -> Result {
    let host = Host::open(Paths::from_env()?).await?;
    for name in NAMES {
        let parsed: ContainerName = name.parse()?;
        let info = host.get(&parsed)?;
        let runtime = host.runtime(&parsed)?;
        if runtime.state()? != State::Running {
            return Err(format!("`{name}` is {:?}", runtime.state()?).into());
        }
        runtime.payload()?.verify(&info.spec.limits)?;
        let sum = sh(&host, &parsed, "sha256sum /srv/data").await?;
        let found = format!("{} {:?} {sum}", info.id, info.address);
        let wanted = fs::read_to_string(expected(&host, name))?;
        if found != wanted {
            return Err(format!("`{name}` was {wanted}, is {found}").into());
        }
        sh(&host, &parsed, "ping -c 1 -w 20 10.77.0.1 && ping -c 1 -w 20 192.0.2.2").await?;
    }
    Ok(())
}

async fn remove() -> Result {
    let host = Host::open(Paths::from_env()?).await?;
    for name in NAMES {
        host.remove(&name.parse()?).await?;
    }
    Ok(host.remove_network(&"lan".parse()?).await?)
}

fn expected(host: &Host, name: &str) -> std::path::PathBuf {
    host.paths().prefix().join(format!("expected-{name}"))
}

async fn sh(host: &Host, name: &ContainerName, script: &str) -> Result<String> {
    let output = host.exec(name, Exec::new(["/bin/sh", "-c", script])).await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        return Err(format!("`{name}`: {script:?}: {} {}", text(&output.stdout), text(&output.stderr)).into());
    }
    Ok(text(&output.stdout))
}
