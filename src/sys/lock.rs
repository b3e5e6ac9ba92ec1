//! Locks between processes and threads, as files (`man 2 flock`).
//!
//! A lock belongs to the open file: the kernel releases it when its holder dies. Lock files can be removed by
//! their holder: who waited for a removed file notices and takes the new one.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys::{file, wait};

/// How long to wait for another process that is at the same thing, where what it does there is short.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// A held lock. Dropping it releases it.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub(crate) struct FileLock {
    _file: File,
    path: PathBuf,
}

impl FileLock {
    /// Waits for the lock at `path` for at most `timeout`, then gives up with [`Error::Busy`] about `what`.
    pub(crate) fn acquire(path: &Path, timeout: Duration, what: &str) -> Result<Self> {
        hold(path, timeout, what, || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600);
            Self::try_acquire(path, &mut options)
        })
    }

    /// As [`FileLock::acquire`], with a file or directory as the lock that is there for another purpose.
    /// `None` if there is none.
    pub(crate) fn acquire_existing(path: &Path, timeout: Duration, what: &str) -> Result<Option<Self>> {
        hold(path, timeout, what, || match Self::try_acquire(path, OpenOptions::new().read(true)) {
            Ok(attempt) => Ok(attempt.map(Some)),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(Some(None)),
            Err(error) => Err(error),
        })
    }

    /// As [`FileLock::acquire_existing`], without waiting. `None` if somebody holds it, too.
    pub(crate) fn try_existing(path: &Path) -> Result<Option<Self>> {
        match Self::try_acquire(path, OpenOptions::new().read(true)) {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            result => result,
        }
    }

    fn try_acquire(path: &Path, options: &mut OpenOptions) -> Result<Option<Self>> {
        // Nonblocking: a fifo in the way must not hang us.
        let file = options
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(|e| Error::os("open", path.display(), e))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(Error::os("flock", path.display(), error)),
        }
        let held = file.metadata().map_err(|e| Error::os("fstat", path.display(), e))?;
        match fs::symlink_metadata(path) {
            Ok(now) if (now.dev(), now.ino()) == (held.dev(), held.ino()) => {
                Ok(Some(Self { _file: file, path: path.to_owned() }))
            }
            // The previous holder removed the file between our open and our lock.
            _ => Ok(None),
        }
    }

    /// Removes its file: who comes from now on takes a new lock, who waits for this one notices when it is released.
    pub(crate) fn remove(&self) -> Result<()> {
        file::remove_file(&self.path)
    }
}

fn hold<T>(
    path: &Path,
    timeout: Duration,
    what: &str,
    attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    wait::until(wait::deadline(timeout), attempt)?.ok_or_else(|| Error::Busy {
        what: what.to_owned(),
        reason: format!("another operation holds {} for more than {timeout:?}", path.display()),
    })
}
