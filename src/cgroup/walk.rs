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

/// How much of a file is read at first. Most have less.
const PIECE: usize = 4096;

/// Calls `each` for the group at `dir` and for all beneath it, parents first.
pub(super) fn visit(dir: &Path, each: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>) -> Result<()> {
    let mut all = || visit_from(rustix::fs::open(dir, DIRECTORY, Mode::empty())?, each);
    gone_is_none(all()).map(drop).map_err(|e| Error::os("read", dir.display(), e))
}

/// As [`visit`], from an open group on.
pub(super) fn visit_from(
    group: OwnedFd,
    each: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>,
) -> io::Result<()> {
    walk(group, each, &mut |_, _| Ok(()))
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
        let top = rustix::fs::open(dir, DIRECTORY, Mode::empty())?;
        walk(top.try_clone()?, &mut |_| Ok(()), &mut leave)?;
        each(top.as_fd())
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
    let mut all = || walk(rustix::fs::open(&dir, DIRECTORY, Mode::empty())?, &mut |_| Ok(()), &mut leave);
    gone_is_none(all()).map_err(|e| Error::os("rmdir", dir.display(), e))?;
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
    let Some(file) = open_at(group, "cgroup.procs")? else { return Ok(()) };
    let Some(text) = gone_is_none(io::read_to_string(fs::File::from(file)))? else { return Ok(()) };
    // 0 stands for a process that this namespace cannot see.
    found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|process| *process != 0));
    Ok(())
}

/// What `key` of the flat-keyed file `name` counts in the group at `dir` and in those beneath it that there are now. `None` if none of
/// them has it.
pub(super) fn sum(dir: &Path, name: &str, key: &str) -> Result<Option<u64>> {
    let mut sum = None;
    visit(dir, &mut |group| {
        if let Some(count) = read_at(group, name)?.and_then(|text| field(&text, key)) {
            sum = Some(sum.unwrap_or(0) + count);
        }
        Ok(())
    })?;
    Ok(sum)
}

/// An interface file of one group, open; `None` if the group is gone or has no such file.
pub(super) fn open_at(group: BorrowedFd<'_>, name: &str) -> io::Result<Option<OwnedFd>> {
    gone_is_none(openat(group, name, READING, Mode::empty()).map_err(io::Error::from))
}

/// The group at `dir`, open; `None` if it is not there.
pub(super) fn open_dir(dir: &Path) -> Result<Option<OwnedFd>> {
    gone_is_none(rustix::fs::open(dir, DIRECTORY, Mode::empty()).map_err(io::Error::from))
        .map_err(|e| Error::os("open", dir.display(), e))
}

/// As [`open_at`], of the group at `dir`.
pub(super) fn open(dir: &Path, name: &str) -> Result<Option<OwnedFd>> {
    let path = dir.join(name);
    gone_is_none(rustix::fs::open(&path, READING, Mode::empty()).map_err(io::Error::from))
        .map_err(|e| Error::os("open", path.display(), e))
}

/// An interface file of one group; `None` if the group is gone or has no such file.
pub(super) fn read_at(group: BorrowedFd<'_>, name: &str) -> io::Result<Option<String>> {
    match open_at(group, name)? {
        Some(file) => gone_is_none(content(&file)),
        None => Ok(None),
    }
}

/// What an open file holds now, as often as it is asked, if the kernel writes it in one piece: what leaves room is all of it. A file of
/// lists, such as `cgroup.procs`, is not written so.
pub(super) fn content(file: &OwnedFd) -> io::Result<String> {
    let mut text = Vec::with_capacity(PIECE);
    loop {
        rustix::io::pread(file, rustix::buffer::spare_capacity(&mut text), 0)?;
        if text.len() < text.capacity() {
            return String::from_utf8(text).map_err(io::Error::other);
        }
        text = Vec::with_capacity(2 * text.capacity());
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
    match open(dir, name)? {
        Some(file) => {
            gone_is_none(content(&file)).map_err(|e| Error::os("read", dir.join(name).display(), e))
        }
        None => Ok(None),
    }
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
    mut here: OwnedFd,
    enter: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<()>,
    leave: &mut dyn FnMut(BorrowedFd<'_>, &CString) -> io::Result<()>,
) -> io::Result<()> {
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

/// How many groups are directly beneath one: each has a link to it, besides its name and ".".
#[allow(clippy::useless_conversion, reason = "the number is narrower on some processors")]
pub(super) fn children_count(group: impl AsFd) -> io::Result<u64> {
    Ok(u64::from(rustix::fs::fstat(group)?.st_nlink).saturating_sub(2))
}

fn children(group: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    if children_count(group)? == 0 {
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
