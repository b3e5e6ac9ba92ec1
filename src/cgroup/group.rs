//! One group, in every hierarchy at once: making, finding and removing its directories.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::controller::{Controller, Version};
use super::hierarchy::{Hierarchies, Hierarchy, Layout};
use super::limits::CgroupLimits;
use super::path::CgroupPath;
use super::settings::settings;
use super::walk;
use crate::error::{Error, Result};
use crate::sys::wait::until_true;
use crate::sys::{file, process};

/// How long [`Cgroup::remove`] waits for processes that are already dying.
const REMOVE_PATIENCE: Duration = Duration::from_secs(2);

/// How many groups, and how many levels of them, a container may have in v2: far more than systemd makes, and than containers inside
/// take. Each takes memory of the kernel's, and makes longer what looks at all of them.
const BENEATH: [(&str, &str); 2] = [("cgroup.max.descendants", "10000"), ("cgroup.max.depth", "64")];

/// A control group by its path, the same in each hierarchy. It need not exist.
///
/// Nothing happens when it is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    path: CgroupPath,
}

impl Cgroup {
    /// The group at `path` beneath the root of each hierarchy: `docklet/TAG/ID/payload`.
    ///
    /// # Errors
    /// [`Error::Invalid`] unless `path` has at least two components, the first is `docklet`, and each is a plain name
    /// of letters, digits, `-`, `_` and `.`: nothing else on the host is ever touched.
    pub fn new(hierarchies: &Hierarchies, path: impl Into<String>) -> Result<Self> {
        Ok(Self { hierarchies: hierarchies.clone(), path: CgroupPath::new(path)? })
    }

