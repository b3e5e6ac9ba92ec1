//! Mounting and unmounting (`man 2 fsopen`, `man 2 mount`, `man 2 umount`).
//!
//! The new calls are used where the kernel has them, since they say in words what is wrong; `mount(2)` below.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, StatVfsMountFlags, StatxAttributes, StatxFlags, statvfs, statx};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_bind,
    mount_remount, move_mount, unmount,
};
use tracing::debug;

use crate::error::{Error, Result};
use crate::sys::{file, mountinfo, process, wait};

/// A file system being configured.
#[derive(Debug)]
pub(crate) struct FsContext(OwnedFd);

/// Why a file system was not made: the kernel's number and, where it has one, its text.
#[derive(Debug)]
pub(crate) struct FsError {
    call: &'static str,
    pub(crate) errno: Errno,
    text: String,
}

impl FsError {
    /// Whether the kernel gave a reason in words, other than that it does not know the option.
    pub(crate) fn says_why(&self) -> bool {
        !self.text.is_empty() && !self.text.contains("nknown parameter")
    }

    /// The same as this library's error, about `target`.
    pub(crate) fn about(self, target: impl fmt::Display) -> Error {
        if self.text.is_empty() {
            Error::os(self.call, target, self.errno)
        } else {
            Error::os(self.call, format_args!("{target} ({})", self.text), self.errno)
        }
    }
}

impl FsContext {
    /// `fsopen`. `ENOSYS` on kernels before 5.2, `ENODEV` if the kernel has no such file system.
    pub(crate) fn open(filesystem: &str) -> Result<Self, FsError> {
        fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC).map(Self).map_err(|errno| FsError {
            call: "fsopen",
            errno,
            text: String::new(),
        })
    }

    /// Sets an option that takes text.
    pub(crate) fn text(&self, key: &str, value: impl rustix::path::Arg) -> Result<(), FsError> {
        fsconfig_set_string(&self.0, key, value).map_err(|e| self.error("fsconfig", e))
    }

    /// Sets an option that takes a descriptor.
    pub(crate) fn descriptor(&self, key: &str, value: impl AsFd) -> Result<(), FsError> {
        fsconfig_set_fd(&self.0, key, value).map_err(|e| self.error("fsconfig", e))
    }

    /// Sets an option without a value.
    pub(crate) fn flag(&self, key: &str) -> Result<(), FsError> {
        fsconfig_set_flag(&self.0, key).map_err(|e| self.error("fsconfig", e))
    }

    /// Makes the file system, and a mount of it that is nowhere yet.
    pub(crate) fn make(&self, attributes: MountAttrFlags) -> Result<OwnedFd, FsError> {
        fsconfig_create(&self.0).map_err(|e| self.error("fsconfig", e))?;
        fsmount(&self.0, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(|e| self.error("fsmount", e))
    }

    /// Makes the file system and mounts it on `target`, which must be a directory and no link.
    pub(crate) fn mount(&self, attributes: MountAttrFlags, target: &Path) -> Result<(), FsError> {
        let mounted = self.make(attributes)?;
        move_mount(mounted, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(|e| self.error("move_mount", e))?;
        Ok(())
    }

    fn error(&self, call: &'static str, errno: Errno) -> FsError {
        FsError { call, errno, text: self.messages() }
    }

    /// What the kernel has to say: one message per read, each with a letter for its severity in front.
    fn messages(&self) -> String {
        let Ok(fd) = self.0.try_clone() else { return String::new() };
        let mut log = File::from(fd);
        let mut messages = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = log.read(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..length]);
            messages.push(message.trim_end().trim_start_matches(['e', 'w', 'i']).trim_start().to_owned());
        }
        messages.join("; ")
    }
}

