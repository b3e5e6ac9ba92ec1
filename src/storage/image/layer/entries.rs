//! What is made in a fresh tree: files, links, nodes, and their attributes (`man 2 openat`, `man 7 inode`).

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chownat,
    fchmod, fchown, fremovexattr, fsetxattr, futimens, linkat, makedev, mknodat, openat, removexattr, statat,
    symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::error::Result;
use crate::storage::image::layer::member::Member;
use crate::storage::image::layer::tree::{DIRECTORY, FreshTree, Level};
use crate::storage::image::layer::xattrs;
use crate::storage::overlay::marks::is_whiteout_device;

impl FreshTree {
    /// Makes the directory `name`, or takes the one that is there, with the member's attributes; and enters it.
    pub(crate) fn directory(&mut self, name: &[u8], member: &Member) -> Result<()> {
        self.make_directory(name)?;
        self.forget_hiding(name);
        let mut level = self.open_directory(name).map_err(|e| self.failed("openat", e))?;
        self.level_attributes(&mut level, member)?;
        self.levels.push(level);
        Ok(())
    }

    /// Gives a directory its attributes, and sees to it that its time outlives what is made in it.
    pub(super) fn level_attributes(&self, level: &mut Level, member: &Member) -> Result<()> {
        // Its own, as it has one if it got one.
        self.attributes(level.fd.as_fd(), member, level.bequeaths)?;
        level.bequeaths = member.xattrs.iter().any(|(name, _)| name == xattrs::DEFAULT_ACL.as_bytes());
        level.mtime = member.mtime;
        Ok(())
    }

    /// Gives the root the member's attributes.
    pub(crate) fn root(&mut self, member: &Member) -> Result<()> {
        let Some(mut root) = self.levels.pop() else { return Ok(()) };
        let given = self.level_attributes(&mut root, member);
        self.levels.push(root);
        given
    }

    /// Makes an empty file, to be written and given to [`FreshTree::complete`].
    pub(crate) fn file(&self, name: &[u8]) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.replacing(name, "openat", || openat(self.at(), name, flags, Mode::from_raw_mode(0o600)))
            .map(File::from)
    }

    /// Gives a written file its attributes.
    pub(crate) fn complete(&self, file: &File, member: &Member) -> Result<()> {
        self.attributes(file.as_fd(), member, self.level().bequeaths)?;
        futimens(file, &times(member.mtime)).map_err(|e| self.failed("utimensat", e))
    }

    pub(crate) fn symlink(&self, name: &[u8], text: &[u8], member: &Member) -> Result<()> {
        self.replacing(name, "symlink", || symlinkat(text, self.at(), name))?;
        self.owner_by_name(name, member)?;
        self.time_by_name(name, member)
    }

    pub(crate) fn node(
        &self,
        name: &[u8],
        kind: FileType,
        device: (u32, u32),
        member: &Member,
    ) -> Result<()> {
        let mode = Mode::from_raw_mode(member.mode);
        let number = makedev(device.0, device.1);
        self.replacing(name, "mknod", || mknodat(self.at(), name, kind, mode, number))?;
        if self.level().bequeaths {
            let node =
                openat(self.at(), name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                    .map_err(|e| self.failed("openat", e))?;
            // There is no such call for descriptors that opened nothing.
            let path = format!("/proc/thread-self/fd/{}", node.as_raw_fd());
            without(removexattr(path, xattrs::ACCESS_ACL)).map_err(|e| self.failed("removexattr", e))?;
        }
        // In this order: changing the owner takes set-id bits away.
        self.owner_by_name(name, member)?;
        rustix::fs::chmodat(self.at(), name, mode, AtFlags::empty()).map_err(|e| self.failed("chmod", e))?;
        self.time_by_name(name, member)
    }

    /// Another name for the file that `target` leads to from the root.
    pub(crate) fn hard_link(&self, name: &[u8], target: &[&[u8]]) -> Result<()> {
        let missing = || self.refused("is a hard link to what the archive does not have before it");
        let Some((last, directories)) = target.split_last() else { return Err(missing()) };
        let mut above: Option<OwnedFd> = None;
        for directory in directories {
            let from = above.as_ref().map_or(self.levels[0].fd.as_fd(), AsFd::as_fd);
            above = match openat(from, *directory, DIRECTORY, Mode::empty()) {
                Ok(fd) => Some(fd),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(missing()),
                Err(error) => return Err(self.failed("openat", error)),
            };
        }
        let above = above.as_ref().map_or(self.levels[0].fd.as_fd(), AsFd::as_fd);
        let found = match statat(above, *last, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) if !is_whiteout_device(&found) => found,
            Ok(_) | Err(Errno::NOENT) => return Err(missing()),
            Err(error) => return Err(self.failed("fstatat", error)),
        };
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return Err(self.refused("is a hard link to a directory"));
        }
        let same = |other: Stat| (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino);
        if self.stat(name)?.is_some_and(same) {
            return Ok(());
        }
        self.replacing(name, "link", || linkat(above, *last, self.at(), name, AtFlags::empty()))
    }

    /// `bequeathed`: it may have access control lists that its directory gave it, and the archive did not.
    fn attributes(&self, fd: BorrowedFd<'_>, member: &Member, bequeathed: bool) -> Result<()> {
        if bequeathed {
            for name in [xattrs::ACCESS_ACL, xattrs::DEFAULT_ACL] {
                without(fremovexattr(fd, name)).map_err(|e| self.failed("fremovexattr", e))?;
            }
        }
        fchown(fd, Some(Uid::from_raw(member.uid)), Some(Gid::from_raw(member.gid)))
            .map_err(|e| self.failed("fchown", e))?;
        // After the owner: changing that takes set-id bits and capabilities away.
        fchmod(fd, Mode::from_raw_mode(member.mode)).map_err(|e| self.failed("fchmod", e))?;
        for (name, value) in &member.xattrs {
            fsetxattr(fd, name.as_slice(), value, XattrFlags::empty())
                .map_err(|e| self.failed("fsetxattr", e))?;
        }
        Ok(())
    }

    fn owner_by_name(&self, name: &[u8], member: &Member) -> Result<()> {
        let (user, group) = (Uid::from_raw(member.uid), Gid::from_raw(member.gid));
        chownat(self.at(), name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.failed("fchownat", e))
    }

    fn time_by_name(&self, name: &[u8], member: &Member) -> Result<()> {
        utimensat(self.at(), name, &times(member.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.failed("utimensat", e))
    }
}

/// What was not there is removed.
fn without(removed: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match removed {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        result => result,
    }
}

/// With the time of the last access as it is.
pub(crate) fn times(mtime: Timespec) -> Timestamps {
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: mtime }
}
