//! Locks between processes and threads, as files (`man 2 flock`).
//!
//! A lock belongs to the open file: the kernel releases it when its holder dies. Lock files can be removed by
//! their holder: who waited for a removed file notices and takes the new one.
//!
//! A program that was started for an operation goes on when its caller is killed. It can have a part of the lock
//! ([`FileLock::lend`]), in another kind of lock on the same file, which its open file has (`man 2 F_OFD_SETLK`).

#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
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
    file: File,
    path: PathBuf,
}

/// Takes the lock that `file` is, which nobody else can have opened, for as long as it is open.
pub(crate) fn take_new(file: &File) -> rustix::io::Result<()> {
    flock(file, FlockOperation::NonBlockingLockExclusive)
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
                Ok(Some(Self { file, path: path.to_owned() }))
            }
            // The previous holder removed the file between our open and our lock.
            _ => Ok(None),
        }
    }

    /// What a program is given as its standard input that acts for the holder of the lock at `path`: an empty file. Until
    /// it ends, whoever was killed meanwhile, [`FileLock::await_programs`] waits.
    pub(crate) fn lend(path: &Path) -> Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)
            .map_err(|e| Error::os("open", path.display(), e))?;
        on_all_of(&file, libc::F_OFD_SETLK, libc::F_RDLCK)
            .map_err(|e| Error::os("F_OFD_SETLK", path.display(), e))?;
        Ok(file)
    }

    /// Waits for at most `timeout` until no program has what it was [lent](FileLock::lend) by a holder that is gone.
    pub(crate) fn await_programs(&self, timeout: Duration, what: &str) -> Result<()> {
        let failed = |e: Errno| Error::os("F_OFD_GETLK", self.path.display(), e);
        let ended = wait::until_true(wait::deadline(timeout), || {
            on_all_of(&self.file, libc::F_OFD_GETLK, libc::F_WRLCK).map(|found| found == libc::F_UNLCK)
        });
        if ended.map_err(failed)? {
            return Ok(());
        }
        let reason = format!("a program of an operation that was cut off still runs after {timeout:?}");
        Err(Error::Busy { what: what.to_owned(), reason })
    }

    /// Removes its file: who comes from now on takes a new lock, who waits for this one notices when it is released.
    pub(crate) fn remove(&self) -> Result<()> {
        file::remove_file(&self.path)
    }
}

/// Asks `file` for a lock of `kind` on all of it, by its open file. Returns the kind in the kernel's answer.
fn on_all_of(file: &File, request: i32, kind: i32) -> rustix::io::Result<i32> {
    // SAFETY: the structure is plain integers, for which all-zero is a value: from the start, without an end.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = i16::try_from(kind).map_err(|_| Errno::INVAL)?;
    // SAFETY: both requests take one `flock`, which outlives the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), request, &raw mut lock) };
    if result == -1 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
    }
    Ok(lock.l_type.into())
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

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_program_has_its_part_of_the_lock_until_it_ends() {
        let path = std::env::temp_dir().join(format!("docklet-lent-{}", std::process::id()));
        // Another test's thread that is just forking has a copy of every descriptor for a moment.
        let (shortly, patiently) = (Duration::from_millis(20), Duration::from_secs(30));
        let lock = FileLock::acquire(&path, patiently, "a").unwrap();
        let mut program = Command::new("sleep")
            .arg("60")
            .stdin(FileLock::lend(&path).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        drop(lock);
        let lock = FileLock::acquire(&path, patiently, "a").unwrap();
        assert!(matches!(lock.await_programs(shortly, "a"), Err(Error::Busy { .. })));
        program.kill().unwrap();
        program.wait().unwrap();
        lock.await_programs(patiently, "a").unwrap();
        lock.remove().unwrap();
    }
}