/// Mounts the file system on block device `device` on `target`, without access times.
/// `options` are the file system's own: a name, and the value if it takes one.
pub(crate) fn mount_device(
    device: &Path,
    filesystem: &str,
    options: &[(&str, Option<&str>)],
    target: &Path,
) -> Result<()> {
    let result = configured(device, filesystem, options)
        .and_then(|context| context.mount(MountAttrFlags::MOUNT_ATTR_NOATIME, target));
    match result {
        Ok(()) => {}
        Err(error) if error.errno == Errno::NOSYS => {
            let text: Vec<String> = options
                .iter()
                .map(|(key, value)| value.map_or_else(|| (*key).to_owned(), |value| format!("{key}={value}")))
                .collect();
            mount_classic(device, target, filesystem, MountFlags::NOATIME, OsStr::new(&text.join(",")))?;
        }
        Err(error) => return Err(error.about(target.display())),
    }
    debug!(device = %device.display(), target = %target.display(), filesystem, "mounted");
    Ok(())
}

/// A mount of the file system on block device `device` that is nowhere to be seen, and goes with the descriptor. Of one that
/// is mounted, or held by the kernel, it is another mount of the same.
pub(crate) fn mount_nowhere(
    device: &Path,
    filesystem: &str,
    options: &[(&str, Option<&str>)],
) -> Result<OwnedFd> {
    configured(device, filesystem, options)
        .and_then(|context| context.make(MountAttrFlags::MOUNT_ATTR_NOATIME))
        .map_err(|error| error.about(device.display()))
}

fn configured(
    device: &Path,
    filesystem: &str,
    options: &[(&str, Option<&str>)],
) -> Result<FsContext, FsError> {
    let context = FsContext::open(filesystem)?;
    context.text("source", device)?;
    for (key, value) in options {
        match value {
            Some(value) => context.text(key, *value)?,
            None => context.flag(key)?,
        }
    }
    Ok(context)
}

/// `mount(2)`. The options must have less than a page: the kernel cuts the rest off without a word.
pub(crate) fn mount_classic(
    source: &Path,
    target: &Path,
    filesystem: &str,
    flags: MountFlags,
    options: &OsStr,
) -> Result<()> {
    let options = std::ffi::CString::new(options.as_encoded_bytes()).map_err(|_| {
        Error::invalid("mount options", options.to_string_lossy(), "must not contain a zero byte")
    })?;
    mount(source, target, filesystem, flags, options.as_c_str())
        .map_err(|e| Error::os("mount", target.display(), e))
}

/// Shows the directory `from` on `target`, too, without access times; what else holds for the mount that it is on holds there.
pub(crate) fn bind(from: &Path, target: &Path) -> Result<()> {
    let shown = statvfs(from).map_err(|e| Error::os("statvfs", from.display(), e))?.f_flag;
    let mut flags = MountFlags::BIND | MountFlags::NOATIME;
    for (present, kept) in [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    ] {
        flags.set(kept, shown.contains(present));
    }
    mount_bind(from, target).map_err(|e| Error::os("mount(MS_BIND)", target.display(), e))?;
    // Binding takes no other flag.
    mount_remount(target, flags, c"").map_err(|e| Error::os("mount(MS_REMOUNT)", target.display(), e))?;
    debug!(from = %from.display(), target = %target.display(), "bound");
    Ok(())
}

/// How long a mount may be busy. Whoever only looks at it (`df`, a monitoring agent) is gone sooner, and so is a program
/// that some thread of this one starts: for a moment it has copies of our descriptors.
const BUSY_PATIENCE: Duration = Duration::from_millis(300);

/// Unmounts what is on `target`. What is not mounted is unmounted. If something goes on using it, [`Error::Busy`] about
/// `what` says by which processes.
pub(crate) fn unmount_at(target: &Path, what: &str) -> Result<()> {
    let done =
        wait::until_true(wait::deadline(BUSY_PATIENCE), || match unmount(target, UnmountFlags::NOFOLLOW) {
            Ok(()) => {
                debug!(target = %target.display(), "unmounted");
                Ok(true)
            }
            Err(Errno::INVAL | Errno::NOENT) => Ok(true),
            Err(Errno::BUSY) => Ok(false),
            Err(error) => Err(Error::os("umount2", target.display(), error)),
        })?;
    if done {
        return Ok(());
    }
    let users = users_of(target);
    let users = if users.is_empty() { "something".to_owned() } else { users.join(", ") };
    Err(Error::Busy { what: what.to_owned(), reason: format!("{users} uses it") })
}

