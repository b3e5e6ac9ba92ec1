//! The file beneath redb: made whole or not at all (`man 2 open` on `O_TMPFILE`, `man 2 linkat`), and locked by whoever has it open
//! (`man 2 flock`, `man 5 proc_locks`).

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Result as IoResult};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use redb::StorageBackend;
use rustix::fs::{Advice, AtFlags, CWD};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A file that this process alone has, until this is dropped.
#[derive(Debug)]
pub(super) struct Claim(Arc<File>);

impl Claim {
    /// The file of this name. `None` if there is none.
    pub(super) fn of(path: &Path) -> Result<Option<Self>> {
        let invalid = |rule: &str| Error::invalid("store", path.to_string_lossy(), rule);
        if path.file_name().is_none() || path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(invalid("must be the path of a file"));
        }
        // Opening a device can have effects: look first.
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => {
                return Err(invalid(
                    "is a directory or a device: give the path of an ordinary file, or of none",
                ));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::os("stat", path.display(), error)),
        }
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => {
                let claim = Self::lock(path, file)?;
                // Whoever gave it its name may have died before the name was durable.
                sync_directory(path)?;
                Ok(Some(claim))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::os("open", path.display(), error)),
        }
    }

    /// A new one, that has no name yet and goes without one when it is dropped.
    pub(super) fn unnamed(path: &Path) -> Result<Self> {
        let directory = directory(path);
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE);
        let file = options.open(directory).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => Error::NotFound {
                what: format!("the directory `{}`, in which the store is to be made,", directory.display()),
            },
            Some(libc::EOPNOTSUPP | libc::EISDIR) => Error::Unsupported {
                what: format!("making a store in `{}`", directory.display()),
                needs: "it takes a file system with O_TMPFILE: ext4, xfs, btrfs or tmpfs".into(),
            },
            _ => Error::os("open(O_TMPFILE)", directory.display(), error),
        })?;
        Self::lock(path, file)
    }

    fn lock(path: &Path, file: File) -> Result<Self> {
        match file.try_lock() {
            Ok(()) => Ok(Self(Arc::new(file))),
            Err(TryLockError::WouldBlock) => {
                Err(Error::Busy { what: format!("the store `{}`", path.display()), reason: holder(&file) })
            }
            Err(TryLockError::Error(error)) => Err(Error::os("flock", path.display(), error)),
        }
    }

    /// Gives what is on the disk already its name, durably. False if the name is taken.
    pub(super) fn publish(&self, path: &Path) -> Result<bool> {
        let own = format!("/proc/self/fd/{}", self.0.as_raw_fd());
        match rustix::fs::linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(error) => return Err(Error::os("linkat", path.display(), error)),
        }
        sync_directory(path)?;
        Ok(true)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.metadata().is_ok_and(|metadata| metadata.len() == 0)
    }

    /// The file for redb, which reads it from the disk.
    pub(super) fn storage(&self) -> Storage {
        // After a write to the disk has failed, memory holds what the disk does not, and says it were clean.
        if let Err(error) = rustix::fs::fadvise(&*self.0, 0, None, Advice::DontNeed) {
            tracing::debug!(%error, "fadvise");
        }
        Storage(Arc::clone(&self.0))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Whoever still reads has the file open.
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "the store's file stays locked until this process ends");
        }
    }
}

/// A claimed file as redb uses it. It is locked already: redb's own locks would end when it is closed to be opened again.
#[derive(Debug)]
pub(super) struct Storage(Arc<File>);

impl StorageBackend for Storage {
    fn len(&self) -> IoResult<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> IoResult<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> IoResult<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> IoResult<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> IoResult<()> {
        self.0.write_all_at(data, offset)
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the names in the directory of `path` durable.
fn sync_directory(path: &Path) -> Result<()> {
    let directory = directory(path);
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(|error| Error::os("fsync", directory.display(), error))
}

/// Which process has `file` locked, in words.
fn holder(file: &File) -> String {
    let inode = file.metadata().map(|metadata| metadata.ino()).unwrap_or_default();
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    match pid(&locks, inode) {
        Some(pid) if pid == std::process::id() => {
            format!("this process, {pid}, has it open already: use a clone of what it was opened as")
        }
        Some(pid) => format!("process {pid} has it open, and one at a time can: ask that one, or end it"),
        None => "another process has it open, and one at a time can".into(),
    }
}

/// The process that has the file with this number locked, by the text of `/proc/locks`.
fn pid(locks: &str, inode: u64) -> Option<u32> {
    // 1: FLOCK  ADVISORY  WRITE 4711 fe:00:1234567 0 EOF
    locks.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        (words.next()? == "FLOCK").then_some(())?;
        let pid = words.nth(2)?.parse().ok()?;
        let found = words.next()?.rsplit(':').next()?;
        (found.parse() == Ok(inode)).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_by_the_files_number() {
        let locks = "1: POSIX  ADVISORY  WRITE 12 fe:00:77 0 EOF\n\
                     2: OFDLCK ADVISORY  WRITE -1 fe:00:4711 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 815 fe:00:4711 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 816 fe:00:4711 0 EOF\n";
        assert_eq!(pid(locks, 4711), Some(815));
        assert_eq!(pid(locks, 77), None);
    }
}
