//! A container's life, as programs to be killed: image, network, volume, limits and a bind mount, as a user has them.

use std::error::Error;
use std::fs;

use docklet::cgroup::{CgroupLimits, CpuQuota, Limit};
use docklet::host::{Attachment, ContainerSpec, Host, NetworkSpec, Outcome};
use docklet::lxc::{MountEntry, State};
use docklet::name::ContainerName;
use docklet::paths::Paths;

use crate::busybox;
use crate::operations::scratch;

type Result = std::result::Result<(), Box<dyn Error>>;

/// Runs one of the functions below as a program does that has the host for itself.
fn with_host(operation: impl AsyncFnOnce(Host) -> Result) -> Result {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async { operation(Host::open(Paths::from_env()?).await?).await })
}

fn name() -> ContainerName {
    "killed".parse().expect("a name")
}

/// What stays between containers: image, network, the volumes' template.
pub(crate) fn prepare() -> Result {
    fs::create_dir(scratch()?.join("shared"))?;
    with_host(async |host| {
        busybox::ensure(host.images(), &"busybox".parse()?)?;
        let gateway = "10.99.0.1/24".parse()?;
        host.ensure_network(&NetworkSpec { name: "net".parse()?, gateway, nat: true, mtu: None }).await?;
        host.launch(spec()?).await?;
        Ok(host.remove(&name()).await?)
    })
}

fn spec() -> std::result::Result<ContainerSpec, Box<dyn Error>> {
    Ok(ContainerSpec {
        network: Some(Attachment::new("net".parse()?)),
        limits: CgroupLimits {
            memory_max_bytes: Some(Limit::At(128 << 20)),
            memory_swap_max_bytes: Some(Limit::At(0)),
            cpu: Some(CpuQuota::cores(0.5)?),
            pids_max: Some(Limit::At(64)),
        },
        mounts: vec![MountEntry::bind(scratch()?.join("shared"), "/srv/shared")?.create_dir()],
        ..ContainerSpec::new(name(), "busybox".parse()?)
    })
}

pub(crate) fn launch() -> Result {
    with_host(async |host| host.launch(spec()?).await.map(drop).map_err(Into::into))
}

pub(crate) fn remove() -> Result {
    with_host(async |host| Ok(host.remove(&name()).await?))
}

/// The container dies by itself. It is still wished to run.
pub(crate) fn crash() -> Result {
    with_host(async |host| {
        host.runtime(&name())?.kill()?;
        Ok(())
    })
}

/// Prints a line for everything that was changed.
pub(crate) fn recover() -> Result {
    with_host(async |host| {
        let report = host.recover().await?;
        let changed = report.containers.iter().filter(|(_, outcome)| *outcome != Outcome::Unchanged);
        changed.for_each(|(name, outcome)| println!("container {name}: {outcome:?}"));
        report.networks.iter().for_each(|network| println!("network {network}"));
        report.orphans.iter().for_each(|orphan| println!("orphan {orphan}"));
        if report.complete() { Ok(()) } else { Err(format!("incomplete: {report:?}").into()) }
    })
}

/// Prints "running", "absent", or what it is instead.
pub(crate) fn state() -> Result {
    with_host(async |host| {
        match host.get(&name()) {
            Ok(info) if info.state == State::Running => println!("running"),
            Ok(info) => println!("{:?}", info.state),
            Err(docklet::Error::NotFound { .. }) => println!("absent"),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    })
}
