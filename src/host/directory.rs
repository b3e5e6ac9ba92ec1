//! A container's own directory under the prefix, and what is where in it (`man 2 mkdir`, `man 2 chmod`).

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::name::ObjectId;
use crate::paths::Paths;

/// Where one container's own files are.
#[derive(Debug, Clone)]
pub(crate) struct ContainerDirectory(PathBuf);

impl ContainerDirectory {
    pub(crate) fn of(id: &ObjectId, paths: &Paths) -> Self {
        Self(paths.containers().join(id.as_str()))
    }

    /// That of no container, for who wants to know what can be had there. It is never made.
    pub(crate) fn rehearsed(paths: &Paths) -> Self {
        Self(paths.containers().join("check"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Where the root is mounted.
    pub(crate) fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    /// Where the network namespace is pinned.
    pub(crate) fn namespace(&self) -> PathBuf {
        self.0.join("netns")
    }

    /// Where what is printed on the console is kept.
    pub(crate) fn console_log(&self) -> PathBuf {
        self.0.join("console.log")
    }

    /// The file that is mounted over `/etc/hosts`.
    pub(crate) fn hosts(&self) -> PathBuf {
        self.0.join("hosts")
    }

    /// The file that is mounted over `/etc/resolv.conf`.
    pub(crate) fn resolver(&self) -> PathBuf {
        self.0.join("resolv.conf")
    }

    /// How the last run ended.
    pub(crate) fn ended(&self) -> PathBuf {
        self.0.join("ended.json")
    }

    /// Makes it. Those of its container's ids may pass, since its runtime mounts its root as one of them, and nobody else:
    /// there may be set-uid programs in that root. They own nothing of it. The group also tells whose the ids are when the
    /// manifest cannot be read.
    pub(crate) fn make(&self, ids: Option<&IdMap>) -> Result<()> {
        let path = self.path();
        make_directory(path)?;
        let Some(ids) = ids else { return Ok(()) };
        chown(path, Some(0), Some(ids.root())).map_err(|e| Error::os("chown", path.display(), e))?;
        fs::set_permissions(path, Permissions::from_mode(0o710))
            .map_err(|e| Error::os("chmod", path.display(), e))
    }

    /// Makes the directory that the root is mounted on.
    pub(crate) fn make_root(&self) -> Result<PathBuf> {
        let root = self.root();
        make_directory(&root)?;
        Ok(root)
    }
}

fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Error::os("mkdir", path.display(), e))
}
