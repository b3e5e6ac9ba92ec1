//! The directory of a pool: where its volumes are mounted, what they are copied from, and the lock of its promises.
//!
//! See `man 2 flock` for the lock. What the volumes are made of is the back end's.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::name::VolumeName;
use crate::storage::volume::space::ProvisionRatio;
use crate::sys::directory::make_directory;
use crate::sys::lock::{FileLock, LOCK_TIMEOUT};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_no_pool() {
        let message = PoolDirectory::ensure(Path::new("/proc/version"), &[]).unwrap_err().to_string();
        assert_eq!(message, "invalid directory \"/proc/version\": is something else already");
    }
}
