//! What has changed on a volume against the layers below it (kernel `Documentation/filesystems/overlayfs.rst`).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, readlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::storage::overlay::attributes;
use crate::storage::overlay::lookup::{Entry, Lowers, Place};
use crate::storage::overlay::marks::{self, is_opaque, is_whiteout};
use crate::storage::overlay::plan::OverlayPlan;
use crate::sys::beneath::open_beneath;
use crate::sys::directory::names_backwards;
use crate::sys::file::descriptor_path;

/// One path at which a root is another than its layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// From the root, without a leading `/`. Empty for the root itself. JSON has it only if it is UTF-8.
    pub path: PathBuf,
    /// In which way.
    pub what: Changed,
}

/// In which way a path has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Changed {
    /// The layers have nothing there.
    Added,
    /// The layers have something there, and everything beneath it: both are gone.
    Removed,
    /// Both have something there.
    Differs(Difference),
}

/// What differs between the file of the layers and that of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// One is a directory, a link, …, the other is not. Nothing else is compared then.
    pub kind: bool,
    /// The bytes of a file, the text of a link, the number of a device.
    pub content: bool,
    /// The permissions.
    pub mode: bool,
    /// User or group, as the container sees them.
    pub owner: bool,
    /// The extended attributes, as the container sees them, but those of overlays.
    pub xattrs: bool,
    /// The time of the last change. Of directories it is not compared: it changes with every name in them.
    pub modified: bool,
    /// A directory that hides those of the layers: what it has not, is removed.
    pub opaque: bool,
}

/// The changes of a volume, in the order of their paths, each directory before what is in it.
#[derive(Debug)]
#[must_use = "nothing is read before the first is asked for"]
pub struct Changes {
    upper: OwnedFd,
    shown: PathBuf,
    lowers: Lowers,
    map: Option<IdMap>,
    /// The directory that is being looked through: one path, however deep a container's root has nested it.
    path: PathBuf,
    way: Vec<Level>,
    /// The root is the first.
    begun: bool,
}

/// A directory that is being looked through.
#[derive(Debug)]
struct Level {
    /// What is still to come, the last first.
    names: Vec<OsString>,
    /// What the layers have there.
    lower: Option<Place>,
}

impl OverlayPlan {
    /// What has been written to the volume: what is added, changed and removed against the layers. Whether the overlay is
    /// mounted does not matter, but it should not be written to meanwhile: its container is stopped or frozen. No link is
    /// followed, and nothing is changed. A file that was written to with what it had before is no change.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no volume was given; [`Error::Os`] if it or a layer cannot be read. While it goes on, too,
    /// and [`Error::Damaged`] if somebody mounted the volume with options that spread its content over layers.
    pub fn changes(&self) -> Result<Changes> {
        let Some(space) = &self.space else {
            return Err(Error::invalid("overlay", "without a volume", "must have a volume to have changes"));
        };
        let shown = space.join("upper");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let upper = rustix::fs::open(&shown, flags, Mode::empty())
            .map_err(|e| Error::os("open", shown.display(), e))?;
        let lowers = Lowers::open(&self.layers)?;
        let (path, way) = (PathBuf::new(), Vec::new());
        Ok(Changes { upper, shown, lowers, map: self.map.clone(), path, way, begun: false })
    }
}

impl Iterator for Changes {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.begun {
            self.begun = true;
            if let Some(change) = self.visit(PathBuf::new(), None).transpose() {
                return Some(change);
            }
        }
        loop {
            let level = self.way.last_mut()?;
            let Some(name) = level.names.pop() else {
                self.way.pop();
                self.path.pop();
                continue;
            };
            let path = self.path.join(&name);
            if let Some(change) = self.visit(path, Some(&name)).transpose() {
                return Some(change);
            }
        }
    }
}

