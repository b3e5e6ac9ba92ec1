//! Directories that are the same between looking and using (`man 2 openat2` on `RESOLVE_NO_SYMLINKS`).

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};

use crate::error::{Error, Result};
use crate::storage::Digest;
use crate::sys::file::descriptor_path;

/// A directory of the host: an absolute path without links, and which directory it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Directory {
    path: PathBuf,
    identity: Identity,
}

/// Tells a directory from a later one of its name, also where numbers are used again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    device: (u32, u32),
    inode: u64,
    /// When it was made, where the file system knows.
    born: (i64, u32),
}

impl Directory {
    /// Looks at `path`, on whose way there must be no link.
    pub(super) fn look(path: &Path) -> Result<Self> {
        let opened = open(path)?;
        Ok(Self { path: path.to_owned(), identity: identity(&opened, path)? })
    }

    /// Looks at what `path` leads to, by whatever links.
    pub(super) fn resolve(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened =
            rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::os("open", path.display(), e))?;
        let identity = identity(&opened, path)?;
        // The kernel's own name for it, in one call however long the way is.
        let path =
            fs::read_link(descriptor_path(&opened)).map_err(|e| Error::os("readlink", path.display(), e))?;
        Ok(Self { path, identity })
    }

    /// Which directory it is, by whatever name.
    pub(super) fn number(&self) -> ((u32, u32), u64) {
        (self.identity.device, self.identity.inode)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it (`O_PATH`), in this thread's mount namespace. [`Error::Differs`] if another is in its place.
    pub(super) fn open(&self) -> Result<OwnedFd> {
        let opened = open(&self.path)?;
        if identity(&opened, &self.path)? == self.identity {
            return Ok(opened);
        }
        Err(Error::Differs {
            what: format!("directory `{}`", self.path.display()),
            difference: "it was replaced by another one while it was being used".to_owned(),
        })
    }

    /// 16 digits that stand for these directories in this order.
    pub(super) fn fingerprint<'a>(directories: impl IntoIterator<Item = &'a Self>) -> String {
        let line = |Self { identity: Identity { device, inode, born }, .. }: &Self| {
            format!("{device:?} {inode} {born:?}\n")
        };
        let lines: String = directories.into_iter().map(line).collect();
        Digest::of(lines.as_bytes()).short()
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS)
        .map_err(|e| Error::os("openat2", path.display(), e))
}

fn identity(opened: impl AsFd, path: &Path) -> Result<Identity> {
    let found = statx(opened, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | StatxFlags::BTIME)
        .map_err(|e| Error::os("statx", path.display(), e))?;
    Ok(Identity {
        device: (found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        born: (found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
    })
}
