//! A tree that is being unpacked: nothing is followed, and nothing outside is reached (`man 2 openat`).
//!
//! Directories are entered one name at a time, from descriptor to descriptor, `O_NOFOLLOW`; a name is never `..`. Nobody
//! else writes to the tree meanwhile. The directories on the way to the last member are held open, and get their
//! modification times back when they are left: so no list of them grows with the archive.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, Timespec, XattrFlags, fsetxattr, fstat, futimens, mkdirat,
    mknodat, openat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::storage::image::layer::entries::times;
use crate::storage::image::layer::lower;
use crate::storage::image::layer::member::{Member, refused};
use crate::storage::image::layer::xattrs;
use crate::storage::overlay::marks::{OPAQUE, is_whiteout_device};
use crate::sys::space::or_no_space;
use crate::sys::tree::remove_tree;

/// How many directories that only whiteouts told about are remembered.
const HIDING_MAX: usize = 100_000;
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The tree, and where in it the last member went.
#[derive(Debug)]
pub(crate) struct FreshTree {
    path: PathBuf,
    lower: Vec<OwnedFd>,
    /// From the root to the directory of the last member.
    pub(super) levels: Vec<Level>,
    /// Directories that no member of their own told about.
    implied: u64,
    /// Those among them that only whiteouts beneath them told about.
    hiding: BTreeSet<Vec<u8>>,
    /// The path and size of the current member, for errors.
    member: Vec<u8>,
    member_bytes: u64,
}

#[derive(Debug)]
pub(super) struct Level {
    name: Vec<u8>,
    pub(super) fd: OwnedFd,
    pub(super) mtime: Timespec,
    /// Whether it has a default access control list, which the kernel gives to all that is made in it.
    pub(super) bequeaths: bool,
}

