//! File trees that nothing can lead us out of: confined creation, and the crate's only recursive removal.
//!
//! See `man 2 openat2` (`RESOLVE_IN_ROOT`, `RESOLVE_NO_XDEV`).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat2, symlinkat, unlinkat};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A directory that is `/` to every path used with it: links inside it, absolute or with `..`, stay inside.
#[derive(Debug)]
pub(crate) struct ConfinedRoot {
    root: OwnedFd,
    shown: PathBuf,
}

impl ConfinedRoot {
    /// Opens the directory `root`, which the caller vouches for.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::os("open", root.display(), e))?;
        Ok(Self { root: fd, shown: root.to_owned() })
    }

    /// Opens `path` inside. With `follow` links are followed as if this root were `/`, without it any link on the
    /// way is `ELOOP`.
    pub(crate) fn open_at(
        &self,
        path: &Path,
        flags: OFlags,
        mode: Mode,
        follow: bool,
    ) -> io::Result<OwnedFd> {
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        if !follow {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        Ok(settled(|| openat2(&self.root, relative, flags | OFlags::CLOEXEC, mode, resolve))?)
    }

    /// Makes the directory `path` (mode 0755) and those above it. No link on the way is followed.
    pub(crate) fn create_dir_all(&self, path: &Path) -> Result<()> {
        let mut made = PathBuf::from("/");
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            let parent = self.parent_of(&made.join(name))?;
            match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(Error::os("mkdir", self.show(&made.join(name)), error)),
            }
            made.push(name);
        }
        self.open_at(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), false)
            .map(drop)
            .map_err(|e| Error::os("openat2", self.show(path), e))
    }

    /// Makes an empty file `path` if there is none, and the directories above it. No link is followed.
    pub(crate) fn create_file(&self, path: &Path, mode: u32) -> Result<OwnedFd> {
        if let Some(parent) = path.parent() {
            self.create_dir_all(parent)?;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW;
        self.open_at(path, flags, Mode::from_raw_mode(mode), false)
            .map_err(|e| Error::os("openat2", self.show(path), e))
    }

    /// Makes the symbolic link `path` with the text `target`, and the directories above it.
    pub(crate) fn create_symlink(&self, path: &Path, target: &Path) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.create_dir_all(parent)?;
        }
        let name = path
            .file_name()
            .ok_or_else(|| Error::invalid("path", path.to_string_lossy(), "must end in a name"))?;
        symlinkat(target, self.parent_of(path)?, name).map_err(|e| Error::os("symlink", self.show(path), e))
    }

    fn parent_of(&self, path: &Path) -> Result<OwnedFd> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        self.open_at(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), false)
            .map_err(|e| Error::os("openat2", self.show(parent), e))
    }

    fn show(&self, path: &Path) -> String {
        self.shown.join(path.strip_prefix("/").unwrap_or(path)).display().to_string()
    }
}

/// Repeats a confined resolution that a rename or a mount elsewhere on the host disturbed: `EAGAIN` says no more
/// than that, and only for paths with `..` in them or in a link (`man 2 openat2`).
fn settled<T>(resolve: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 0..1000 {
        match resolve() {
            Err(Errno::AGAIN) => std::thread::yield_now(),
            result => return result,
        }
    }
    resolve()
}

/// Removes `relative` and everything beneath it, where `relative` is a path beneath `base` without links.
/// What is gone is removed.
///
/// # Errors
/// [`Error::Invalid`] if `base` is `/` or not absolute, or if `relative` is empty, absolute or has `..`;
/// [`Error::Busy`] if something is mounted in the tree: nothing beneath a mount is touched.
pub fn remove_tree(base: &Path, relative: &Path) -> Result<()> {
    let shown = base.join(relative);
    let invalid = |rule: &str| Error::invalid("tree to remove", shown.to_string_lossy(), rule);
    if !base.is_absolute() || base.components().count() < 3 {
        return Err(invalid("must lie beneath a directory that is at least two levels below '/'"));
    }
    if relative.components().next().is_none()
        || relative.components().any(|c| !matches!(c, Component::Normal(_)))
    {
        return Err(invalid("must be a plain path beneath its base"));
    }
    let base_fd = rustix::fs::open(base, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::os("open", base.display(), e))?;
    let name = relative.file_name().ok_or_else(|| invalid("must end in a name"))?;
    let parent = match relative.parent().filter(|p| !p.as_os_str().is_empty()) {
        None => base_fd,
        Some(parent) => match open_beneath(base_fd.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(Error::os("openat2", shown.display(), error)),
        },
    };
    let name = CString::new(name.as_bytes()).map_err(|_| invalid("must not contain a zero byte"))?;
    remove_entry(parent.as_fd(), &name, &shown)
}

fn open_beneath(
    dir: BorrowedFd<'_>,
    path: impl rustix::path::Arg,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(dir, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve)
}

/// Removes one entry of `parent`: its content first if it is a directory. Uses one descriptor per level.
fn remove_entry(parent: BorrowedFd<'_>, name: &CStr, shown: &Path) -> Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(removal_error("unlink", shown, error)),
    }
    let dir = match open_beneath(parent, name, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(dir) => dir,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(removal_error("openat2", shown, error)),
    };
    let entries = Dir::read_from(&dir).map_err(|e| Error::os("getdents", shown.display(), e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Error::os("getdents", shown.display(), e))?;
        let child = entry.file_name();
        if child == c"." || child == c".." {
            continue;
        }
        let child_shown = shown.join(std::ffi::OsStr::from_bytes(child.to_bytes()));
        if entry.file_type() == FileType::Directory {
            remove_entry(dir.as_fd(), child, &child_shown)?;
        } else {
            match unlinkat(&dir, child, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => remove_entry(dir.as_fd(), child, &child_shown)?,
                Err(error) => return Err(removal_error("unlink", &child_shown, error)),
            }
        }
    }
    drop(dir);
    match unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(removal_error("rmdir", shown, error)),
    }
}

fn removal_error(call: &'static str, shown: &Path, error: Errno) -> Error {
    match error {
        Errno::XDEV | Errno::BUSY => Error::Busy {
            what: format!("tree `{}`", shown.display()),
            reason: "something is mounted there; unmount it first".to_owned(),
        },
        error => Error::os(call, shown.display(), error),
    }
}
