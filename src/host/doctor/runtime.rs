//! What of LXC and of control groups the report tells (`man 1 lxc-info`).

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{Check, check};
use crate::cgroup::{
    CgroupLimits, CpuQuota, CpuSet, CpuWeight, Hierarchies, IoDevice, IoLimits, IoWeight, Limit, Version,
};
use crate::error::{Error, Result};
use crate::host::configuration::configuration;
use crate::host::directory::ContainerDirectory;
use crate::host::{ContainerSpec, Privilege, ids};
use crate::lxc::{LxcTarget, MountEntry};
use crate::name::ContainerName;
use crate::paths::Paths;
use crate::storage::remove_tree;
use crate::sys::directory::make_directory;
use crate::sys::tool::{self, Limit as TimeLimit};

/// Puts a limit of one kind among others.
type Limiting = fn(&mut CgroupLimits) -> Result<()>;

/// The limits that everybody needs, one by one.
const LIMITS: [(&str, Limiting); 4] = [
    ("memory limit", |limits| put(&mut limits.memory_max_bytes, Limit::At(64 << 20))),
    ("memory and swap limit", |limits| {
        put(&mut limits.memory_max_bytes, Limit::At(64 << 20))?;
        put(&mut limits.memory_swap_max_bytes, Limit::At(0))
    }),
    ("cpu limit", |limits| put(&mut limits.cpu, CpuQuota::cores(0.5)?)),
    ("process limit", |limits| put(&mut limits.pids_max, Limit::At(64))),
];
/// Those that only who asks for them needs.
const FURTHER_LIMITS: [(&str, Limiting); 8] = [
    ("cpu weight", |limits| put(&mut limits.cpu_weight, CpuWeight::new(50)?)),
    ("cpu burst", |limits| put(&mut limits.cpu, CpuQuota::cores(0.5)?.with_burst(Duration::from_millis(1))?)),
    ("processors", |limits| put(&mut limits.cpus, CpuSet::new([0])?)),
    ("memory high limit", |limits| put(&mut limits.memory_high_bytes, Limit::At(64 << 20))),
    ("memory oom group", |limits| put(&mut limits.memory_oom_group, true)),
    ("io limit", |limits| {
        let read = IoLimits { read_bytes_per_second: Some(Limit::At(1 << 20)), ..IoLimits::default() };
        limits.io.insert(IoDevice::Volume, read);
        Ok(())
    }),
    ("io weight", |limits| put(&mut limits.io_weight, IoWeight::new(50)?)),
    ("huge page limit", |limits| {
        limits.hugetlb_max_bytes.insert("2MB".parse()?, Limit::At(0));
        Ok(())
    }),
];

fn put<T>(limit: &mut Option<T>, value: T) -> Result<()> {
    *limit = Some(value);
    Ok(())
}

/// Reads a configuration, and starts nothing.
const ASKED: &str = "lxc-info";

pub(super) fn groups_and_lxc(paths: &Paths) -> Vec<Check> {
    let hierarchies = match Hierarchies::detect() {
        Ok(hierarchies) => hierarchies,
        Err(error) => return vec![check("control groups", Err(error))],
    };
    let mut checks = vec![check("control groups", Ok(shown(&hierarchies)))];
    let mut possible = Vec::new();
    for (subject, limiting) in LIMITS {
        let result = probe_limit(limiting, &hierarchies);
        possible.extend(result.is_ok().then_some(limiting));
        checks.push(check(subject, result));
    }
    for (subject, limiting) in FURTHER_LIMITS {
        checks.push(check(subject, probe_limit(limiting, &hierarchies)).optional());
    }
    let target = LxcTarget::detect(&hierarchies);
    let keys = target.as_ref().ok().map(|target| {
        let keys = check("lxc keys", keys(paths, target, &possible));
        // Containers do without the program that is asked.
        if tool::find(ASKED).is_some() { keys } else { keys.optional() }
    });
    checks.push(check("lxc", target.map(|target| format!("liblxc {}", target.version))));
    checks.extend(keys);
    checks
}