impl Changes {
    /// What changed at `path`, called `name` in the lowest directory. Goes down into a directory.
    fn visit(&mut self, path: PathBuf, name: Option<&OsStr>) -> Result<Option<Change>> {
        let failed = |call: &'static str| {
            let path = self.shown.join(&path);
            move |e: Errno| Error::os(call, path.display(), e)
        };
        let file = match open_beneath(self.upper.as_fd(), &path, OFlags::PATH) {
            Ok(file) => file,
            // Removed meanwhile.
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed("openat2")(error)),
        };
        let found = fstat(&file).map_err(failed("fstat"))?;
        let above = self.way.last().and_then(|level| level.lower.as_ref());
        let lower = match (name, above) {
            (None, _) => self.lowers.root()?,
            (Some(name), Some(above)) => self.lowers.child(above, name)?,
            (Some(_), None) => None,
        };
        if is_whiteout(&file, &found).map_err(failed("getxattr"))? {
            return Ok(lower.map(|_| Change { path, what: Changed::Removed }));
        }
        for name in marks::ELSEWHERE {
            if attributes::one(&file, name).map_err(failed("getxattr"))?.is_some() {
                return Err(Error::Damaged {
                    what: format!("`{}`", self.shown.join(&path).display()),
                    reason: format!(
                        "somebody mounted it with another overlay's options ({name}): its content is elsewhere"
                    ),
                });
            }
        }
        let directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        let opaque = directory && name.is_some() && is_opaque(&file).map_err(failed("getxattr"))?;
        let what = match &lower {
            None => Some(Changed::Added),
            Some(lower) => {
                let difference = self.compare(&path, &file, &found, lower)?;
                let hides = opaque && lower.kind() == FileType::Directory;
                let difference = Difference { opaque: hides, ..difference };
                (difference != Difference::default()).then_some(Changed::Differs(difference))
            }
        };
        if directory {
            let names = self.names(&path)?;
            let lower = lower.filter(|lower| !opaque && lower.kind() == FileType::Directory);
            let lower = lower.map(|lower| lower.place);
            self.path.clone_from(&path);
            self.way.push(Level { names, lower });
        }
        Ok(what.map(|what| Change { path, what }))
    }

    /// The names in the directory `path`, the last first.
    fn names(&self, path: &Path) -> Result<Vec<OsString>> {
        let failed = |e: Errno| Error::os("getdents", self.shown.join(path).display(), e);
        let opened = match open_beneath(self.upper.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(opened) => opened,
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        names_backwards(opened).map_err(failed)
    }

    fn compare(&self, path: &Path, file: &OwnedFd, found: &Stat, lower: &Entry) -> Result<Difference> {
        let failed = |call: &'static str| move |e: Errno| Error::os(call, path.display(), e);
        let kind = FileType::from_raw_mode(found.st_mode);
        if kind != lower.kind() {
            return Ok(Difference { kind: true, ..Difference::default() });
        }
        let below = &lower.found;
        let content = match kind {
            FileType::RegularFile => {
                found.st_size != below.st_size
                    || !same_bytes(file, &lower.file).map_err(|e| Error::os("read", path.display(), e))?
            }
            FileType::Symlink => {
                let text = |link: &OwnedFd| readlinkat(link, "", Vec::new()).map_err(failed("readlinkat"));
                text(file)? != text(&lower.file)?
            }
            FileType::CharacterDevice | FileType::BlockDevice => found.st_rdev != below.st_rdev,
            _ => false,
        };
        let inside = |id: u32| self.map.as_ref().map_or(Some(id), |map| map.inside(id));
        let mut attributes = attributes::read(file).map_err(failed("listxattr"))?;
        if let Some(map) = &self.map {
            attributes = attributes::inside(attributes, map);
        }
        Ok(Difference {
            kind: false,
            content,
            mode: found.st_mode != below.st_mode,
            owner: inside(found.st_uid) != Some(below.st_uid) || inside(found.st_gid) != Some(below.st_gid),
            xattrs: attributes != attributes::read(&lower.file).map_err(failed("listxattr"))?,
            modified: kind != FileType::Directory
                && (found.st_mtime, found.st_mtime_nsec) != (below.st_mtime, below.st_mtime_nsec),
            opaque: false,
        })
    }
}

/// Whether two files of one size, opened with `O_PATH`, hold the same.
fn same_bytes(one: &OwnedFd, other: &OwnedFd) -> io::Result<bool> {
    let (mut one, mut other) = (readable(one)?, readable(other)?);
    let (mut left, mut right) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let length = one.read(&mut left)?;
        if length == 0 {
            return Ok(other.read(&mut right)? == 0);
        }
        match other.read_exact(&mut right[..length]) {
            Ok(()) if left[..length] == right[..length] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

fn readable(file: &OwnedFd) -> io::Result<File> {
    File::open(descriptor_path(file))
}
