//! The few `ptrace` requests that a tracer needs, and what `wait` reports, as data. See `man 2 ptrace`.
//!
//! A tracee can be killed at any time, after which a request about it is `ESRCH`. That is no error here: its death
//! is reported by [`wait`] in any case.

#![allow(unsafe_code)]

use std::io;
use std::ptr::null_mut;

use rustix::process::WaitOptions;

/// A thread's id; the process's id is that of its first thread.
pub(crate) type Tid = i32;

/// What a tracee may bring with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Follow {
    /// Threads.
    Threads,
    /// Threads, child processes, and the programs they become.
    Everything,
}

/// What happened to a tracee, or to a child that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It is gone; the status as `wait` gives it.
    Ended(i32),
    /// It enters or leaves a system call: [`call`] tells which.
    Call,
    /// It made a thread or process, whose first stop is reported as its own.
    Child(Tid),
    /// It became another program. It had another id before, if it was not the first thread.
    Program { before: Tid },
    /// It was interrupted, or is new.
    Interrupted,
    /// A signal is about to be delivered.
    Signal(i32),
}

/// One side of a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Entry { number: i64, args: [u64; 6] },
    Exit { result: i64 },
}

/// How a stopped tracee goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resume {
    /// To the next side of a system call.
    ToCall,
    /// Until something else happens to it.
    Free,
}

fn request(request: u32, tid: Tid, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: the requests made here take `address` and `data` as numbers, or as a pointer to a live buffer whose
    // size is given beside it.
    let result = unsafe { libc::ptrace(request, tid, address, data) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Dead tracees are reported by [`wait`].
fn unless_dead(result: io::Result<()>) {
    if let Err(error) = result {
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH), "ptrace: {error}");
    }
}

/// Traces the thread `tid` from now on. It is not stopped by that.
pub(crate) fn seize(tid: Tid, follow: Follow) -> io::Result<()> {
    let mut options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
    if follow == Follow::Everything {
        options |= libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_TRACEVFORK | libc::PTRACE_O_TRACEEXEC;
    }
    let options = usize::try_from(options).expect("flags");
    request(libc::PTRACE_SEIZE, tid, 0, options)
}

/// Stops a running tracee; an [`Event::Interrupted`] follows, unless another stop comes first.
pub(crate) fn interrupt(tid: Tid) {
    unless_dead(request(libc::PTRACE_INTERRUPT, tid, 0, 0));
}

/// Lets a stopped tracee go on, delivering `signal` (0: none).
pub(crate) fn resume(tid: Tid, resume: Resume, signal: i32) {
    let how = match resume {
        Resume::ToCall => libc::PTRACE_SYSCALL,
        Resume::Free => libc::PTRACE_CONT,
    };
    unless_dead(request(how, tid, 0, usize::try_from(signal).expect("signal")));
}

/// Lets a stopped tracee go on untraced. A call it was about to make is carried out.
pub(crate) fn detach(tid: Tid, signal: i32) {
    unless_dead(request(libc::PTRACE_DETACH, tid, 0, usize::try_from(signal).expect("signal")));
}

/// Which system call a tracee that stopped with [`Event::Call`] is at; `None` if it was killed meanwhile.
pub(crate) fn call(tid: Tid) -> Option<Side> {
    // SAFETY: all zeros is a value of this plain C structure.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info);
    let address = (&raw mut info).expose_provenance();
    request(libc::PTRACE_GET_SYSCALL_INFO, tid, size, address).ok()?;
    match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: `op` says that this is the member that the kernel filled.
            let entry = unsafe { info.u.entry };
            Some(Side::Entry { number: entry.nr.cast_signed(), args: entry.args })
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            // SAFETY: as above.
            let exit = unsafe { info.u.exit };
            Some(Side::Exit { result: exit.sval })
        }
        _ => None,
    }
}

fn message(tid: Tid) -> Tid {
    let mut message: libc::c_ulong = 0;
    // SAFETY: the kernel writes one `unsigned long` through the pointer.
    unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, tid, null_mut::<libc::c_void>(), &raw mut message) };
    Tid::try_from(message).unwrap_or(0)
}

/// Waits for the next thing that happens to any tracee or child; `None` if there are none.
pub(crate) fn wait() -> Option<(Tid, Event)> {
    // Without __WALL children whose end is not told by SIGCHLD are passed over.
    let options = WaitOptions::from_bits_retain(libc::__WALL.cast_unsigned());
    let (tid, status) = loop {
        match rustix::process::wait(options) {
            Ok(Some((pid, status))) => break (pid.as_raw_nonzero().get(), status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) => return None,
            Err(error) => panic!("wait: {error}"),
        }
    };
    let Some(signal) = status.stopping_signal() else { return Some((tid, Event::Ended(status.as_raw()))) };
    let event = match status.as_raw() >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => Event::Call,
        0 => Event::Signal(signal),
        libc::PTRACE_EVENT_CLONE | libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK => {
            Event::Child(message(tid))
        }
        libc::PTRACE_EVENT_EXEC => Event::Program { before: message(tid) },
        // PTRACE_EVENT_STOP. Nothing here uses job control, so it is not a group stop.
        _ => Event::Interrupted,
    };
    Some((tid, event))
}
