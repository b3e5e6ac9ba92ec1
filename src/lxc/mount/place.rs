//! The private place of a container where what is mounted for it is kept ready (`man 5 tmpfs`, `man 2 move_mount`).
//!
//! A small tmpfs in the container's directory, which only root may change. It holds a directory, a file or a node for each
//! mount, called by a hash of all that was asked for; LXC binds it inside, at each reboot from inside again. It goes with all
//! that is in it when the container is cleaned up. Nothing of it is on a disk.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dev, FileType, Mode, OFlags, mknodat};
use rustix::io::Errno;
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount,
};
use sha2::{Digest, Sha256};

use super::MountEntry;
use super::tree::{Node, Tree};
use crate::error::{Error, Result};
use crate::sys::directory::{make_directory, remove_directory};
use crate::sys::file::{absent_is_none, remove_file};
use crate::sys::mount::{FsContext, mounted_on};
use crate::sys::mountinfo::Mount;

/// What the place itself may hold: names, and nothing else.
const SIZE: &str = "1m";

/// A container's place.
#[derive(Debug)]
pub(crate) struct Place(PathBuf);

/// What a mount shows, by the kernel's list of mounts: the same wherever it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    device: u64,
    root: PathBuf,
}

impl Shown {
    pub(crate) fn is(&self, mount: &Mount) -> bool {
        self.device == mount.device && self.root == mount.root
    }
}

impl Place {
    /// That of the container in `directory`.
    pub(crate) fn of(directory: &Path) -> Self {
        Self(directory.join("mounts"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What `entry` is called there: another one with other options is another one.
    pub(crate) fn name(entry: &MountEntry) -> String {
        // A `MountEntry` has no map with keys that are no text, the one thing that has no JSON.
        let text = serde_json::to_vec(entry).unwrap_or_default();
        Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn path_of(&self, entry: &MountEntry) -> PathBuf {
        self.0.join(Self::name(entry))
    }

    /// Makes it, if it is not there.
    pub(crate) fn ensure(&self) -> Result<()> {
        make_directory(&self.0)?;
        if mounted_on(&self.0)?.is_none() {
            FsContext::open("tmpfs")
                .and_then(|context| {
                    // The container's root passes through it and sees no names.
                    for (key, value) in [("size", SIZE), ("mode", "0711")] {
                        context.text(key, value)?;
                    }
                    context.mount(MountAttrFlags::empty(), &self.0)
                })
                .map_err(|e| e.about(self.0.display()))?;
        }
        // What is mounted on a shared mount becomes shared; a crash may have come before this.
        mount_change(&self.0, MountPropagationFlags::PRIVATE)
            .map_err(|e| Error::os("mount(MS_PRIVATE)", self.0.display(), e))
    }

    /// Puts `tree` there for `entry`, in place of what a crash may have left of it. A node belongs to `root`.
    pub(crate) fn put(&self, entry: &MountEntry, tree: &Tree, root: u32) -> Result<()> {
        self.remove(entry)?;
        let path = self.path_of(entry);
        let mount = match tree {
            Tree::Directory(mount) => {
                make_directory(&path)?;
                mount
            }
            Tree::File(mount) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::open(&path, flags, Mode::empty())
                    .map_err(|e| Error::os("open", path.display(), e))?;
                mount
            }
            Tree::Node(node) => return node.make(&path, root),
        };
        move_mount(mount, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|e| Error::os("move_mount", path.display(), e))
    }

    /// What is there for `entry`; `mounts` are those of the calling thread.
    pub(crate) fn shown(&self, mounts: &[Mount], entry: &MountEntry) -> Result<Option<Shown>> {
        let path = self.path_of(entry);
        let at = |target: &Path| mounts.iter().rev().find(|mount| mount.target == target);
        if let Some(mount) = at(&path) {
            return Ok(Some(Shown { device: mount.device, root: mount.root.clone() }));
        }
        let Some(place) = at(&self.0) else { return Ok(None) };
        let found = absent_is_none(fs::symlink_metadata(&path))
            .map_err(|e| Error::os("lstat", path.display(), e))?
            // A file or a directory alone is what a crash left of a mount.
            .filter(|found| !found.is_dir() && !found.is_file());
        let root = Path::new("/").join(Self::name(entry));
        Ok(found.map(|_| Shown { device: place.device, root }))
    }

    /// Removes what is there for `entry`. Nobody works in it, so nothing of it can be in use: whoever does in the container
    /// uses another mount of the same.
    pub(crate) fn remove(&self, entry: &MountEntry) -> Result<()> {
        let path = self.path_of(entry);
        unmount_all(&path)?;
        let Some(found) =
            absent_is_none(fs::symlink_metadata(&path)).map_err(|e| Error::os("lstat", path.display(), e))?
        else {
            return Ok(());
        };
        if found.is_dir() { remove_directory(&path).map(drop) } else { remove_file(&path) }
    }

    /// Removes it with everything. The container does not run.
    pub(crate) fn clear(&self) -> Result<()> {
        unmount_all(&self.0)?;
        remove_directory(&self.0).map(drop)
    }
}

impl Node {
    fn make(self, path: &Path, root: u32) -> Result<()> {
        let kind = if self.is_block { FileType::BlockDevice } else { FileType::CharacterDevice };
        mknodat(CWD, path, kind, Mode::empty(), Dev::from(self.number))
            .map_err(|e| Error::os("mknod", path.display(), e))?;
        chown(path, Some(root), Some(root)).map_err(|e| Error::os("chown", path.display(), e))?;
        fs::set_permissions(path, Permissions::from_mode(self.mode))
            .map_err(|e| Error::os("chmod", path.display(), e))
    }
}

/// Unmounts what is on `target`, with what is beneath.
fn unmount_all(target: &Path) -> Result<()> {
    loop {
        match unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::INVAL | Errno::NOENT) => return Ok(()),
            Err(error) => return Err(Error::os("umount2", target.display(), error)),
        }
    }
}