/// The layout, and which controllers are where.
fn shown(hierarchies: &Hierarchies) -> String {
    let mounts = hierarchies.mounts().iter().map(|hierarchy| {
        let version = if hierarchy.version == Version::V1 { "v1" } else { "v2" };
        let controllers = hierarchy.controllers.join(",");
        let controllers = if controllers.is_empty() { "no controller" } else { &controllers };
        format!("{controllers} ({version}, {})", hierarchy.mount.display())
    });
    format!("{}; {}", hierarchies.layout(), mounts.collect::<Vec<_>>().join("; "))
}

fn probe_limit(limiting: Limiting, hierarchies: &Hierarchies) -> Result<String> {
    let mut limits = CgroupLimits::default();
    limiting(&mut limits)?;
    limits.check(hierarchies).map(|()| "can be limited".to_owned())
}

/// Has liblxc read a configuration with every kind of key that containers have here.
fn keys(paths: &Paths, target: &LxcTarget, possible: &[Limiting]) -> Result<String> {
    let name = ContainerName::new("check")?;
    let mut limits = CgroupLimits::default();
    possible.iter().try_for_each(|limiting| limiting(&mut limits))?;
    let mut spec = ContainerSpec::new(name.clone(), "check".parse()?);
    spec.environment.insert("CHECK".to_owned(), "1".to_owned());
    spec.mounts.push(MountEntry::bind("/proc", "/mnt")?.read_only());
    spec.privilege = Privilege::Unprivileged { no_new_privileges: true };
    let directory = ContainerDirectory::rehearsed(paths);
    let ids = ids::map(0)?;
    let mut config = configuration(&spec, &directory.root(), &directory, &limits, Some(&ids))?;
    config.cgroup_dir("docklet/check")?;
    let text = config.render(target)?;
    let known = format!("all {} that containers have are known", text.lines().count());
    let locks = paths.locks();
    let probe = format!(".probe-{}-lxc", std::process::id());
    let result = read_by_liblxc(&locks.join(&probe), &name, &text, target);
    remove_tree(&locks, Path::new(&probe))?;
    crate::lxc::remove_lock(&locks.join(&probe), name.as_str())?;
    result.map(|()| known)
}

fn read_by_liblxc(lxc_path: &Path, name: &ContainerName, text: &str, target: &LxcTarget) -> Result<()> {
    let directory = lxc_path.join(name.as_str());
    make_directory(lxc_path)?;
    make_directory(&directory)?;
    let (config, log) = (directory.join("config"), directory.join("log"));
    fs::write(&config, text).map_err(|e| Error::os("write", config.display(), e))?;
    let mut command = tool::command(ASKED).ok_or_else(|| Error::Unsupported {
        what: "asking liblxc what it knows".to_owned(),
        needs: format!("the program `{ASKED}` is missing: install LXC (Debian: apt install lxc)"),
    })?;
    command
        .arg("-P")
        .arg(lxc_path)
        .args(["-n", name.as_str(), "-c", "lxc.uts.name", "-l", "ERROR", "-o"])
        .arg(&log);
    let output = tool::output(&mut command, TimeLimit::QUICK)?;
    if output.status.success() {
        return Ok(());
    }
    let log = fs::read_to_string(&log).unwrap_or_default();
    let reason = log.lines().last().map_or_else(|| tool::said(&output.stderr), str::to_owned);
    Err(Error::Unsupported {
        what: format!("a container's configuration, of which liblxc {} says: {reason}", target.version),
        needs: "install a liblxc that knows that key (Debian 12 and later: apt install lxc)".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_that_are_looked_at_are_limits() {
        for (subject, limiting) in LIMITS.into_iter().chain(FURTHER_LIMITS) {
            let mut limits = CgroupLimits::default();
            limiting(&mut limits).expect(subject);
            assert_ne!(limits, CgroupLimits::default(), "{subject}");
        }
    }
}