    /// The path, relative to each hierarchy's root.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.as_str()
    }

    /// The group beneath this one that is called `name`.
    ///
    /// # Errors
    /// [`Error::Invalid`] as [`Cgroup::new`].
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::new(&self.hierarchies, format!("{}/{name}", self.path()))
    }

    /// The hierarchies it is in.
    #[must_use]
    pub fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// Makes the group, and those above it, in every hierarchy. In v2 the controllers are turned on for it.
    ///
    /// # Errors
    /// [`Error::Busy`] if a v2 group above it has processes, which cannot have controllers for its children, too;
    /// [`Error::Os`] naming the directory or file otherwise.
    pub fn ensure(&self) -> Result<()> {
        let _span = tracing::debug_span!("cgroup_ensure", path = %self.path()).entered();
        for hierarchy in self.hierarchies.mounts() {
            self.ensure_in(hierarchy)?;
        }
        Ok(())
    }

    /// Turns on the controllers of v2 that `limits` needs for the group, which may not be there yet: on a hybrid host LXC does
    /// not do it.
    ///
    /// # Errors
    /// As [`Cgroup::ensure`].
    pub(crate) fn delegate_for(&self, limits: &CgroupLimits) -> Result<()> {
        let (Some(root), Layout::Hybrid) = (self.hierarchies.unified(), self.hierarchies.layout()) else {
            return Ok(());
        };
        let mut wanted = settings(limits, &self.hierarchies)?;
        wanted.retain(|setting| setting.version == Version::V2);
        if wanted.is_empty() {
            return Ok(());
        }
        let wanted: Vec<_> = wanted.into_iter().map(|setting| setting.controller).collect();
        let (parent, _) = self.path().rsplit_once('/').unwrap_or((self.path(), ""));
        make_dirs(root, parent, |dir| delegate(dir, &wanted))?;
        delegate(&root.join(self.path()), &wanted)
    }

    /// Makes the group only where processes are found again: in v2, or on a host without it in the v1 hierarchy that
    /// can freeze them (else the one that counts them). This is the cheap one: one `mkdir` for each component.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the host has no such hierarchy; [`Error::Os`] otherwise.
    pub fn ensure_tracking(&self) -> Result<()> {
        let hierarchy = self.tracking()?;
        make_dirs(&hierarchy.mount, self.path(), |_| Ok(()))
    }

    /// Bounds how many groups can be made beneath it, where it is in v2. v1 has nothing like it.
    ///
    /// # Errors
    /// [`Error::Os`] naming the file.
    pub(crate) fn bound_beneath(&self) -> Result<()> {
        let Some(root) = self.hierarchies.unified() else { return Ok(()) };
        let dir = root.join(self.path());
        BENEATH.iter().try_for_each(|(name, most)| file::write_interface(&dir.join(name), most))
    }

    /// Whether it exists in any hierarchy.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.dirs().any(|dir| dir.is_dir())
    }

    /// The names of the groups directly beneath it in any hierarchy, sorted. A group that does not exist has none.
    ///
    /// # Errors
    /// [`Error::Os`] if a directory cannot be read.
    pub fn children(&self) -> Result<Vec<String>> {
        let mut names = BTreeSet::new();
        for dir in self.dirs() {
            let failed = |error| Error::os("getdents", dir.display(), error);
            let Some(entries) = walk::gone_is_none(fs::read_dir(&dir)).map_err(failed)? else { continue };
            for entry in entries {
                let Some(entry) = walk::gone_is_none(entry).map_err(failed)? else { continue };
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    names.insert(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Removes the group and those beneath it from every hierarchy. One that is gone is removed. Processes that are
    /// dying are waited for; living ones are not killed, see [`Cgroup::kill`].
    ///
    /// # Errors
    /// [`Error::Busy`] naming processes that are still in it after two seconds; [`Error::Os`] otherwise.
    pub fn remove(&self) -> Result<()> {
        let _span = tracing::debug_span!("cgroup_remove", path = %self.path()).entered();
        let deadline = Instant::now() + REMOVE_PATIENCE;
        for hierarchy in self.hierarchies.mounts() {
            if !until_true(deadline, || walk::remove(&hierarchy.mount, self.path()))? {
                return Err(self.busy(&format!("not empty in {}", hierarchy.mount.display())));
            }
        }
        Ok(())
    }

    /// Removes this one directory in each hierarchy where nothing is in it, neither process nor group: for a parent
    /// that others may use. Says whether it is gone everywhere.
    ///
    /// # Errors
    /// [`Error::Os`] if the kernel refuses for another reason.
    pub fn remove_unused(&self) -> Result<bool> {
        let mut gone = true;
        for dir in self.dirs() {
            gone &= walk::remove_one(&dir)?;
        }
        Ok(gone)
    }

    /// Its directory in each hierarchy, there or not.
    pub(super) fn dirs(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.mounts().iter().map(|hierarchy| hierarchy.mount.join(self.path()))
    }

    /// Its directory in the hierarchy that serves `controller`.
    pub(super) fn dir(&self, controller: Controller) -> Option<PathBuf> {
        Some(self.hierarchies.serving(controller)?.mount.join(self.path()))
    }

    /// Its directory in v2.
    pub(super) fn unified_dir(&self) -> Option<PathBuf> {
        Some(self.hierarchies.unified()?.join(self.path()))
    }

    /// Its directory in the v1 hierarchy of `controller`.
    pub(super) fn v1_dir(&self, controller: Controller) -> Option<PathBuf> {
        Some(self.hierarchies.v1_mount(controller.as_str())?.join(self.path()))
    }

    pub(super) fn not_found(&self) -> Error {
        Error::NotFound { what: format!("cgroup `{}`", self.path()) }
    }

    /// The error for what could not be emptied or stopped in time.
    pub(super) fn busy(&self, reason: &str) -> Error {
        let mut reason = reason.to_owned();
        for pid in self.processes().unwrap_or_default().into_iter().take(8) {
            reason.push_str(&format!("; process {}", process::shown(pid)));
        }
        Error::Busy { what: format!("cgroup `{}`", self.path()), reason }
    }

    /// The controllers that limit groups here, and are v2's.
    fn unified_controllers(&self) -> Vec<Controller> {
        let is_unified = |controller: &Controller| {
            self.hierarchies.serving(*controller).is_some_and(|found| found.version == Version::V2)
        };
        Controller::LIMITING.into_iter().filter(is_unified).collect()
    }

    fn ensure_in(&self, hierarchy: &Hierarchy) -> Result<()> {
        match hierarchy.version {
            Version::V1 if hierarchy.has("cpuset") => {
                make_dirs(&hierarchy.mount, self.path(), inherit_cpuset)
            }
            Version::V1 => make_dirs(&hierarchy.mount, self.path(), |_| Ok(())),
            Version::V2 => {
                let wanted = self.unified_controllers();
                make_dirs(&hierarchy.mount, self.path(), |dir| delegate(dir, &wanted))
            }
        }
    }
}

/// Makes each directory of `path` beneath `root`, and calls `prepare` with each that was made, or with its parent's
/// controllers still to be turned on.
fn make_dirs(root: &Path, path: &str, prepare: impl Fn(&Path) -> Result<()>) -> Result<()> {
    // Another process may remove an unused parent between two steps: then from the top again.
    for _ in 0..8 {
        if try_make_dirs(root, path, &prepare)? {
            return Ok(());
        }
    }
    Err(Error::Busy { what: format!("cgroup `{path}`"), reason: "its parents are being removed".to_owned() })
}

fn try_make_dirs(root: &Path, path: &str, prepare: &impl Fn(&Path) -> Result<()>) -> Result<bool> {
    let mut dir = root.to_owned();
    for name in path.split('/') {
        dir.push(name);
        match fs::create_dir(&dir) {
            Ok(()) => tracing::debug!(dir = %dir.display(), "made cgroup"),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::os("mkdir", dir.display(), error)),
        }
        match prepare(&dir) {
            Ok(()) => {}
            Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV)) && !dir.is_dir() => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// A new v1 cpuset has no processors and no memory nodes, and nothing can enter it then: it gets its parent's.
fn inherit_cpuset(dir: &Path) -> Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    for name in ["cpuset.cpus", "cpuset.mems"] {
        if file::read(&dir.join(name))?.trim().is_empty() {
            file::write_interface(&dir.join(name), file::read(&parent.join(name))?.trim())?;
        }
    }
    Ok(())
}

/// Turns the controllers on that `dir` gets from its parent.
fn delegate(dir: &Path, wanted: &[Controller]) -> Result<()> {
    let Some(parent) = dir.parent() else { return Ok(()) };
    if wanted.is_empty() {
        return Ok(());
    }
    let control = parent.join("cgroup.subtree_control");
    let on = file::read(&control)?;
    for controller in wanted.iter().filter(|c| !on.split_whitespace().any(|name| name == c.as_str())) {
        file::write_interface(&control, &format!("+{controller}")).map_err(|error| match error.errno() {
            Some(libc::EBUSY) => Error::Busy {
                what: format!("cgroup {}", parent.display()),
                reason: "it has processes of its own, so it cannot limit groups beneath it".to_owned(),
            },
            _ => error,
        })?;
        tracing::debug!(dir = %parent.display(), %controller, "turned on controller");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn only_our_own_paths_are_taken() {
        let host = Hierarchies::from_probe(samples::hybrid());
        for (bad, rule) in [
            ("", "begin with 'docklet'"),
            ("/", "begin with 'docklet'"),
            ("/docklet/x", "begin with 'docklet'"),
            ("system.slice/x", "begin with 'docklet'"),
            ("docklets/x", "begin with 'docklet'"),
            ("../docklet/x", "begin with 'docklet'"),
            ("docklet", "at least two components"),
            ("docklet/", "1 to 255 bytes"),
            ("docklet//x", "1 to 255 bytes"),
            ("docklet/x/", "1 to 255 bytes"),
            ("docklet/..", "no component begins with '.'"),
            ("docklet/x/../../system.slice", "no component begins with '.'"),
            ("docklet/.", "no component begins with '.'"),
            ("docklet/a b", "only letters, digits"),
            ("docklet/a\nb", "only letters, digits"),
            ("docklet/ä", "only letters, digits"),
        ] {
            let message = Cgroup::new(&host, bad).unwrap_err().to_string();
            assert!(message.contains(rule), "{bad}: {message}");
        }
        let message = Cgroup::new(&host, format!("docklet/{}", "x".repeat(256))).unwrap_err().to_string();
        assert!(message.contains("1 to 255 bytes"), "{message}");
        let group = Cgroup::new(&host, "docklet/0a/payload").unwrap();
        assert_eq!(group.child("inner").unwrap().path(), "docklet/0a/payload/inner");
        assert!(group.child("..").is_err());
    }
}
