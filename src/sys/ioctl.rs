//! `man 2 ioctl`, for the requests that rustix does not have.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// A request that takes an integer, or nothing. Returns what it returns.
///
/// # Safety
/// `request` must not take its argument for an address.
pub(super) unsafe fn number(
    fd: impl AsFd,
    request: libc::Ioctl,
    argument: c_int,
) -> rustix::io::Result<c_int> {
    // SAFETY: no memory of ours is reached, says the caller; the descriptor is open.
    result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, argument) })
}

/// A request that takes the address of one `T`. Returns what it returns.
///
/// # Safety
/// `request` must reach nothing but one `T`, and leave a valid one in its place.
pub(super) unsafe fn structure<T>(
    fd: impl AsFd,
    request: libc::Ioctl,
    argument: &mut T,
) -> rustix::io::Result<c_int> {
    // SAFETY: the request reaches `argument` only, says the caller, and it lives through the call; the descriptor is
    // open.
    result(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, std::ptr::from_mut(argument)) })
}

fn result(returned: c_int) -> rustix::io::Result<c_int> {
    if returned >= 0 {
        return Ok(returned);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
