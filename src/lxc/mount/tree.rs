//! A mount that is nowhere yet, made of what one descriptor shows (`man 2 openat2`, `man 2 open_tree`, `man 2 mount_setattr`,
//! `man 2 fsopen`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags};

use super::{FilesystemMount, MountEntry, MountOption, MountSource, Propagation, Submounts, Tmpfs};
use crate::error::{Error, Result};
use crate::lxc::DeviceRule;
use crate::sys::detached;
use crate::sys::mount::FsContext;
use crate::sys::mountinfo;

/// What a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Directory,
    File,
    Device(Node),
}

/// A device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) is_block: bool,
    pub(crate) number: u64,
    /// Without the kind.
    pub(crate) mode: u32,
}

/// The ids of the container that something is mounted for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ids<'a> {
    /// What its root is on the host.
    pub(crate) root: u32,
    /// Its user namespace.
    pub(crate) namespace: BorrowedFd<'a>,
}

/// What is mounted, before it is anywhere. It goes with this.
#[derive(Debug)]
pub(crate) enum Tree {
    Directory(OwnedFd),
    File(OwnedFd),
    Node(Node),
}

impl Found {
    pub(crate) fn is_directory(&self) -> bool {
        *self == Self::Directory
    }

    /// The rule that lets a container use it.
    pub(crate) fn device_rule(self, read_only: bool) -> Option<DeviceRule> {
        match self {
            Self::Device(node) => node.rule(read_only),
            Self::Directory | Self::File => None,
        }
    }
}

impl Node {
    pub(crate) fn rule(self, read_only: bool) -> Option<DeviceRule> {
        let (kind, access) = (if self.is_block { 'b' } else { 'c' }, if read_only { "r" } else { "rw" });
        let (major, minor) = (rustix::fs::major(self.number), rustix::fs::minor(self.number));
        format!("{kind} {major}:{minor} {access}").parse().ok()
    }
}

impl MountEntry {
    /// What its source is now. `None` if it is missing, and may be.
    ///
    /// # Errors
    /// As [`LxcConfig::mount`](crate::lxc::LxcConfig::mount).
    pub(crate) fn look(&self) -> Result<Option<Found>> {
        self.check()?;
        match self.source() {
            MountSource::Bind(path) | MountSource::Device(path) => {
                Ok(self.open(path)?.map(|(_, found)| found))
            }
            MountSource::Tmpfs(_) => Ok(Some(Found::Directory)),
            MountSource::Filesystem(mount) => {
                let there = !self.is_optional() || !is_missing(mount);
                Ok(there.then_some(Found::Directory))
            }
        }
    }

    /// What is to be mounted, for a container with these ids. It can be written to until it is
    /// [restricted](Self::restrict). `None` if the source is missing, and may be.
    ///
    /// # Errors
    /// As [`MountEntry::look`]; [`Error::Unsupported`] if the kernel cannot.
    pub(crate) fn tree(&self, ids: Option<Ids<'_>>) -> Result<Option<Tree>> {
        self.check()?;
        let tree = match self.source() {
            MountSource::Bind(path) | MountSource::Device(path) => match self.open(path)? {
                None => return Ok(None),
                Some((_, Found::Device(node))) => return Ok(Some(Tree::Node(node))),
                Some((source, found)) => {
                    let recursive = self.submounts() == Submounts::Include;
                    let mount =
                        detached::clone_tree(source, recursive).map_err(|e| self.failed("open_tree", e))?;
                    if found.is_directory() { Tree::Directory(mount) } else { Tree::File(mount) }
                }
            },
            MountSource::Tmpfs(tmpfs) => Tree::Directory(tmpfs.make(ids.map_or(0, |ids| ids.root))?),
            MountSource::Filesystem(mount) if self.is_optional() && is_missing(mount) => return Ok(None),
            MountSource::Filesystem(mount) => Tree::Directory(mount.make(self.is_read_only())?),
        };
        if let (Some(ids), Some(mount), true) = (ids, tree.mount(), self.is_id_mapped()) {
            detached::map_ids(mount, ids.namespace, self.submounts() == Submounts::Include).map_err(|e| match e {
                Errno::INVAL | Errno::NOSYS | Errno::PERM => Error::Unsupported {
                    what: format!("showing the owners of `{}` as they are on the disk", self.source().shown()),
                    needs: format!(
                        "it takes kernel 5.12, and a file system that can be mounted so (ext4, xfs, btrfs, tmpfs from kernel 6.3 \
                         on; no overlay, no network's), beneath it, too (mount_setattr: {e})"
                    ),
                },
                _ => self.failed("mount_setattr", e),
            })?;
        }
        Ok(Some(tree))
    }