impl FreshTree {
    /// The empty directory `path`, to be unpacked over these layers, the uppermost first.
    pub(crate) fn open(path: &Path, lower: &[PathBuf]) -> Result<Self> {
        let open = |layer: &PathBuf| {
            rustix::fs::open(layer, DIRECTORY, Mode::empty())
                .map_err(|e| Error::os("open", layer.display(), e))
        };
        let lower = lower.iter().map(open).collect::<Result<Vec<_>>>()?;
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty())
            .map_err(|e| Error::os("open", path.display(), e))?;
        let found = fstat(&fd).map_err(|e| Error::os("fstat", path.display(), e))?;
        let bequeaths =
            xattrs::has_default_acl(&fd).map_err(|e| Error::os("fgetxattr", path.display(), e))?;
        let root = Level { name: Vec::new(), fd, mtime: mtime(&found), bequeaths };
        Ok(Self {
            path: path.to_owned(),
            lower,
            levels: vec![root],
            implied: 0,
            hiding: BTreeSet::new(),
            member: Vec::new(),
            member_bytes: 0,
        })
    }

    pub(crate) fn implied(&self) -> u64 {
        self.implied
    }

    /// Goes to the directory of `member`, which these names lead to. What is missing on the way is made: mode 0755,
    /// root's, of 1970.
    pub(crate) fn enter(&mut self, names: &[&[u8]], member: &Member) -> Result<()> {
        self.start(names, member)?;
        for name in &names[self.levels.len() - 1..] {
            let level = match self.open_directory(name) {
                Ok(level) => level,
                Err(Errno::NOENT) => self.imply(name, true)?,
                // A device 0:0 stands for a file that is missing.
                Err(Errno::NOTDIR | Errno::LOOP) if self.is_whiteout(name)? => self.imply(name, false)?,
                Err(Errno::LOOP | Errno::NOTDIR) => {
                    let rule =
                        format!("leads through {:?}, which is no directory", String::from_utf8_lossy(name));
                    return Err(self.refused(rule));
                }
                Err(error) => return Err(self.failed("openat", error)),
            };
            self.levels.push(level);
        }
        if !self.hiding.is_empty() {
            for length in 1..=names.len() {
                self.hiding.remove(&names[..length].join(&b'/'));
            }
        }
        Ok(())
    }

    /// As [`FreshTree::enter`] for a whiteout. False if all that lower layers have there is hidden already: `umoci` writes
    /// whiteouts beneath what is a file now, and beneath other whiteouts.
    pub(crate) fn enter_to_hide(&mut self, names: &[&[u8]], member: &Member) -> Result<bool> {
        self.start(names, member)?;
        for at in self.levels.len() - 1..names.len() {
            let level = match self.open_directory(names[at]) {
                Ok(level) => level,
                Err(Errno::NOENT) => {
                    if self.hiding.len() == HIDING_MAX {
                        return Err(
                            self.refused("is one of too many whiteouts in directories without a member")
                        );
                    }
                    self.hiding.insert(names[..=at].join(&b'/'));
                    self.imply(names[at], true)?
                }
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(false),
                Err(error) => return Err(self.failed("openat", error)),
            };
            self.levels.push(level);
        }
        Ok(true)
    }

    /// Leaves the directories that do not lead to `names`.
    fn start(&mut self, names: &[&[u8]], member: &Member) -> Result<()> {
        self.member.clone_from(&member.path);
        self.member_bytes = member.kind.bytes();
        let known = self.levels.iter().skip(1).zip(names).take_while(|(level, name)| level.name == **name);
        let shared = 1 + known.count();
        while self.levels.len() > shared {
            self.leave()?;
        }
        Ok(())
    }

    /// Leaves all directories: the tree is complete.
    pub(crate) fn finish(&mut self) -> Result<()> {
        while self.levels.len() > 1 {
            self.leave()?;
        }
        self.restore_time()
    }

    fn leave(&mut self) -> Result<()> {
        self.restore_time()?;
        self.levels.pop();
        Ok(())
    }

    fn restore_time(&self) -> Result<()> {
        let level = self.level();
        futimens(&level.fd, &times(level.mtime)).map_err(|e| self.failed("utimensat", e))
    }

    pub(super) fn level(&self) -> &Level {
        // The root's is never left.
        &self.levels[self.levels.len() - 1]
    }

    pub(super) fn at(&self) -> BorrowedFd<'_> {
        self.level().fd.as_fd()
    }

    pub(super) fn open_directory(&self, name: &[u8]) -> rustix::io::Result<Level> {
        let fd = openat(self.at(), name, DIRECTORY, Mode::empty())?;
        let found = fstat(&fd)?;
        let bequeaths = xattrs::has_default_acl(&fd)?;
        Ok(Level { name: name.to_vec(), fd, mtime: mtime(&found), bequeaths })
    }

    /// Makes the directory `name`, which no member told about; as it is in the layers below, unless they are hidden there.
    fn imply(&mut self, name: &[u8], shows_lower: bool) -> Result<Level> {
        self.make_directory(name)?;
        self.implied += 1;
        let mut level = self.open_directory(name).map_err(|e| self.failed("openat", e))?;
        let above = self.levels.iter().skip(1).map(|level| level.name.as_slice());
        let path: Vec<&[u8]> = above.chain([name]).collect();
        let lower = if shows_lower { self.lower.as_slice() } else { &[] };
        let like = lower::directory(lower, &path).map_err(|e| self.failed("openat", e))?;
        self.level_attributes(&mut level, &like)?;
        Ok(level)
    }

    /// Makes a directory in the current one, in the place of anything else that is there.
    pub(super) fn make_directory(&self, name: &[u8]) -> Result<()> {
        let make = || mkdirat(self.at(), name, Mode::from_raw_mode(0o700));
        match make() {
            Err(Errno::EXIST) => {}
            result => return result.map_err(|e| self.failed("mkdir", e)),
        }
        let found = self.stat(name)?;
        if found.is_some_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory) {
            return Ok(());
        }
        let covers = found.is_some_and(|found| is_whiteout_device(&found));
        self.remove(name)?;
        make().map_err(|e| self.failed("mkdir", e))?;
        if covers {
            let level = self.open_directory(name).map_err(|e| self.failed("openat", e))?;
            self.set_opaque(level.fd.as_fd())?;
        }
        Ok(())
    }

    /// Makes `name` missing, whatever lower layers have there. What this layer has there stays.
    pub(crate) fn whiteout(&mut self, name: &[u8]) -> Result<()> {
        match mknodat(self.at(), name, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::EXIST) => {}
            result => return result.map_err(|e| self.failed("mknod", e)),
        }
        let level = match self.open_directory(name) {
            Ok(level) => level,
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(error) => return Err(self.failed("openat", error)),
        };
        if !self.forget_hiding(name) {
            return self.set_opaque(level.fd.as_fd());
        }
        // Only whiteouts are in it, which are not needed any more.
        self.remove(name)?;
        self.whiteout(name)
    }

    /// From now on the directory `name` is there for more than whiteouts. False if it was so before.
    pub(super) fn forget_hiding(&mut self, name: &[u8]) -> bool {
        if self.hiding.is_empty() {
            return false;
        }
        let above = self.levels.iter().skip(1).map(|level| level.name.as_slice());
        let path = above.chain([name]).collect::<Vec<_>>().join(&b'/');
        self.hiding.remove(&path)
    }

    /// Makes the current directory hide what lower layers have in it.
    pub(crate) fn opaque(&self) -> Result<()> {
        if self.levels.len() == 1 {
            return Err(self.refused("hides all lower layers: leave them out of the image instead"));
        }
        self.set_opaque(self.at())
    }

    fn set_opaque(&self, fd: BorrowedFd<'_>) -> Result<()> {
        fsetxattr(fd, OPAQUE, b"y", XattrFlags::empty()).map_err(|e| self.failed("fsetxattr", e))
    }

    /// Makes something called `name`; a later member takes the place of an earlier one.
    pub(super) fn replacing<T>(
        &self,
        name: &[u8],
        call: &'static str,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                self.remove(name)?;
                make()
            }
            result => result,
        }
        .map_err(|e| self.failed(call, e))
    }

    fn remove(&self, name: &[u8]) -> Result<()> {
        match unlinkat(self.at(), name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::ISDIR) => {
                let above = self.levels.iter().skip(1).map(|level| OsStr::from_bytes(&level.name));
                let path: PathBuf = above.chain([OsStr::from_bytes(name)]).collect();
                remove_tree(&self.path, &path)
            }
            Err(error) => Err(self.failed("unlink", error)),
        }
    }

    pub(super) fn stat(&self, name: &[u8]) -> Result<Option<Stat>> {
        match statat(self.at(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("fstatat", error)),
        }
    }

    fn is_whiteout(&self, name: &[u8]) -> Result<bool> {
        Ok(self.stat(name)?.is_some_and(|found| is_whiteout_device(&found)))
    }

    pub(super) fn refused(&self, rule: impl Into<String>) -> Error {
        refused(&self.member, rule)
    }

    /// The error of a call for the current member. A full disk is one of its own.
    pub(crate) fn failed(&self, call: &'static str, error: impl Into<std::io::Error>) -> Error {
        let target = self.path.join(String::from_utf8_lossy(&self.member).trim_start_matches('/'));
        let what = format!("`{}`", target.display());
        or_no_space(Error::os(call, target.display(), error), what, Some(self.member_bytes), &self.path)
    }
}

/// When it was last changed.
pub(crate) fn mtime(found: &Stat) -> Timespec {
    // The kernel's nanoseconds are below a billion.
    Timespec { tv_sec: found.st_mtime, tv_nsec: i64::try_from(found.st_mtime_nsec).unwrap_or(0) }
}
