//! What lies on top of the layers: the directories `upper` and `work` of a volume (kernel
//! `Documentation/filesystems/overlayfs.rst`).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Uid, XattrFlags, fchmod, fchown, fremovexattr, fsetxattr, fstat,
    mkdirat, statat,
};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::storage::overlay::attributes;
use crate::storage::overlay::directory::Directory;
use crate::storage::overlay::signature;
use crate::sys::beneath::open_beneath;

/// On the volume's own root, which no container sees: the map that the volume has its owners by. None: no map.
const IDS: &str = "trusted.docklet.ids";

/// A volume's two directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Top {
    pub(super) upper: Directory,
    pub(super) work: Directory,
}

impl Top {
    /// What the volume mounted on `space` has. `None` unless it has both.
    pub(super) fn look(space: &Directory) -> Result<Option<Self>> {
        let opened = space.open()?;
        // `work` is made last, so where it is, `upper` is complete.
        if !has(opened.as_fd(), "upper", space)? || !has(opened.as_fd(), "work", space)? {
            return Ok(None);
        }
        let look = |name: &str| Directory::look(&space.path().join(name));
        Ok(Some(Self { upper: look("upper")?, work: look("work")? }))
    }

    /// What the volume mounted on `space` has, made if it is missing. A new `upper` looks as `layer` does, since it covers
    /// that layer's root; its owner is shown by `map`.
    pub(super) fn ensure(space: &Directory, layer: &Directory, map: Option<&IdMap>) -> Result<Self> {
        if let Some(top) = Self::look(space)? {
            top.check(space, map)?;
            return Ok(top);
        }
        let like = fstat(layer.open()?).map_err(|e| Error::os("fstat", layer.path().display(), e))?;
        let owner = |id: u32| match map {
            None => Ok(id),
            Some(map) => map.outside(id).ok_or_else(|| {
                let path = layer.path().to_string_lossy();
                Error::invalid("overlay layer", path, format!("must belong to an id of the map; it has {id}"))
            }),
        };
        let (user, group) = (owner(like.st_uid)?, owner(like.st_gid)?);
        let opened = space.open()?;
        let failed = |call: &'static str| {
            let path = space.path().join("upper");
            move |e: Errno| Error::os(call, path.display(), e)
        };
        make(opened.as_fd(), "upper", space)?;
        let upper = open_beneath(opened.as_fd(), "upper", OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(failed("openat2"))?;
        fchown(&upper, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))).map_err(failed("fchown"))?;
        fchmod(&upper, Mode::from_raw_mode(like.st_mode & 0o7777)).map_err(failed("fchmod"))?;
        record(opened.as_fd(), map).map_err(|e| Error::os("fsetxattr", space.path().display(), e))?;
        make(opened.as_fd(), "work", space)?;
        Self::look(space)?.ok_or_else(|| Error::NotFound { what: what(space) })
    }

    /// Whether it can be used once more, by the ids of `map`.
    fn check(&self, space: &Directory, map: Option<&IdMap>) -> Result<()> {
        let volatile = open_beneath(
            self.work.open()?.as_fd(),
            "work/incompat/volatile",
            OFlags::PATH | OFlags::DIRECTORY,
        );
        if volatile.is_ok() {
            return Err(Error::Damaged {
                what: what(space),
                reason: format!(
                    "somebody mounted an overlay on it with the option `volatile`, and it did not end in order: what was \
                     written may be lost. If it is whole, remove {}",
                    self.work.path().join("work/incompat").display()
                ),
            });
        }
        let recorded = attributes::one(&space.open()?, IDS)
            .map_err(|e| Error::os("getxattr", space.path().display(), e))?;
        if let Some(recorded) = recorded
            && map.is_none_or(|map| signature::ids(map).as_bytes() != recorded)
        {
            let wanted = if map.is_some() { "another one" } else { "none" };
            let difference = format!("it was written to by an id map, and {wanted} was asked for");
            return Err(Error::Differs { what: what(space), difference });
        }
        let Some(map) = map else { return Ok(()) };
        let found =
            fstat(self.upper.open()?).map_err(|e| Error::os("fstat", self.upper.path().display(), e))?;
        if map.inside(found.st_uid).is_some() && map.inside(found.st_gid).is_some() {
            return Ok(());
        }
        Err(Error::Differs {
            what: what(space),
            difference: format!(
                "its directory `upper` belongs to {}:{}, which the id map does not have",
                found.st_uid, found.st_gid
            ),
        })
    }
}

/// Writes down which map the volume belongs to.
fn record(space: BorrowedFd<'_>, map: Option<&IdMap>) -> rustix::io::Result<()> {
    // Extended attributes are not for descriptors with `O_PATH`.
    let space = open_beneath(space, "", OFlags::RDONLY | OFlags::DIRECTORY)?;
    match map {
        Some(map) => fsetxattr(space, IDS, signature::ids(map).as_bytes(), XattrFlags::empty()),
        // Of a call that was killed, with a map.
        None => match fremovexattr(space, IDS) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
            result => result,
        },
    }
}

/// How messages name the volume that is mounted on `space`.
pub(super) fn what(space: &Directory) -> String {
    format!("volume mounted on `{}`", space.path().display())
}

/// Whether there is a directory `name`. Something else of that name is [`Error::Differs`].
fn has(directory: BorrowedFd<'_>, name: &str, space: &Directory) -> Result<bool> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => Ok(true),
        Ok(_) => {
            Err(Error::Differs { what: what(space), difference: format!("its `{name}` is no directory") })
        }
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(Error::os("fstatat", Path::new(space.path()).join(name).display(), error)),
    }
}

fn make(directory: BorrowedFd<'_>, name: &str, space: &Directory) -> Result<()> {
    match mkdirat(directory, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(Errno::ROFS) => Err(read_only(space)),
        Err(error) => Err(Error::os("mkdirat", space.path().join(name).display(), error)),
    }
}

/// The volume mounted on `space` cannot be written to.
pub(super) fn read_only(space: &Directory) -> Error {
    Error::Damaged {
        what: what(space),
        reason: "its file system is read-only, as after an error (see the kernel's log): unmount it, check it with fsck, \
                 and mount it again"
            .to_owned(),
    }
}
