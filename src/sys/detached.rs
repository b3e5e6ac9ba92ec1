//! Mounts that are nowhere in the tree yet (`man 2 open_tree`, `man 2 mount_setattr`, `man 2 move_mount`), and mount
//! namespaces in which they can be put together unseen.
//!
//! A detached mount goes with its descriptor, such a namespace with its thread: a process that dies half-way leaves
//! nothing.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::thread;

use rustix::io::Errno;
use rustix::mount::{
    MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::error::{Error, Result};

/// A second mount of the file or directory `source`, with what is mounted beneath it if it is `recursive`. Kernel 5.2.
pub(crate) fn clone_tree(source: impl AsFd, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(source, "", flags)
}

/// Shows the owners of files on the detached `mount`, and on those beneath it if it is `recursive`, through the map of
/// `namespace`. Kernel 5.12, and only on file systems that know it: `EINVAL` elsewhere.
pub(crate) fn map_ids(
    mount: impl AsFd,
    namespace: BorrowedFd<'_>,
    recursive: bool,
) -> rustix::io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(namespace.as_raw_fd().unsigned_abs()),
    };
    set_attributes(mount.as_fd(), &attributes, recursive)
}

/// Adds `attributes` to the detached `mount`, and to those beneath it if it is `recursive`, and sets its propagation. Kernel
/// 5.12.
pub(crate) fn restrict(
    mount: impl AsFd,
    attributes: MountAttrFlags,
    propagation: MountPropagationFlags,
    recursive: bool,
) -> rustix::io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: attributes.bits().into(),
        attr_clr: 0,
        propagation: propagation.bits().into(),
        userns_fd: 0,
    };
    set_attributes(mount.as_fd(), &attributes, recursive)
}

fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: &libc::mount_attr,
    recursive: bool,
) -> rustix::io::Result<()> {
    let flags = if recursive { libc::AT_EMPTY_PATH | libc::AT_RECURSIVE } else { libc::AT_EMPTY_PATH };
    // SAFETY: the kernel reads one `mount_attr` of this size and an empty string; the descriptors are open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// Puts the detached `mount` on `target`.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// Runs `job` in a copy of this thread's mount namespace, from which no mount spreads. Descriptors of directories that
/// were opened before are the original's, so `job` opens its own. The thread and what it mounted are gone soon after.
pub(crate) fn in_private_namespace<T: Send + 'static>(
    job: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let private = move || {
        let failed = |call: &'static str| move |e: Errno| Error::os(call, "a private mount namespace", e);
        // SAFETY: only FILES and memory are dangerous to unshare; this changes this thread's view of the file system.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(failed("unshare(CLONE_NEWNS)"))?;
        // Before anything is mounted here: a copy of a shared mount would spread it to the original.
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
            .map_err(failed("mount(MS_PRIVATE)"))?;
        job()
    };
    thread::Builder::new()
        .name("docklet-mounts".to_owned())
        .spawn(move || {
            // Nobody receives it if the caller's thread is gone; the descriptors in it are closed then.
            let _ = sender.send(private());
        })
        .map_err(|e| Error::os("clone", "a thread for mounts", e))?;
    // Not joined: the end of its namespace waits for the kernel for a millisecond.
    receiver
        .recv()
        .map_err(|_| Error::os("join", "a thread for mounts", std::io::Error::other("it panicked")))?
}
