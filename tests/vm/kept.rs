//! Containers that must come through any reboot, with their limits, addresses and data, and their expected state.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;

use docklet::cgroup::{CgroupLimits, CpuQuota, Limit};
use docklet::host::{ContainerInfo, ContainerSpec, Host, NetworkSpec};
use docklet::lxc::State;
use docklet::name::ContainerName;

use crate::{Result, busybox, sh};

const NAMES: [&str; 2] = ["one", "two"];

/// Two containers on one network, each with limits, a volume and data on it.
pub(crate) async fn launch(host: &Host) -> Result {
    let gateway = "10.77.0.1/24".parse()?;
    host.ensure_network(&NetworkSpec { nat: true, ..NetworkSpec::new("lan".parse()?, gateway) }).await?;
    for name in NAMES {
        let info = host.launch(spec(host, name)?).await?;
        record(host, &info, &fill(host, &info.spec.name, 200_000).await?)?;
    }
    Ok(())
}

/// A container on the network `lan`.
pub(crate) fn spec(host: &Host, name: &str) -> Result<ContainerSpec> {
    let image = busybox::ensure(host.images(), &"busybox".parse()?)?;
    Ok(ContainerSpec {
        limits: CgroupLimits {
            memory_max_bytes: Some(Limit::At(64 << 20)),
            memory_swap_max_bytes: Some(Limit::At(0)),
            cpu: Some(CpuQuota::cores(0.5)?),
            pids_max: Some(Limit::At(32)),
            ..CgroupLimits::default()
        },
        ..ContainerSpec::new(name.parse()?, image.name).in_network("lan".parse()?)
    })
}

/// Writes a file of so many lines on the container's own disk, safely, and returns its checksum.
pub(crate) async fn fill(host: &Host, name: &ContainerName, lines: u32) -> Result<String> {
    let script = format!("seq 1 {lines} > /srv/data && hostname >> /srv/data && sync && sha256sum /srv/data");
    sh(host, name, &script).await
}

/// Notes, in a way that a power cut cannot halve, what must be found again.
pub(crate) fn record(host: &Host, info: &ContainerInfo, sum: &str) -> Result {
    let path = expected(host, info.spec.name.as_str());
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(format!("{} {:?} {sum}", info.id, info.address()).as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, &path)?;
    Ok(File::open(host.paths().prefix())?.sync_all()?)
}

/// From here on it may be gone.
pub(crate) fn forget(host: &Host, name: &str) -> Result {
    fs::remove_file(expected(host, name))?;
    Ok(File::open(host.paths().prefix())?.sync_all()?)
}

/// Both run, are the same containers, and find their ways out.
pub(crate) async fn check(host: &Host) -> Result {
    for name in NAMES {
        is_as_recorded(host, name).await?;
        sh(host, &name.parse()?, "ping -c 1 -w 20 10.77.0.1 && ping -c 1 -w 20 192.0.2.2").await?;
    }
    Ok(())
}

/// It runs with its limits, and is the container that was noted, with its address and its data.
pub(crate) async fn is_as_recorded(host: &Host, name: &str) -> Result {
    let wanted = fs::read_to_string(expected(host, name))?;
    let parsed: ContainerName = name.parse()?;
    let info = host.get(&parsed)?;
    let runtime = host.runtime(&parsed)?;
    if runtime.state()? != State::Running {
        return Err(format!("`{name}` is {:?}", runtime.state()?).into());
    }
    runtime.payload().verify(&info.spec.limits)?;
    let sum = sh(host, &parsed, "sha256sum /srv/data").await?;
    let found = format!("{} {:?} {sum}", info.id, info.address());
    if found != wanted {
        return Err(format!("`{name}` was {wanted}, is {found}").into());
    }
    Ok(())
}

/// Where it is noted; its presence says that the container must be there.
pub(crate) fn expected(host: &Host, name: &str) -> PathBuf {
    host.paths().prefix().join(format!("expected-{name}"))
}
