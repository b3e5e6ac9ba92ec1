//! Putting an overlay together, out of sight (`man 2 fsopen`, `man 2 mount_setattr`, kernel
//! `Documentation/filesystems/overlayfs.rst` and `idmappings.rst`).
//!
//! Where mounts are needed on the way (layers whose ids are mapped, an empty layer, what `mount(2)` makes) they are made in
//! a mount namespace of a thread's own. There a mapped layer stands in its own place, so that the kernel shows its name.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags, fstat, fstatvfs, openat, statat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountFlags};

use crate::error::{Error, Result};
use crate::storage::overlay::directory::Directory;
use crate::storage::overlay::options::{MountMethod, OPTIONS, classic, upper_text};
use crate::storage::overlay::support;
use crate::storage::overlay::top::Top;
use crate::sys::detached;
use crate::sys::mount::{FsContext, FsError, mount_classic};
use crate::sys::random;
use crate::sys::userns::{self, UserNamespace};

/// An overlay to be put together.
#[derive(Debug)]
pub(super) struct Assembly {
    /// The uppermost first.
    pub(super) layers: Vec<Directory>,
    pub(super) top: Option<Top>,
    pub(super) read_only: bool,
    pub(super) map: Option<Mapping>,
    /// What it is called in the list of mounts.
    pub(super) source: String,
    /// Where it is going to be mounted.
    pub(super) target: Directory,
    pub(super) method: MountMethod,
}

/// A map of ids as the kernel takes it.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) namespace: UserNamespace,
    /// What the container's root is outside.
    pub(super) root: u32,
}

/// A layer as it is handed to the kernel.
struct Lower {
    path: PathBuf,
    /// Instead of the path, where the kernel takes descriptors and the path is another directory here.
    mapped: Option<OwnedFd>,
    /// Which directory the path must be.
    directory: Option<Directory>,
}

impl Assembly {
    /// The overlay, as a mount that is nowhere yet. It is writable unless it was to be read-only.
    pub(super) fn mount(self) -> Result<OwnedFd> {
        let assembly = Arc::new(self);
        let mounted = match assembly.clone().put_together() {
            Err(error) if error.errno() == Some(libc::ENODEV) => {
                support::load()?;
                assembly.clone().put_together()
            }
            result => result,
        }?;
        assembly.check_writable(&mounted)?;
        Ok(mounted)
    }

    fn put_together(self: Arc<Self>) -> Result<OwnedFd> {
        let needs_floor = self.layers.len() == 1 && self.top.is_none();
        if self.map.is_none() && !needs_floor {
            return self.by_any(&self.plain_lowers(), false);
        }
        detached::in_private_namespace(move || {
            let mut lowers = match &self.map {
                Some(map) => self.mapped_lowers(map)?,
                None => self.plain_lowers(),
            };
            if needs_floor {
                lowers.push(self.floor()?);
            }
            let mounted = self.by_any(&lowers, true)?;
            if let (Some(map), Some(top)) = (&self.map, self.written()) {
                // The last that this thread does.
                userns::become_root_of_map(map.root)?;
                self.write_as_root_of_map(map.root, &mounted, top)?;
            }
            Ok(mounted)
        })
    }

    fn what(&self) -> String {
        format!("overlay root `{}`", self.target.path().display())
    }

    /// What is written to. A root that nobody writes to reads its volume as one more layer, so that nothing is written there
    /// by the kernel, either, and a volume that is read-only can be read.
    fn written(&self) -> Option<&Top> {
        self.top.as_ref().filter(|_| !self.read_only)
    }

    /// The volume as a layer. Its owners are those of the outside already.
    fn read(&self) -> impl Iterator<Item = Lower> {
        self.top.iter().filter(|_| self.read_only).map(|top| Lower::of(&top.upper))
    }

    fn plain_lowers(&self) -> Vec<Lower> {
        self.read().chain(self.layers.iter().map(Lower::of)).collect()
    }

