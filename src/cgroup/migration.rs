//! Beginning ahead of time what every move between control groups waits for. See `man 7 cgroups` on `/proc/PID/cgroup`.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::controller::Version;
use super::hierarchy::Hierarchies;
use super::membership::memberships;
use crate::error::{Error, Result};
use crate::sys::{file, migration};

/// Begins the kernel's wait before a process can change its group, and returns when it is over: LXC moves its monitor through each
/// hierarchy, and stands still for it in the first.
///
/// # Errors
/// [`Error::NotFound`] if this process is in no group that is mounted here; [`Error::Os`].
pub(crate) fn wait_for_migrations(hierarchies: &Hierarchies) -> Result<()> {
    let own = file::read(Path::new("/proc/thread-self/cgroup"))?;
    let group = group_of(&own, hierarchies)
        .ok_or_else(|| Error::NotFound { what: "this process's control group".to_owned() })?;
    let procs = group.join("cgroup.procs");
    let opened = File::options().write(true).open(&procs);
    let opened = opened.map_err(|e| Error::os("open", procs.display(), e))?;
    migration::wait_ahead(&opened).map_err(|e| Error::os("write", procs.display(), e))
}

/// The directory of a group that the process with the memberships `own` is in.
fn group_of(own: &str, hierarchies: &Hierarchies) -> Option<PathBuf> {
    hierarchies.mounts().iter().find_map(|hierarchy| {
        let own = memberships(own).find(|own| match hierarchy.version {
            Version::V1 => own.controllers.split(',').any(|name| hierarchy.has(name)),
            Version::V2 => own.controllers.is_empty(),
        })?;
        Some(hierarchy.mount.join(own.group.trim_start_matches('/')))
    })
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn the_own_group_is_found_in_whatever_hierarchy_is_there() {
        let group = |own: &str, probe| group_of(own, &Hierarchies::from_probe(probe));
        let found = group("0::/system.slice/docklet.service\n", samples::v2());
        assert_eq!(found, Some(PathBuf::from("/sys/fs/cgroup/system.slice/docklet.service")));
        let found = group("7:cpu,cpuacct:/a\n1:name=systemd:/init.scope\n", samples::v1());
        assert_eq!(found, Some(PathBuf::from("/sys/fs/cgroup/systemd/init.scope")));
        assert_eq!(group("0::/\n", samples::v1()), None);
        assert_eq!(group("", samples::v2()), None);
    }
}
