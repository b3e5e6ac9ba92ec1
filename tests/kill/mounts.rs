//! Mounts of a container that come and go while it runs, as programs to be killed.

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;

use docklet::host::{ContainerSpec, Host};
use docklet::lxc::{MountEntry, State, Tmpfs};

use crate::containers::{Result, name, spec, with_host};
use crate::operations::scratch;

/// Beside the one that containers have at first: one of each kind that can come and go.
fn many() -> std::result::Result<Vec<MountEntry>, Box<dyn Error>> {
    let shared = scratch()?.join("shared");
    let mut mounts = spec()?.mounts;
    mounts.push(MountEntry::tmpfs(Tmpfs::new(1 << 20), "/srv/memory")?.create_dir());
    mounts.push(MountEntry::bind(&shared, "/srv/memory/mapped")?.id_mapped().recursive().create_dir());
    Ok(mounts)
}

pub(crate) fn launch() -> Result {
    let spec = ContainerSpec { mounts: many()?, ..spec()? };
    with_host(async |host| host.launch(spec).await.map(drop).map_err(Into::into))
}

pub(crate) fn add() -> Result {
    let wanted = many()?;
    with_host(async |host| host.apply_mounts(&name(), wanted).await.map(drop).map_err(Into::into))
}

pub(crate) fn take_away() -> Result {
    let wanted = spec()?.mounts;
    with_host(async |host| host.apply_mounts(&name(), wanted).await.map(drop).map_err(Into::into))
}

/// Prints "running" if the container runs with the mounts of before or after, inside and outside, as they are written down.
pub(crate) fn state() -> Result {
    with_host(async |host| {
        let info = host.get(&name())?;
        if info.state != State::Running {
            return Err(format!("it is {:?}", info.state).into());
        }
        if info.spec.mounts != many()? && info.spec.mounts != spec()?.mounts {
            return Err(format!("half changed: {:?}", info.spec.mounts).into());
        }
        check(&host, &info.spec.mounts)?;
        println!("running");
        Ok(())
    })
}

/// By the kernel's word: each once inside, and each once where it is kept ready on the host.
fn check(host: &Host, mounts: &[MountEntry]) -> Result {
    let targets = |path: &str, beneath: &str| -> std::result::Result<Vec<String>, Box<dyn Error>> {
        let text = fs::read_to_string(path)?;
        let target = |line: &str| line.split(' ').nth(4).map(str::to_owned);
        Ok(text.lines().filter_map(target).filter(|target| target.starts_with(beneath)).collect())
    };
    let init = host.runtime(&name())?.init_pid()?.ok_or("no init")?;
    let mut inside = targets(&format!("/proc/{init}/mountinfo"), "/srv/")?;
    inside.sort();
    let wanted: BTreeSet<String> = mounts.iter().map(|mount| mount.target().display().to_string()).collect();
    if !inside.iter().eq(&wanted) {
        return Err(format!("inside there is {inside:?}, not {wanted:?}").into());
    }
    let place = host.paths().containers().join(host.get(&name())?.id.as_str()).join("mounts/");
    let ready = targets("/proc/thread-self/mountinfo", &place.display().to_string())?;
    let names = fs::read_dir(&place)?.count();
    if (ready.len(), names) == (wanted.len(), wanted.len()) {
        Ok(())
    } else {
        Err(format!("kept ready are {ready:?}, {names} names, not {}", wanted.len()).into())
    }
}