/// The block device (its number, as in `st_dev`) of the file system that is mounted exactly on `target`, or another number
/// if it has no device; `None` if nothing is mounted there, or if `target` does not exist.
pub(crate) fn mounted_on(target: &Path) -> Result<Option<u64>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = match statx(CWD, target, flags, StatxFlags::BASIC_STATS) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(None),
        // An xfs that has shut down says nothing else.
        Err(Errno::IO) => return listed_on(target),
        Err(error) => return Err(Error::os("statx", target.display(), error)),
    };
    // Kernels before 5.8 do not tell; and btrfs makes up its numbers, with the major number 0.
    if !found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return listed_on(target);
    }
    if !found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(None);
    }
    if found.stx_dev_major == 0 {
        return listed_on(target);
    }
    Ok(Some(rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor)))
}

/// As [`mounted_on`], from the list of all mounts, which takes longer to read.
fn listed_on(target: &Path) -> Result<Option<u64>> {
    let Some(mount) = mountinfo::mount_at(target)? else { return Ok(None) };
    let source = std::fs::metadata(&mount.source).ok().filter(|source| source.file_type().is_block_device());
    Ok(Some(match source {
        // Others may be given any source.
        Some(source) if mount.filesystem == "btrfs" => source.rdev(),
        _ => mount.device,
    }))
}

/// Processes that see device `number` mounted, of whatever mount namespace, one of each namespace: "4711 (sleep)". Best
/// effort, for messages.
pub(crate) fn viewers_of(number: u64) -> Vec<String> {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let device = format!(" {major}:{minor} ");
    // btrfs shows other numbers, but the device's name.
    let name = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).unwrap_or_default();
    let btrfs = format!(" - btrfs /dev/{} ", name.file_name().unwrap_or_default().display());
    viewers(|text| text.contains(&device) || text.contains(&btrfs))
}

/// Processes that see `directory` mounted, or a part of it, beside where it is, of whatever mount namespace, one of each
/// namespace: "4711 (sleep)".
pub(crate) fn viewers_of_directory(directory: &Path) -> Result<Vec<String>> {
    let Some(mount) = mountinfo::mount_of(directory)? else { return Ok(Vec::new()) };
    let root = mount.root.join(directory.strip_prefix(&mount.target).unwrap_or(Path::new("")));
    let shows = |mounts: &[mountinfo::Mount]| {
        mounts.iter().any(|other| other.device == mount.device && other.root.starts_with(&root))
    };
    // A thread can be in another namespace than its process.
    if shows(&mountinfo::mounts()?) {
        return Ok(vec![process::shown(std::process::id())]);
    }
    Ok(viewers(|text| shows(&mountinfo::parse(text.as_bytes()))))
}

/// Processes whose list of mounts is one that `shows`, one of each mount namespace.
fn viewers(shows: impl Fn(&str) -> bool) -> Vec<String> {
    let mut namespaces = std::collections::BTreeSet::new();
    let mut viewers = Vec::new();
    for dir in std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Ok(namespace) = std::fs::read_link(dir.join("ns/mnt")) else { continue };
        if namespaces.insert(namespace)
            && let Some(pid) = dir.file_name().and_then(|pid| pid.to_str()?.parse().ok())
            && file::of_process(pid, "mountinfo").is_ok_and(|text| shows(&text))
        {
            viewers.push(process::shown(pid));
        }
    }
    viewers
}

/// Processes that have something open beneath `target`: "4711 (sleep)". Best effort, for messages.
fn users_of(target: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    // Only the links' texts are read: following one could wait for a dead file server.
    let is_inside = |link: PathBuf| std::fs::read_link(link).is_ok_and(|to| to.starts_with(target));
    let uses = |process: &Path| {
        let links = ["cwd", "root", "exe"].iter().map(|name| process.join(name));
        let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|e| e.path());
        links.chain(open).any(is_inside)
    };
    entries
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .filter(|(_, path)| uses(path))
        .map(|(pid, _)| process::shown(pid))
        .collect()
}
