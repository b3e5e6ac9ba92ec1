//! Other mount namespaces (`man 7 mount_namespaces`, `man 2 setns`): working in one, and putting a mount into one.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::error::{Error, Result};
use crate::sys::clone::{reap, vfork};

/// Runs `job` on a thread that is in the mount namespace `namespace`, its root and its directory being that one's root.
pub(crate) fn within<T: Send>(
    namespace: BorrowedFd<'_>,
    job: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let inside = move || {
        let failed = |call: &'static str| move |e| Error::os(call, "a container's mount namespace", e);
        // SAFETY: only FILES and memory are dangerous to unshare; this gives the thread a root and a directory of its own.
        unsafe { unshare_unsafe(UnshareFlags::FS) }.map_err(failed("unshare(CLONE_FS)"))?;
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Mount))
            .map_err(failed("setns(CLONE_NEWNS)"))?;
        job()
    };
    thread::scope(|scope| {
        let span = tracing::Span::current();
        let worker = thread::Builder::new()
            .name("docklet-inside".to_owned())
            .spawn_scoped(scope, move || span.in_scope(inside))
            .map_err(|e| Error::os("clone", "a thread for a mount namespace", e))?;
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A mount to be put into another namespace.
#[derive(Debug)]
pub(crate) struct Graft<'a> {
    /// The directory that it is in, open to read: in this thread's mount namespace.
    pub(crate) directory: BorrowedFd<'a>,
    /// Its name there.
    pub(crate) name: &'a str,
    /// The user namespace that the other one belongs to, if that is not this one's.
    pub(crate) user: Option<BorrowedFd<'a>>,
    /// The other mount namespace.
    pub(crate) mounts: BorrowedFd<'a>,
    /// What to put it on, opened there.
    pub(crate) target: BorrowedFd<'a>,
}

/// What the child reads, and the one thing it writes. Both live in the caller's memory.
struct Plan {
    directory: RawFd,
    name: *const libc::c_char,
    user: RawFd,
    mounts: RawFd,
    target: RawFd,
    step: usize,
    errno: i32,
}

/// What the child does, one after the other.
const STEPS: [&str; 6] = [
    "fchdir",
    "setns(CLONE_NEWUSER)",
    "unshare(CLONE_NEWNS)",
    "open_tree",
    "setns(CLONE_NEWNS)",
    "move_mount",
];

impl Graft<'_> {
    /// Puts it there.
    ///
    /// Done by a child: what comes into a namespace of less privileged people must not be made writable by them again, and the
    /// kernel locks it when it copies a namespace for a user namespace. So the child enters that, copies the namespace,
    /// and takes the mount out of the copy; as a container's own mounts come about. A thread cannot enter a user namespace.
    pub(crate) fn attach(&self) -> Result<()> {
        let name = CString::new(self.name)
            .map_err(|_| Error::invalid("name of a mount", self.name, "must not contain a zero byte"))?;
        let mut plan = Plan {
            directory: self.directory.as_raw_fd(),
            name: name.as_ptr(),
            user: self.user.map_or(-1, |user| user.as_raw_fd()),
            mounts: self.mounts.as_raw_fd(),
            target: self.target.as_raw_fd(),
            step: 0,
            errno: 0,
        };
        let failed =
            |call: &'static str, e: io::Error| Error::os(call, format_args!("mount {}", self.name), e);
        // SAFETY: `child` never returns, and touches nothing but `plan`, which lives here until it has ended.
        let (_, pidfd) = unsafe { vfork(child, ptr::from_mut(&mut plan).cast(), None) }
            .map_err(|e| failed("clone3", e))?;
        reap(&pidfd).map_err(|e| failed("waitid", e))?;
        match (STEPS.get(plan.step), plan.errno) {
            (None, _) => Ok(()),
            // Killed by somebody: it says nothing.
            (Some(step), 0) => Err(failed(step, io::Error::from_raw_os_error(libc::EINTR))),
            (Some(step), errno) => Err(failed(step, io::Error::from_raw_os_error(errno))),
        }
    }
}

/// The child's whole life. It shares the memory of a caller that sleeps: no allocation, no lock, no drop, no panic.
extern "C" fn child(plan: *mut libc::c_void) -> ! {
    // SAFETY: `plan` is the `Plan` that the sleeping caller keeps; each call is async-signal-safe.
    unsafe {
        let plan = plan.cast::<Plan>();
        if !graft(&mut *plan) {
            (*plan).errno = *libc::__errno_location();
        }
        libc::_exit(0)
    }
}

/// # Safety
/// Only in the child.
unsafe fn graft(plan: &mut Plan) -> bool {
    // SAFETY: plain system calls on descriptors and memory that the caller keeps open and alive.
    unsafe {
        if libc::fchdir(plan.directory) != 0 {
            return false;
        }
        plan.step = 1;
        if plan.user >= 0 && libc::setns(plan.user, libc::CLONE_NEWUSER) != 0 {
            return false;
        }
        plan.step = 2;
        // The directory is that of the copy from now on.
        if libc::unshare(libc::CLONE_NEWNS) != 0 {
            return false;
        }
        plan.step = 3;
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE.unsigned_abs();
        let tree = libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, plan.name, flags);
        if tree < 0 {
            return false;
        }
        plan.step = 4;
        if libc::setns(plan.mounts, libc::CLONE_NEWNS) != 0 {
            return false;
        }
        plan.step = 5;
        let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
        let moved = libc::syscall(libc::SYS_move_mount, tree, c"".as_ptr(), plan.target, c"".as_ptr(), flags);
        if moved != 0 {
            return false;
        }
        plan.step = STEPS.len();
        true
    }
}
