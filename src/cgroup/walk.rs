//! Trees of groups, by directory descriptors: a container can nest its groups deeper than a path can be long.
//!
//! Groups come and go while they are looked at: what is gone is skipped.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys::file;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

const READING: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC);

/// How much of a file is read at once. Most have less.
const PIECE: usize = 4096;

/// Calls `each` for the group at `dir` and for all beneath it, parents first.
pub(super) fn visit(dir: &Path, each: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>) -> Result<()> {
    let mut leave = |_: BorrowedFd<'_>, _: &CString| Ok(());
    gone_is_none(walk(dir, each, &mut leave)).map(drop).map_err(|e| Error::os("read", dir.display(), e))
}

/// As [`visit`], but children first.
pub(super) fn visit_upwards(
    dir: &Path,
    each: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>,
) -> Result<()> {
    let mut all = || -> io::Result<()> {
        let mut leave = |parent: BorrowedFd<'_>, name: &CString| match gone_is_none(
            openat(parent, name, DIRECTORY, Mode::empty()).map_err(io::Error::from),
        )? {
            Some(group) => each(group.as_fd()),
            None => Ok(()),
        };
        walk(dir, &mut |_| Ok(()), &mut leave)?;
        each(rustix::fs::open(dir, DIRECTORY, Mode::empty())?.as_fd())
    };
    gone_is_none(all()).map(drop).map_err(|e| Error::os("write", dir.display(), e))
}

/// Removes the group `path` beneath `root` and all beneath it, children first. False if something is still in one.
pub(super) fn remove(root: &Path, path: &str) -> Result<bool> {
    let dir = root.join(path);
    // Mostly there is nothing beneath it, or it is gone already.
    if remove_one(&dir)? {
        return Ok(true);
    }
    let mut leave = |parent: BorrowedFd<'_>, name: &CString| match unlinkat(parent, name, AtFlags::REMOVEDIR)
    {
        Ok(()) | Err(Errno::NOENT | Errno::BUSY) => Ok(()),
        Err(error) => Err(error.into()),
    };
    gone_is_none(walk(&dir, &mut |_| Ok(()), &mut leave))
        .map_err(|e| Error::os("rmdir", dir.display(), e))?;
    remove_one(&dir)
}

/// Removes one group. False if something is in it.
pub(super) fn remove_one(dir: &Path) -> Result<bool> {
    match fs::remove_dir(dir) {
        Ok(()) => {
            tracing::debug!(dir = %dir.display(), "removed cgroup");
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY)) => Ok(false),
        Err(error) => Err(Error::os("rmdir", dir.display(), error)),
    }
}

/// Adds the processes of one group.
pub(super) fn processes(group: BorrowedFd<'_>, found: &mut BTreeSet<u32>) -> io::Result<()> {
    let opened = openat(group, "cgroup.procs", READING, Mode::empty()).map_err(io::Error::from);
    let Some(text) = gone_is_none(opened.and_then(|fd| io::read_to_string(fs::File::from(fd))))? else {
        return Ok(());
    };
    // 0 stands for a process that this namespace cannot see.
    found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|process| *process != 0));
    Ok(())
}

/// An interface file of one group; `None` if the group is gone or has no such file.
pub(super) fn read_at(group: BorrowedFd<'_>, name: &str) -> io::Result<Option<String>> {
    gone_is_none(openat(group, name, READING, Mode::empty()).map_err(io::Error::from).and_then(whole))
}

/// What is in a file that the kernel writes in one piece: if there is less than there is room for, that is all. A file of lists, such
/// as `cgroup.procs`, is not written so.
fn whole(file: OwnedFd) -> io::Result<String> {
    let mut text = Vec::with_capacity(PIECE);
    loop {
        rustix::io::read(&file, rustix::buffer::spare_capacity(&mut text))?;
        if text.len() < text.capacity() {
            return String::from_utf8(text).map_err(io::Error::other);
        }
        text.reserve(PIECE);
    }
}

/// Writes an interface file of one group, if the group is there and has it.
pub(super) fn write_at(group: BorrowedFd<'_>, name: &str, value: &str) -> io::Result<()> {
    let opened = openat(group, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    let written = opened.and_then(|fd| rustix::io::write(fd, value.as_bytes()));
    gone_is_none(written.map_err(io::Error::from)).map(drop)
}

/// An interface file of the group at `dir`; `None` if the group is gone or has no such file.
pub(super) fn read(dir: &Path, name: &str) -> Result<Option<String>> {
    let path = dir.join(name);
    gone_is_none(rustix::fs::open(&path, READING, Mode::empty()).map_err(io::Error::from).and_then(whole))
        .map_err(|e| Error::os("read", path.display(), e))
}

/// Writes an interface file of the group at `dir`, if the group is there and has it.
pub(super) fn write(dir: &Path, name: &str, value: &str) -> Result<()> {
    match file::write_interface(&dir.join(name), value) {
        // EACCES is how cgroupfs refuses to make a file.
        Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV | libc::EACCES)) => Ok(()),
        done => done,
    }
}

/// The field `key` of the flat-keyed file `name` as yes or no; `None` if the group, the file or the field is missing.
pub(super) fn flag(dir: &Path, name: &str, key: &str) -> Result<Option<bool>> {
    Ok(read(dir, name)?.and_then(|text| field(&text, key)).map(|value| value != 0))
}

/// The number after `key` in a flat-keyed file.
pub(super) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Depth first, with one descriptor at a time and the way back by "..". `enter` sees each group before those
/// beneath it; `leave` is called with the parent and the name of each group beneath the top, after those beneath it.
fn walk(
    top: &Path,
    enter: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>,
    leave: &mut dyn FnMut(BorrowedFd<'_>, &CString) -> io::Result<()>,
) -> io::Result<()> {
    let mut here = rustix::fs::open(top, DIRECTORY, Mode::empty())?;
    enter(here.as_fd())?;
    // For each level: the group we came through, and its parent's children that are still to be seen.
    let mut levels: Vec<(CString, Vec<CString>)> = Vec::new();
    let mut next = children(&here)?;
    loop {
        if let Some(name) = next.pop() {
            let Some(group) =
                gone_is_none(openat(&here, &name, DIRECTORY, Mode::empty()).map_err(io::Error::from))?
            else {
                continue;
            };
            here = group;
            enter(here.as_fd())?;
            levels.push((name, std::mem::replace(&mut next, children(&here)?)));
        } else if let Some((name, rest)) = levels.pop() {
            here = openat(&here, c"..", DIRECTORY, Mode::empty())?;
            leave(here.as_fd(), &name)?;
            next = rest;
        } else {
            return Ok(());
        }
    }
}

fn children(group: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    // Each directory beneath it has a link to it, besides its name and ".".
    if rustix::fs::fstat(group)?.st_nlink <= 2 {
        return Ok(names);
    }
    let Some(entries) = gone_is_none(Dir::read_from(group).map_err(io::Error::from))? else {
        return Ok(names);
    };
    for entry in entries {
        let Some(entry) = gone_is_none(entry.map_err(io::Error::from))? else { break };
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// `None` for what is not there. ENODEV is a group that was removed while a file of it was open, EOPNOTSUPP the process list of a threaded group
/// (its processes are listed in the group above it).
pub(super) fn gone_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
