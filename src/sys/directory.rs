//! Single directories: making, listing and removing them (`man 2 mkdir`, `man 2 getdents`). What is in them is
//! [`tree`](crate::sys::tree)'s.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::fs::Dir;

use crate::error::{Error, Result};
use crate::sys::file::absent_is_none;

/// Makes a directory (mode 0700), unless it is there. The one above it must exist.
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

/// Removes an empty directory. False if there was none.
pub(crate) fn remove_directory(path: &Path) -> Result<bool> {
    absent_is_none(fs::remove_dir(path))
        .map(|removed| removed.is_some())
        .map_err(|e| Error::os("rmdir", path.display(), e))
}

/// The names in a directory, in any order.
pub(crate) fn entries(path: &Path) -> Result<Vec<OsString>> {
    fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
        .map_err(|e| Error::os("getdents", path.display(), e))
}

/// The names in an open directory, sorted, the last first: to be taken off the end one by one.
pub(crate) fn names_backwards(directory: impl AsFd) -> rustix::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

/// As [`entries`]; none if there is no such directory.
pub(crate) fn entries_if_exists(path: &Path) -> Result<Vec<OsString>> {
    match entries(path) {
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(Vec::new()),
        result => result,
    }
}