    /// Covers each layer with itself, its files' owners mapped.
    fn mapped_lowers(&self, map: &Mapping) -> Result<Vec<Lower>> {
        let failed = |call: &'static str, layer: &Directory| {
            let path = layer.path().display().to_string();
            move |e: Errno| match e {
                Errno::INVAL | Errno::NOSYS | Errno::PERM => Error::Unsupported {
                    what: format!("showing the owners of `{path}` by a map of ids"),
                    needs: format!(
                        "it takes kernel 5.19, and layers on a file system that can be mounted so: ext4, xfs, btrfs, tmpfs (kernel \
                         6.3), but no overlay and no network's ({call}: {e})"
                    ),
                },
                _ => Error::os(call, path, e),
            }
        };
        let cover = |layer: &Directory| {
            let clone = detached::clone_tree(layer.open()?, false).map_err(failed("open_tree", layer))?;
            detached::map_ids(&clone, map.namespace.as_fd(), false)
                .map_err(failed("mount_setattr", layer))?;
            detached::attach(&clone, layer.open()?).map_err(failed("move_mount", layer))?;
            Ok(Lower { path: layer.path().to_owned(), mapped: Some(clone), directory: None })
        };
        self.read().map(Ok).chain(self.layers.iter().map(cover)).collect()
    }

    /// An empty layer, for the kernel wants at least two directories. It takes the target's place, unseen.
    fn floor(&self) -> Result<Lower> {
        let path = self.target.path().to_owned();
        FsContext::open("tmpfs")
            .and_then(|context| {
                context.text("mode", "0755")?;
                context.mount(MountAttrFlags::MOUNT_ATTR_RDONLY, &path)
            })
            .map_err(|e| e.about(format_args!("an empty layer for {}", self.what())))?;
        Ok(Lower { path, mapped: None, directory: None })
    }

    fn by_any(self: &Arc<Self>, lowers: &[Lower], private: bool) -> Result<OwnedFd> {
        match self.method {
            MountMethod::Descriptors => self.by_descriptors(lowers)?.map_err(|e| e.about(self.what())),
            MountMethod::Texts => self.by_texts(lowers).map_err(|e| e.about(self.what())),
            MountMethod::Classic => self.by_mount(lowers, private),
            MountMethod::Newest => {
                match self.by_descriptors(lowers)? {
                    Ok(mounted) => return Ok(mounted),
                    Err(error) if !may_be_unknown(&error) => return Err(error.about(self.what())),
                    Err(_) => {}
                }
                match self.by_texts(lowers) {
                    Ok(mounted) => Ok(mounted),
                    Err(error) if !may_be_unknown(&error) => Err(error.about(self.what())),
                    // Where all ways fail it is not for want of a newer call, and what the newer one says is clearer. But that
                    // there are too many layers for the oldest one is.
                    Err(error) => self.by_mount(lowers, private).map_err(|last| match last {
                        Error::Unsupported { .. } => last,
                        _ if error.says_why() => error.about(self.what()),
                        _ => last,
                    }),
                }
            }
        }
    }

    fn by_descriptors(&self, lowers: &[Lower]) -> Result<Result<OwnedFd, FsError>> {
        let top = match self.written() {
            Some(top) => Some((top.upper.open()?, top.work.open()?)),
            None => None,
        };
        let context = match self.context() {
            Ok(context) => context,
            Err(error) => return Ok(Err(error)),
        };
        for lower in lowers {
            let opened;
            let descriptor = match &lower.mapped {
                Some(mapped) => mapped,
                None => {
                    opened = lower.open()?;
                    &opened
                }
            };
            if let Err(error) = context.descriptor("lowerdir+", descriptor) {
                return Ok(Err(error));
            }
        }
        let finish = || {
            if let Some((upper, work)) = &top {
                context.descriptor("upperdir", upper)?;
                context.descriptor("workdir", work)?;
            }
            context.make(self.attributes())
        };
        Ok(finish())
    }

    fn by_texts(&self, lowers: &[Lower]) -> Result<OwnedFd, FsError> {
        let context = self.context()?;
        for lower in lowers {
            context.text("lowerdir+", &lower.path)?;
        }
        if let Some(top) = self.written() {
            context.text("upperdir", upper_text(top.upper.path()))?;
            context.text("workdir", upper_text(top.work.path()))?;
        }
        context.make(self.attributes())
    }

    fn by_mount(self: &Arc<Self>, lowers: &[Lower], private: bool) -> Result<OwnedFd> {
        let layers: Vec<&Path> = lowers.iter().map(|lower| lower.path.as_path()).collect();
        let top = self.written().map(|top| (top.upper.path(), top.work.path()));
        let options = classic(&layers, top)?;
        if private {
            return self.by_mount_here(&options);
        }
        let assembly = self.clone();
        detached::in_private_namespace(move || assembly.by_mount_here(&options))
    }

    /// On the target, unseen; then a second mount of it, that is nowhere.
    fn by_mount_here(&self, options: &OsString) -> Result<OwnedFd> {
        let flags = if self.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
        let target = self.target.path();
        mount_classic(Path::new(&self.source), target, "overlay", flags, options)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let there = rustix::fs::open(target, flags, Mode::empty())
            .map_err(|e| Error::os("open", target.display(), e))?;
        detached::clone_tree(there, false).map_err(|e| Error::os("open_tree", target.display(), e))
    }

    fn context(&self) -> Result<FsContext, FsError> {
        let context = FsContext::open("overlay")?;
        context.text("source", &self.source)?;
        for (key, value) in OPTIONS {
            context.text(key, value)?;
        }
        Ok(context)
    }

    fn attributes(&self) -> MountAttrFlags {
        if self.read_only { MountAttrFlags::MOUNT_ATTR_RDONLY } else { MountAttrFlags::empty() }
    }

    /// The kernel mounts an overlay read-only, without an error, when it cannot write to its work directory.
    fn check_writable(&self, mounted: &OwnedFd) -> Result<()> {
        let Some(top) = self.written() else { return Ok(()) };
        let shown = fstatvfs(mounted).map_err(|e| Error::os("fstatvfs", self.what(), e))?;
        if !shown.f_flag.contains(StatVfsMountFlags::RDONLY) {
            return Ok(());
        }
        Err(Error::Damaged {
            what: self.what(),
            reason: format!(
                "the kernel cannot write to `{}`, as after an error of its file system, or if that has no extended \
                 attributes (see the kernel's log): unmount the volume, check it with fsck, and mount it again",
                top.work.path().display()
            ),
        })
    }

    /// Makes a file as the container's root will, and looks who owns it below. Where the kernel can (6.1) it has no name, so that
    /// nothing of the container's can be in its place, and none is left.
    fn write_as_root_of_map(&self, root: u32, mounted: &OwnedFd, top: &Top) -> Result<()> {
        let failed = |call: &'static str| {
            let what = format!("{} as the container's root, {root}", self.what());
            move |e: Errno| Error::os(call, what, e)
        };
        let mode = Mode::RUSR | Mode::WUSR;
        let unnamed = openat(mounted, ".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode);
        let owner = match unnamed {
            // Its owner below is the one that an overlay without a map of its own shows.
            Ok(file) => fstat(file).map_err(failed("fstat"))?,
            // Full is not unwritable.
            Err(Errno::NOSPC | Errno::DQUOT) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::ISDIR) => {
                // A name that nobody knows beforehand. A crash leaves an empty file.
                let name = format!(".docklet-{}", random::id()?);
                let flags =
                    OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(mounted, &name, flags, mode) {
                    Ok(_) => {}
                    Err(Errno::NOSPC | Errno::DQUOT) => return Ok(()),
                    Err(error) => return Err(failed("openat")(error)),
                }
                let owner = statat(top.upper.open()?, &name, AtFlags::SYMLINK_NOFOLLOW);
                unlinkat(mounted, &name, AtFlags::empty()).map_err(failed("unlinkat"))?;
                owner.map_err(failed("fstatat"))?
            }
            Err(error) => return Err(failed("open(O_TMPFILE)")(error)),
        };
        if (owner.st_uid, owner.st_gid) == (root, root) {
            return Ok(());
        }
        Err(Error::Unsupported {
            what: format!("writing to {} by a map of ids", self.what()),
            needs: format!(
                "it takes a kernel that gives the files of the container's root to {root}: this one gives them to {}:{}",
                owner.st_uid, owner.st_gid
            ),
        })
    }
}

impl Lower {
    fn of(directory: &Directory) -> Self {
        Self { path: directory.path().to_owned(), mapped: None, directory: Some(directory.clone()) }
    }

    fn open(&self) -> Result<OwnedFd> {
        match &self.directory {
            Some(directory) => directory.open(),
            None => Directory::look(&self.path)?.open(),
        }
    }
}

/// Old kernels say these to a call, an option or a kind of value that they do not know.
fn may_be_unknown(error: &FsError) -> bool {
    matches!(error.errno, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM)
}