    /// Takes from `tree`, what it shows beneath included, what the container is not to do there.
    ///
    /// # Errors
    /// [`Error::Unsupported`] before kernel 5.12; [`Error::Os`].
    pub(crate) fn restrict(&self, tree: &Tree) -> Result<()> {
        let Some(mount) = tree.mount() else { return Ok(()) };
        let mut attributes = MountAttrFlags::empty();
        attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.is_read_only());
        for option in self.options() {
            attributes |= match option {
                MountOption::NoSuid => MountAttrFlags::MOUNT_ATTR_NOSUID,
                MountOption::NoDev => MountAttrFlags::MOUNT_ATTR_NODEV,
                MountOption::NoExec => MountAttrFlags::MOUNT_ATTR_NOEXEC,
            };
        }
        let propagation = match self.propagates() {
            Propagation::Private => MountPropagationFlags::PRIVATE,
            Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
        };
        let recursive = self.submounts() == Submounts::Include;
        detached::restrict(mount, attributes, propagation, recursive)
            .map_err(|e| self.failed("mount_setattr", e))
    }

    /// Opens the source, through no link. `None` if it is missing, and may be.
    fn open(&self, path: &Path) -> Result<Option<(OwnedFd, Found)>> {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let fd = match openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Ok(fd) => fd,
            Err(Errno::NOENT) if self.is_optional() => return Ok(None),
            Err(Errno::NOENT) => {
                return Err(Error::NotFound { what: format!("mount source `{}`", path.display()) });
            }
            Err(Errno::LOOP) => {
                return Err(self.invalid(
                    "runs through a symbolic link: name the place itself (`realpath` tells), so that nobody who may change the \
                     link chooses what of the host is shown",
                ));
            }
            Err(error) => return Err(Error::os("openat2", path.display(), error)),
        };
        let stat = fstat(&fd).map_err(|e| Error::os("fstat", path.display(), e))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let found = match kind {
            FileType::Directory => Found::Directory,
            FileType::CharacterDevice | FileType::BlockDevice => Found::Device(Node {
                is_block: kind == FileType::BlockDevice,
                number: stat.st_rdev,
                mode: stat.st_mode & 0o777,
            }),
            _ => Found::File,
        };
        match (self.source(), found) {
            (MountSource::Device(_), Found::Directory | Found::File) => {
                return Err(self.invalid("is no device"));
            }
            (MountSource::Bind(_), Found::Device(_)) => {
                return Err(
                    self.invalid("is a device: use MountEntry::device, which lets the container open it")
                );
            }
            _ => {}
        }
        self.check_create(found.is_directory())?;
        if self.submounts() == Submounts::Refuse && found.is_directory() {
            let beneath = mountinfo::mounts_beneath(path)?;
            if let Some(mount) = beneath.iter().find(|mount| mount.target != path) {
                return Err(self.invalid(&format!(
                    "has submounts ({}): say .recursive() to show them or .without_submounts() to hide them",
                    mount.target.display()
                )));
            }
        }
        Ok(Some((fd, found)))
    }

    fn failed(&self, call: &'static str, error: Errno) -> Error {
        let source = self.source().shown();
        match error {
            Errno::NOSYS => Error::Unsupported {
                what: format!("the mount of `{source}`"),
                needs: format!("it takes kernel 5.12 ({call}: {error})"),
            },
            error => Error::os(call, source, error),
        }
    }
}

impl Tree {
    pub(crate) fn mount(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Directory(mount) | Self::File(mount) => Some(mount.as_fd()),
            Self::Node(_) => None,
        }
    }

    pub(crate) fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }
}

impl Tmpfs {
    fn make(&self, root: u32) -> Result<OwnedFd> {
        let (size, mode, root) = (self.size_bytes.to_string(), format!("{:o}", self.mode), root.to_string());
        FsContext::open("tmpfs")
            .and_then(|context| {
                for (key, value) in [("size", &size), ("mode", &mode), ("uid", &root), ("gid", &root)] {
                    context.text(key, value)?;
                }
                context.make(MountAttrFlags::empty())
            })
            .map_err(|e| e.about("a tmpfs"))
    }
}

impl FilesystemMount {
    fn make(&self, read_only: bool) -> Result<OwnedFd> {
        let made = FsContext::open(&self.filesystem).and_then(|context| {
            context.text("source", self.source.as_str())?;
            for (key, value) in self.pairs() {
                match value {
                    Some(value) => context.text(key, value)?,
                    None => context.flag(key)?,
                }
            }
            if read_only {
                context.flag("ro")?;
            }
            context.make(MountAttrFlags::empty())
        });
        made.map_err(|error| match error.errno {
            Errno::NODEV => Error::Unsupported {
                what: format!("the file system {}", self.filesystem),
                needs: format!("the kernel lacks it: `modprobe {}`", self.filesystem),
            },
            Errno::NOENT => Error::NotFound { what: format!("mount source `{}`", self.source) },
            _ => error.about(format_args!("{} on {}", self.filesystem, self.source)),
        })
    }
}

/// Whether a file system's source is a file that does not exist.
fn is_missing(mount: &FilesystemMount) -> bool {
    mount.source.starts_with('/') && matches!(rustix::fs::stat(mount.source.as_str()), Err(Errno::NOENT))
}
