//! What of LXC and of control groups the report tells (`man 1 lxc-info`).

use std::fs;
use std::path::Path;

use super::{Check, check};
use crate::cgroup::{CgroupLimits, Hierarchies, Version};
use crate::error::{Error, Result};
use crate::host::ids;
use crate::lxc::{ConfigPath, LxcConfig, LxcTarget, MountEntry, Namespace, NamespaceSource};
use crate::name::ContainerName;
use crate::net::NetworkNamespace;
use crate::paths::Paths;
use crate::storage::remove_tree;
use crate::sys::directory::make_directory;
use crate::sys::tool::{self, Limit as TimeLimit};

/// The limits that everybody needs, one by one.
const LIMITS: [(&str, &str); 4] = [
    ("memory limit", r#"{"memory_max_bytes": 67108864}"#),
    ("memory and swap limit", r#"{"memory_max_bytes": 67108864, "memory_swap_max_bytes": 0}"#),
    ("cpu limit", r#"{"cpu": {"quota_us": 50000}}"#),
    ("process limit", r#"{"pids_max": 64}"#),
];
/// Those that only who asks for them needs.
const FURTHER_LIMITS: [(&str, &str); 8] = [
    ("cpu weight", r#"{"cpu_weight": 50}"#),
    ("cpu burst", r#"{"cpu": {"quota_us": 50000, "burst_us": 1000}}"#),
    ("processors", r#"{"cpus": "0"}"#),
    ("memory high limit", r#"{"memory_high_bytes": 67108864}"#),
    ("memory oom group", r#"{"memory_oom_group": true}"#),
    ("io limit", r#"{"io": {"volume": {"read_bytes_per_second": 1048576}}}"#),
    ("io weight", r#"{"io_weight": 50}"#),
    ("huge page limit", r#"{"hugetlb_max_bytes": {"2MB": 0}}"#),
];

/// Reads a configuration, and starts nothing.
const ASKED: &str = "lxc-info";

pub(super) fn groups_and_lxc(paths: &Paths) -> Vec<Check> {
    let hierarchies = match Hierarchies::detect() {
        Ok(hierarchies) => hierarchies,
        Err(error) => return vec![check("control groups", Err(error))],
    };
    let mut checks = vec![check("control groups", Ok(shown(&hierarchies)))];
    let mut possible = Vec::new();
    for (subject, text) in LIMITS {
        let result = probe_limit(text, &hierarchies);
        possible.extend(result.is_ok().then_some(text));
        checks.push(check(subject, result));
    }
    for (subject, text) in FURTHER_LIMITS {
        checks.push(check(subject, probe_limit(text, &hierarchies)).optional());
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

fn parse_limit(text: &str) -> Result<CgroupLimits> {
    serde_json::from_str(text).map_err(|error| Error::invalid("limit", text, error.to_string()))
}

fn probe_limit(text: &str, hierarchies: &Hierarchies) -> Result<String> {
    parse_limit(text)?.check(hierarchies).map(|()| "can be limited".to_owned())
}

/// Has liblxc read a configuration with every kind of key that containers have here.
fn keys(paths: &Paths, target: &LxcTarget, limits: &[&str]) -> Result<String> {
    let name = ContainerName::new("check")?;
    let root = paths.containers().join("check");
    let namespace = root.join("netns");
    let mut config = LxcConfig::new(&name, root.join("root"))?;
    let mut all = CgroupLimits::default();
    for limits in limits {
        let limits = parse_limit(limits)?;
        all.memory_max_bytes = all.memory_max_bytes.or(limits.memory_max_bytes);
        all.memory_swap_max_bytes = all.memory_swap_max_bytes.or(limits.memory_swap_max_bytes);
        all.cpu = all.cpu.or(limits.cpu);
        all.pids_max = all.pids_max.or(limits.pids_max);
    }
    config.limits(&all).environment("CHECK", "1")?.mount(MountEntry::bind("/proc", "/mnt")?.read_only())?;
    config.cgroup_dir("docklet/check")?.join_network(&namespace)?;
    config.id_map = Some(ids::map(0)?);
    let owner = ConfigPath::new(NetworkNamespace::owner_path(&namespace))?;
    config.namespaces.insert(Namespace::User, NamespaceSource::Pinned(owner));
    config.process.no_new_privileges = true;
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
        for (subject, text) in LIMITS.into_iter().chain(FURTHER_LIMITS) {
            assert_ne!(parse_limit(text).expect(subject), CgroupLimits::default(), "{subject}");
        }
    }
}
