//! A container's life, as programs to be killed: image, network, volume, limits and a bind mount, as a user has them.

use std::error::Error;
use std::fs;
use std::time::Duration;

use docklet::cgroup::{CgroupLimits, CpuQuota, CpuSet, CpuWeight, IoDevice, IoLimits, Limit};
use docklet::host::{ContainerSpec, Host, NetworkSpec, Outcome, Restart, RestartPolicy};
use docklet::lxc::{Container, MountEntry, State};
use docklet::name::ContainerName;
use docklet::paths::Paths;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::busybox;
use crate::operations::scratch;

pub(crate) type Result = std::result::Result<(), Box<dyn Error>>;

/// Runs one of the functions below as a program does that has the host for itself.
pub(crate) fn with_host(operation: impl AsyncFnOnce(Host) -> Result) -> Result {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async { operation(Host::open(Paths::from_env()?).await?).await })
}

pub(crate) fn name() -> ContainerName {
    "killed".parse().expect("a name")
}

/// What stays between containers: image, network, the volumes' template.
pub(crate) fn prepare() -> Result {
    fs::create_dir(scratch()?.join("shared"))?;
    with_host(async |host| {
        busybox::ensure(host.images(), &"busybox".parse()?)?;
        let gateway = "10.99.0.1/24".parse()?;
        host.ensure_network(&NetworkSpec { nat: true, ..NetworkSpec::new("net".parse()?, gateway) }).await?;
        host.launch(spec()?).await?;
        Ok(host.remove(&name()).await?)
    })
}

pub(crate) fn spec() -> std::result::Result<ContainerSpec, Box<dyn Error>> {
    Ok(ContainerSpec {
        limits: CgroupLimits {
            memory_max_bytes: Some(Limit::At(128 << 20)),
            memory_swap_max_bytes: Some(Limit::At(0)),
            cpu: Some(CpuQuota::cores(0.5)?),
            pids_max: Some(Limit::At(64)),
            ..CgroupLimits::default()
        },
        mounts: vec![MountEntry::bind(scratch()?.join("shared"), "/srv/shared")?.create_dir()],
        ..ContainerSpec::new(name(), "busybox".parse()?).in_network("net".parse()?)
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

/// A container that is not to be started again once it has ended.
pub(crate) fn launch_mortal() -> Result {
    with_host(async |host| {
        let restart = RestartPolicy { when: Restart::Never, max_retries: None };
        host.launch(ContainerSpec { restart, ..spec()? }).await?;
        Ok(())
    })
}

/// Its first process is killed, and nobody has looked yet.
pub(crate) fn die() -> Result {
    with_host(async |host| {
        let runtime = host.runtime(&name())?;
        let init = runtime.init_pid()?.ok_or("it does not run")?;
        kill(Pid::from_raw(i32::try_from(init)?), Signal::SIGKILL)?;
        runtime.wait(None)?;
        Ok(())
    })
}

pub(crate) fn stop() -> Result {
    with_host(async |host| Ok(host.stop(&name(), Duration::from_millis(100)).await?))
}

/// Other limits, of every kind that this host has without more ado.
fn other_limits() -> std::result::Result<CgroupLimits, Box<dyn Error>> {
    let slow = IoLimits { write_bytes_per_second: Some(Limit::At(1 << 20)), ..IoLimits::default() };
    Ok(CgroupLimits {
        memory_max_bytes: Some(Limit::At(96 << 20)),
        memory_swap_max_bytes: Some(Limit::At(0)),
        cpu_weight: Some(CpuWeight::new(300)?),
        cpus: Some(CpuSet::new([0])?),
        io: [(IoDevice::Volume, slow)].into(),
        ..CgroupLimits::default()
    })
}

pub(crate) fn apply_limits() -> Result {
    with_host(async |host| host.apply_limits(&name(), other_limits()?).await.map(drop).map_err(Into::into))
}

/// Prints "running" if the container runs with the limits of before or after, none of the others, as they are written down.
pub(crate) fn limits_state() -> Result {
    with_host(async |host| {
        let info = host.get(&name())?;
        if info.state != State::Running {
            return Err(format!("it is {:?}", info.state).into());
        }
        let (before, mut after) = (spec()?.limits, other_limits()?);
        let is_after = info.spec.limits == after;
        if !is_after && info.spec.limits != before {
            return Err(format!("half changed: {:?}", info.spec.limits).into());
        }
        let payload = host.runtime(&name())?.payload().clone();
        let found = payload.limits()?;
        let devices =
            found.io.values().filter(|io| io.write_bytes_per_second == Some(Limit::At(1 << 20))).count();
        if devices != usize::from(is_after) {
            return Err(format!("devices: {:?}", found.io).into());
        }
        after.io.clear();
        let free = CgroupLimits { cpu: Some(CpuQuota::unlimited()), pids_max: Some(Limit::Max), ..after };
        let unchanged = CgroupLimits { cpu_weight: Some(CpuWeight::default()), ..before };
        payload.verify(if is_after { &free } else { &unchanged })?;
        println!("running");
        Ok(())
    })
}

pub(crate) fn start() -> Result {
    with_host(async |host| host.start(&name()).await.map(drop).map_err(Into::into))
}

/// Supervises until a container that was down runs, and runs again after its first process was killed.
pub(crate) fn supervise() -> Result {
    with_host(async |host| {
        let (watching, runtime) = (host.clone(), host.runtime(&name())?);
        let started_again = async move {
            let first = started(&runtime, None).await;
            kill(Pid::from_raw(i32::try_from(first).expect("pid")), Signal::SIGKILL).expect("kill");
            started(&runtime, Some(first)).await;
        };
        Ok(watching.supervise(started_again).await?)
    })
}

/// The first process, once there is another one than `before`.
async fn started(container: &Container, before: Option<u32>) -> u32 {
    loop {
        if let Ok(Some(pid)) = container.init_pid()
            && Some(pid) != before
        {
            return pid;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Prints a line for everything that was changed.
pub(crate) fn recover() -> Result {
    with_host(async |host| {
        let report = host.recover().await?;
        let changed = report.containers.iter().filter(|(_, outcome)| *outcome != Outcome::Unchanged);
        changed.for_each(|(name, outcome)| println!("container {name}: {outcome:?}"));
        report.networks.iter().for_each(|network| println!("network {network}"));
        report.ports.iter().for_each(|(name, interface)| println!("interface {interface} of {name}"));
        report.names.iter().for_each(|name| println!("names of {name}"));
        report.orphans.iter().for_each(|orphan| println!("orphan {orphan}"));
        if report.complete() { Ok(()) } else { Err(format!("incomplete: {report:?}").into()) }
    })
}

/// Prints "running", "present" if it is down, or "absent".
pub(crate) fn state() -> Result {
    with_host(async |host| {
        match host.get(&name()) {
            Ok(info) if info.state == State::Running => println!("running"),
            Ok(info) if info.state == State::Stopped => println!("present"),
            Ok(info) => println!("{:?}", info.state),
            Err(docklet::Error::NotFound { .. }) => println!("absent"),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    })
}
