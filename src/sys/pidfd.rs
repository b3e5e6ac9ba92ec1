//! Processes held by descriptor (`man 2 pidfd_open`): a pid alone may be somebody else's by now.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};
use crate::sys::{file, process, wait};

/// Opens the process `pid`; `None` if there is none.
pub(crate) fn open(pid: u32) -> Result<Option<OwnedFd>> {
    match pidfd_open(process::pid(pid)?, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::SRCH | Errno::INVAL) => Ok(None),
        Err(error) => Err(Error::os("pidfd_open", format_args!("process {pid}"), error)),
    }
}

/// Opens the process `pid` if it is the one that was born at `start_time` and it still lives.
pub(crate) fn open_born(pid: u32, start_time: u64) -> Result<Option<OwnedFd>> {
    let Some(fd) = open(pid)? else { return Ok(None) };
    // Read after the open: if the number still means this birth now, the descriptor is of this process.
    if self::start_time(pid) != Some(start_time) || wait_exit(fd.as_fd(), Some(Duration::ZERO))? {
        return Ok(None);
    }
    Ok(Some(fd))
}

/// When a process was born, in clock ticks since boot (field 22 of `/proc/PID/stat`).
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    stat_field(pid, 22)?.parse().ok()
}

/// The pid of a process's parent.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    stat_field(pid, 4)?.parse().ok()
}

/// Whether a process has become a program of its own since its parent made it. Which file it runs does not tell: a container's
/// init can be the monitor's own, by `/proc/self/exe`, with a loader of the container's.
pub(crate) fn has_executed(pid: u32) -> bool {
    /// `PF_FORKNOEXEC` of the kernel's `include/linux/sched.h`.
    const FORKED_ONLY: u32 = 0x40;
    stat_field(pid, 9)
        .and_then(|flags| flags.parse::<u32>().ok())
        .is_some_and(|flags| flags & FORKED_ONLY == 0)
}

/// What tells to whom a process belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Family {
    pub(crate) parent: u32,
    pub(crate) session: u32,
    start_time: u64,
}

/// The family of the process `pid`, unless it has ended.
pub(crate) fn family(pid: u32) -> Option<Family> {
    Some(Family {
        parent: parent(pid)?,
        session: stat_field(pid, 6)?.parse().ok()?,
        start_time: start_time(pid)?,
    })
}

fn stat_field(pid: u32, number: usize) -> Option<String> {
    let text = file::of_process(pid, "stat").ok()?;
    // The name (field 2) can hold anything, also brackets; the fields after the last bracket begin with the third.
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?).map(str::to_owned)
}

/// Waits until the process has ended; `false` if it still lives after `timeout`.
pub(crate) fn wait_exit(pidfd: BorrowedFd<'_>, timeout: Option<Duration>) -> Result<bool> {
    let mut watched = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    wait::ready(&mut watched, timeout.map(wait::deadline))
        .map_err(|e| Error::os("poll", "a process descriptor", e))?;
    Ok(!watched[0].revents().is_empty())
}

/// Sends `signal`; `false` if the process has ended.
pub(crate) fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<bool> {
    // rustix has no safe way to name a real-time signal.
    // SAFETY: a valid descriptor, no siginfo, no flags.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<()>(), 0_u32)
    };
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        error => Err(Error::os("pidfd_send_signal", format_args!("signal {signal}"), error)),
    }
}

/// Waits until the process behind `pidfd` has ended, without a thread.
pub(crate) async fn ended(pidfd: OwnedFd) -> Result<()> {
    readable(pidfd).await
}

/// Waits until a descriptor is readable, without a thread.
pub(crate) async fn readable(descriptor: OwnedFd) -> Result<()> {
    // SAFETY: the descriptor is owned, so it stays open and the same until the registration is dropped with it.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    let failed = |error: io::Error| Error::os("epoll_ctl", "a descriptor that is waited for", error);
    let readable = registered.map_err(|error| failed(error.into()))?;
    readable.readable().await.map(drop).map_err(failed)
}
