//! Volumes that are being made or removed, and the projects that they have (`man 2 quotactl`).
//!
//! A project is taken by making the half of its number, and given back by removing it.

use std::fs::{self, File};
use std::ops::RangeInclusive;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::storage::volume::directory::PoolDirectory;
use crate::sys::directory::{entries, make_directory, remove_directory};
use crate::sys::lock::FileLock;
use crate::sys::quota::{ProjectQuotas, set_project};
use crate::sys::tree::remove_tree;
use crate::sys::wait;

/// The projects that volumes are given, the lowest free one first.
pub(super) const PROJECTS: RangeInclusive<u32> = 0x646b_0000..=0x646b_ffff;
/// xfs takes a removed file apart later, and counts it until then.
const UNCOUNTED_PATIENCE: Duration = Duration::from_secs(2);

/// The project that a directory is called by.
pub(super) fn project_named(name: &str) -> Option<u32> {
    name.parse().ok().filter(|project| PROJECTS.contains(project) && project.to_string() == name)
}

/// The halves of a pool's volumes.
#[derive(Debug)]
pub(super) struct Halves<'a> {
    pub(super) pool: &'a PoolDirectory,
    pub(super) quotas: ProjectQuotas,
}

impl Halves<'_> {
    fn directory(&self) -> PathBuf {
        self.pool.path().join("halves")
    }

    pub(super) fn path(&self, project: u32) -> PathBuf {
        self.directory().join(project.to_string())
    }

    /// Makes an empty half in a project of its own, none of `taken`. The caller holds the pool's lock.
    pub(super) fn begin(&self, taken: &[u32]) -> Result<u32> {
        for project in PROJECTS {
            let half = self.path(project);
            if taken.contains(&project) || half.exists() || !self.quotas.account(project)?.is_unused {
                continue;
            }
            match self.take(project) {
                Ok(true) => return Ok(project),
                Ok(false) => {}
                Err(error) => {
                    // What cannot be removed now is left to `tidy`. The first error is the one to tell.
                    let _ = self.discard(project);
                    return Err(error);
                }
            }
        }
        Err(Error::Busy {
            what: format!("volume pool `{}`", self.pool.path().display()),
            reason: format!("the projects {PROJECTS:?} of its file system are all in use"),
        })
    }

    /// False if somebody else took the project at the same moment.
    fn take(&self, project: u32) -> Result<bool> {
        let half = self.path(project);
        make_directory(&half)?;
        let shown = half.join(project.to_string());
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&shown)
            .map_err(|e| Error::os("mkdir", shown.display(), e))?;
        let opened = File::open(&shown).map_err(|e| Error::os("open", shown.display(), e))?;
        set_project(&opened, project, &shown)?;
        // Another pool on this file system has another lock. If both found the project free, one at least sees the other's
        // directory in it, before it gives it a limit.
        if self.quotas.account(project)?.inodes == 1 {
            return Ok(true);
        }
        remove_directory(&shown)?;
        remove_directory(&half)?;
        Ok(false)
    }

    /// Removes a half, and gives its project back when nothing is in it any more. The caller holds the half's lock, or the
    /// pool's.
    pub(super) fn discard(&self, project: u32) -> Result<()> {
        let half = self.path(project);
        remove_tree(&half, Path::new(&project.to_string()))?;
        let empty = wait::until(wait::deadline(UNCOUNTED_PATIENCE), || {
            let account = self.quotas.account(project)?;
            Ok::<_, Error>((account.inodes == 0).then_some(account))
        })?;
        // Else somebody has a removed file open, has moved files elsewhere, or is a pool that has the project: the limit is
        // not taken off theirs, and a later `tidy` goes on.
        let Some(account) = empty else { return Ok(()) };
        // While there is a limit nobody else takes it; without one it may be somebody else's from now on.
        if account.limit_bytes > 0 {
            self.quotas.set_limit(project, 0, 0)?;
        }
        remove_tree(&self.directory(), Path::new(&project.to_string()))
    }

    /// Discards what nobody is at, and says what it was.
    pub(super) fn tidy(&self) -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for name in entries(&self.directory())? {
            let Some(project) = name.to_str().and_then(project_named) else { continue };
            let half = self.path(project);
            // Makers hold the pool's lock, removers the half's.
            let pool = self.pool.lock()?;
            let _lock = match FileLock::acquire_existing(&half, Duration::ZERO, "a half of a volume") {
                Ok(Some(lock)) => lock,
                Ok(None) | Err(Error::Busy { .. }) => continue,
                Err(error) => return Err(error),
            };
            drop(pool);
            self.discard(project)?;
            if !half.exists() {
                removed.push(format!("half a volume {}", half.display()));
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_are_of_one_range() {
        assert_eq!(project_named("1684733952"), Some(*PROJECTS.start()));
        assert_eq!(project_named("1684799487"), Some(*PROJECTS.end()));
        for other in ["1684733951", "1684799488", "01684733952", "+1684733952", "0", "", "x", "lost+found"] {
            assert_eq!(project_named(other), None, "{other}");
        }
    }
}
