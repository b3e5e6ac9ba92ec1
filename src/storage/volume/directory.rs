//! The directory of a pool: where its volumes are mounted, what they are copied from, and the lock of its promises.
//!
//! See `man 2 flock` for the lock. What the volumes are made of is the back end's.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::name::VolumeName;
use crate::storage::volume::space::ProvisionRatio;
use crate::sys::file::absent_is_none;
use crate::sys::lock::FileLock;

/// How long to wait for another process that is at the same pool, volume or overlay.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// A pool's directory, and how much the pool may promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PoolDirectory {
    path: PathBuf,
    pub(crate) ratio: ProvisionRatio,
}

impl PoolDirectory {
    /// Makes the directory with its `parts` (mode 0700) where they are missing; the one above it must exist.
    pub(crate) fn ensure(given: &Path, parts: &[&str]) -> Result<Self> {
        if !given.is_absolute() {
            return Err(Error::invalid("volume pool", given.to_string_lossy(), "must be an absolute path"));
        }
        make_directory(given)?;
        // Mounts are compared by path, so there must be one spelling of it.
        let path = fs::canonicalize(given).map_err(|e| Error::os("realpath", given.display(), e))?;
        for name in ["mounts", "templates"].iter().chain(parts) {
            make_directory(&path.join(name))?;
        }
        Ok(Self { path, ratio: ProvisionRatio::ONE })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where volumes are mounted.
    pub(crate) fn mounts(&self) -> PathBuf {
        self.path.join("mounts")
    }

    pub(crate) fn mount_point(&self, name: &VolumeName) -> PathBuf {
        self.mounts().join(name.as_str())
    }

    /// Formatted files to copy from.
    pub(crate) fn templates(&self) -> PathBuf {
        self.path.join("templates")
    }

    /// The lock under which a promise is checked and made.
    pub(crate) fn lock(&self) -> Result<FileLock> {
        let path = self.path.join("pool.lock");
        FileLock::acquire(&path, LOCK_TIMEOUT, &format!("volume pool `{}`", self.path.display()))
    }
}

/// The names in a directory.
pub(crate) fn entries(path: &Path) -> Result<Vec<OsString>> {
    fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
        .map_err(|e| Error::os("getdents", path.display(), e))
}

pub(crate) fn make_directory(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(_) if path.is_dir() => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            Err(Error::invalid("directory", path.to_string_lossy(), "is something else already"))
        }
        Err(error) => Err(Error::os("mkdir", path.display(), error)),
    }
}

/// False if there was none.
pub(crate) fn remove_directory(path: &Path) -> Result<bool> {
    absent_is_none(fs::remove_dir(path))
        .map(|removed| removed.is_some())
        .map_err(|e| Error::os("rmdir", path.display(), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_no_pool() {
        let message = PoolDirectory::ensure(Path::new("/proc/version"), &[]).unwrap_err().to_string();
        assert_eq!(message, "invalid directory \"/proc/version\": is something else already");
    }
}
