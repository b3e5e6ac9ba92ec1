//! Which processes are in a group, and how one enters it.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use super::controller::Version;
use super::group::Cgroup;
use super::hierarchy::Hierarchy;
use super::walk;
use crate::error::{Error, Result};

impl Cgroup {
    /// The group's directory in v2, for `clone3` with `CLONE_INTO_CGROUP`. `None` on a host without v2: enter by
    /// [`Cgroup::procs_file`] there.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the group was not made.
    pub fn dir_for_clone(&self) -> Result<Option<OwnedFd>> {
        let Some(root) = self.hierarchies().unified() else { return Ok(None) };
        let dir = root.join(self.path());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(&dir, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(rustix::io::Errno::NOENT) => Err(self.not_found()),
            Err(error) => Err(Error::os("open", dir.display(), error)),
        }
    }

    /// The file that a process writes its id (or `0`) into to enter the group where [`Cgroup::ensure_tracking`]
    /// makes it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the host has no hierarchy to track processes in.
    pub fn procs_file(&self) -> Result<PathBuf> {
        Ok(self.tracking()?.mount.join(self.path()).join("cgroup.procs"))
    }

    /// The processes in the group and beneath it, in any hierarchy, by their ids as the caller's namespace sees them.
    ///
    /// # Errors
    /// [`Error::Os`] if a directory cannot be read.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let mut found = BTreeSet::new();
        for dir in self.dirs() {
            walk::visit(&dir, &mut |group| walk::processes(group, &mut found))?;
        }
        Ok(found.into_iter().collect())
    }

    /// Whether a process is in the group or beneath it.
    ///
    /// # Errors
    /// [`Error::Os`] if a directory cannot be read.
    pub fn is_populated(&self) -> Result<bool> {
        if let Some(dir) = self.unified_dir()
            && walk::flag(&dir, "cgroup.events", "populated")? == Some(true)
        {
            return Ok(true);
        }
        // What entered a v1 hierarchy only is in there, too.
        Ok(!self.processes()?.is_empty())
    }

    /// The hierarchy that tells which processes belong to the group.
    pub(super) fn tracking(&self) -> Result<&Hierarchy> {
        let mounts = self.hierarchies().mounts();
        let v1 = |name| mounts.iter().find(move |hierarchy| hierarchy.has(name));
        mounts
            .iter()
            .find(|hierarchy| hierarchy.version == Version::V2)
            .or_else(|| v1("freezer"))
            .or_else(|| v1("pids"))
            .or_else(|| mounts.first())
            .ok_or_else(|| Error::Unsupported {
                what: "tracking processes".to_owned(),
                needs: "it takes a mounted cgroup hierarchy".to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::hierarchy::Hierarchies;
    use super::super::samples;
    use super::*;

    #[test]
    fn processes_are_tracked_in_v2_or_where_they_can_be_frozen() {
        let check = |probe, expected: &str| {
            let group = Cgroup::new(&Hierarchies::from_probe(probe), "docklet/x").unwrap();
            assert_eq!(group.procs_file().unwrap(), Path::new(expected));
        };
        check(samples::v2(), "/sys/fs/cgroup/docklet/x/cgroup.procs");
        check(samples::hybrid(), "/sys/fs/cgroup/unified/docklet/x/cgroup.procs");
        check(samples::v1(), "/sys/fs/cgroup/freezer/docklet/x/cgroup.procs");
    }
}
