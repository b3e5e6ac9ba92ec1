//! Where in a container's root its files are mounted (`man 7 path_resolution`, `man 2 openat2`).
//!
//! A root is a stranger's: its `/etc/resolv.conf` is often a link to where a program of the container's puts one later
//! (Debian's leads to `/run`), and may be anything. LXC mounts over a file, and through no link.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, readlink, statat, unlinkat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::host::directory::ContainerDirectory;
use crate::lxc::MountEntry;
use crate::sys::confined::ConfinedRoot;
use crate::sys::file::descriptor_path;

/// The mounts that show a container its files, over its root as it is mounted now at `root`. `mounts` are its own: what they
/// are on is theirs. What is in the way in the root, and is no file, is removed there, for good: a link, a fifo, an empty
/// directory. A root that has no room for a file (its `/etc` is none, or the file is a full directory) goes without.
pub(crate) fn mounts_of_names(
    directory: &ContainerDirectory,
    root: &Path,
    mounts: &[MountEntry],
) -> Result<Vec<MountEntry>> {
    let Some((etc, inside)) = open_etc(root)? else {
        tracing::warn!(root = %root.display(), "the root has no /etc for the files with names");
        return Ok(Vec::new());
    };
    let mut entries = Vec::new();
    for (name, source) in [("hosts", directory.hosts()), ("resolv.conf", directory.resolver())] {
        let target = inside.join(name);
        let is_theirs = mounts.iter().map(MountEntry::target).any(|theirs| {
            let meets = |ours: &Path| ours.starts_with(theirs) || theirs.starts_with(ours);
            meets(&target) || meets(&Path::new("/etc").join(name))
        });
        if is_theirs {
            continue;
        }
        let has_room = make_room(&etc, name)
            .map_err(|e| Error::os("unlinkat", root.join("etc").join(name).display(), e))?;
        match MountEntry::bind(source, &target) {
            Ok(entry) if has_room => entries.push(entry.read_only().create_file()),
            _ => tracing::warn!(target = %target.display(), "the root has no room for this file"),
        }
    }
    Ok(entries)
}

/// The directory `/etc` of a root and where it is, without links. Made if there is none; `None` if it is no directory.
fn open_etc(root: &Path) -> Result<Option<(OwnedFd, PathBuf)>> {
    let confined = ConfinedRoot::open(root)?;
    let open = || confined.open_at(Path::new("/etc"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), true);
    // What leads nowhere stays.
    let opened = open()
        .or_else(|error| confined.create_dir_all(Path::new("/etc")).map_err(|_| error).and_then(|()| open()));
    let Ok(etc) = opened else { return Ok(None) };
    let path =
        readlink(descriptor_path(&etc), Vec::new()).map_err(|e| Error::os("readlink", root.display(), e))?;
    let path = PathBuf::from(OsString::from_vec(path.into_bytes()));
    Ok(path.strip_prefix(root).ok().map(|inside| (etc, Path::new("/").join(inside))))
}

/// Removes what is no file. False if it cannot be.
fn make_room(etc: &OwnedFd, name: &str) -> rustix::io::Result<bool> {
    let flags = match statat(etc, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(true),
        Err(error) => return Err(error),
        Ok(found) => match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => return Ok(true),
            FileType::Directory => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        },
    };
    match unlinkat(etc, name, flags) {
        Ok(()) => Ok(true),
        // Also what the container's root may not remove itself, in a sticky directory for one.
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::PERM) => Ok(false),
        Err(error) => Err(error),
    }
}
