//! The kernel's first move of a process from one control group to another waits for an RCU grace period, up to 15 ms;
//! those that follow within some milliseconds do not wait (`cgroup_threadgroup_rwsem` in `kernel/cgroup/cgroup.c`).
//! `lxc-start` moves its monitor first thing, and so waits. Begun earlier, this wait runs beside other preparations.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use crate::cgroup::{Hierarchies, Version};
use crate::error::Result;
use crate::lxc::LxcTarget;
use crate::sys::{file, process};

impl LxcTarget {
    /// Call it when a launch begins, before volumes, mounts and links are made: a
    /// [`Container::start`](crate::lxc::Container::start) some 5 to 20 ms later takes up to 10 ms less. It returns at once;
    /// a thread makes a child that enters the control group it is in already, and ends. Nothing depends on it, and
    /// nothing is told when it does not work.
    pub fn hasten(&self) {
        let hierarchies = self.hierarchies.clone();
        let work = move || {
            if let Err(error) = touch(&hierarchies) {
                tracing::debug!(%error, "no early wait for control groups");
            }
        };
        // Without a thread there is nothing to be won.
        let _ = thread::Builder::new().name("docklet-hasten".to_owned()).stack_size(128 << 10).spawn(work);
    }
}

fn touch(hierarchies: &Hierarchies) -> Result<()> {
    let text = file::read(Path::new("/proc/thread-self/cgroup"))?;
    let Some(procs) = own_procs(&text, hierarchies) else { return Ok(()) };
    let procs = fs::File::options()
        .write(true)
        .open(&procs)
        .map_err(|e| crate::Error::os("open", procs.display(), e))?;
    process::enter_and_end(procs.as_fd())
}

/// The process list of the group that this thread, and so a child of it, is in: any hierarchy does.
fn own_procs(text: &str, hierarchies: &Hierarchies) -> Option<PathBuf> {
    let hierarchy = hierarchies.mounts().iter().max_by_key(|hierarchy| hierarchy.version == Version::V2)?;
    text.lines().find_map(|line| {
        // "4:memory:/a/b", "0::/a/b"
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let own = match hierarchy.version {
            Version::V2 => controllers.is_empty(),
            Version::V1 => controllers.split(',').eq(hierarchy.controllers.iter().map(String::as_str)),
        };
        // A group outside of this cgroup namespace has no path here.
        let path = path.strip_prefix('/').filter(|path| own && !path.starts_with(".."))?;
        Some(hierarchy.mount.join(path).join("cgroup.procs"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::HierarchyProbe;

    #[test]
    fn the_own_group_is_found() {
        let hierarchies = |mountinfo: &str| {
            Hierarchies::from_probe(HierarchyProbe {
                mountinfo: mountinfo.to_owned(),
                controllers: "cpu\t1\t1\t1\ncpuacct\t1\t1\t1\n".to_owned(),
                ..HierarchyProbe::default()
            })
        };
        let v1 = "3 3 0:1 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let v2 = "4 3 0:9 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let text = "8:pids:/x\n3:cpu,cpuacct:/user/a\n0::/init.scope\n";
        for (mountinfo, text, expected) in [
            (v1, text, Some("/sys/fs/cgroup/cpu,cpuacct/user/a/cgroup.procs")),
            (v2, text, Some("/sys/fs/cgroup/unified/init.scope/cgroup.procs")),
            (v2, "0::/\n", Some("/sys/fs/cgroup/unified/cgroup.procs")),
            (v2, "0::/../other\n", None),
            (v2, "8:pids:/x\n", None),
        ] {
            assert_eq!(
                own_procs(text, &hierarchies(mountinfo)).as_deref(),
                expected.map(Path::new),
                "{text}"
            );
        }
        // On this host it works as it is.
        touch(&Hierarchies::detect().unwrap()).unwrap();
    }
}
