//! The wait of the kernel before a process changes its control group (`favordynmods` in
//! `Documentation/admin-guide/cgroup-v2.rst`): for all processors to pass a quiet point. 1 to 18 ms were measured: the
//! more the longer nobody has moved.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use crate::sys::clone::{reap, vfork};

/// Lets a child that does nothing else move into the group where it is already, by that group's `cgroup.procs`, and returns when
/// it has. Those who move meanwhile, or soon after, wait only for what is left of this wait.
pub(crate) fn wait_ahead(procs: &File) -> io::Result<()> {
    let mut procs = procs.as_raw_fd();
    // SAFETY: `child` never returns and only reads the number, which lives here until it has ended.
    let (_, pidfd) = unsafe { vfork(child, ptr::from_mut(&mut procs).cast(), None) }?;
    reap(&pidfd)
}

/// The child's whole life. It shares the memory of a caller that sleeps: no allocation, no lock, no drop, no panic.
extern "C" fn child(procs: *mut libc::c_void) -> ! {
    // SAFETY: `procs` is the sleeping caller's number; both calls are async-signal-safe. If it cannot move, others wait longer,
    // no more.
    unsafe {
        libc::write(*procs.cast::<RawFd>(), c"0".as_ptr().cast(), 1);
        libc::_exit(0)
    }
}
