//! Helper programs: born inside a control group, cheap from a large program, reaped without signals.
//!
//! `man 2 clone3`, `man 2 vfork`, `man 2 pidfd_open`. Everything the child needs is made before the clone: between
//! clone and exec it shares the caller's memory and allocates nothing. No shell, no search in `PATH`, no inherited
//! environment.

#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::time::Duration;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::error::{Error, Result};
use crate::sys::pidfd;

/// What a standard stream of the child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// `/dev/null`.
    Null,
    /// A pipe whose other end is in [`Child`].
    Pipe,
}

/// A program to run.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    streams: [Stream; 3],
    cgroup: Option<BorrowedFd<'a>>,
    procs: Vec<BorrowedFd<'a>>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Exited(i32),
    Signaled(i32),
}

/// A running program. Dropping it kills and reaps it.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    pidfd: OwnedFd,
    ended: Option<Ended>,
    /// Our end of the child's standard input, if it is a pipe.
    pub(crate) stdin: Option<File>,
    /// Our end of the child's standard output, if it is a pipe.
    pub(crate) stdout: Option<File>,
    /// Our end of the child's standard error, if it is a pipe.
    pub(crate) stderr: Option<File>,
}

impl<'a> Program<'a> {
    /// The program at the absolute `path`. Its environment is `PATH` alone, its streams are `/dev/null`.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let path = c_string(path.as_os_str())?;
        Ok(Self {
            args: vec![path.clone()],
            path,
            env: vec![c"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            streams: [Stream::Null; 3],
            cgroup: None,
            procs: Vec::new(),
        })
    }

    /// Adds one argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Result<Self> {
        self.args.push(c_string(arg.as_ref())?);
        Ok(self)
    }

    /// Sets what standard input, output and error are.
    pub(crate) fn streams(mut self, streams: [Stream; 3]) -> Self {
        self.streams = streams;
        self
    }

    /// The child is born in the cgroup v2 directory `dir`.
    pub(crate) fn in_cgroup(mut self, dir: BorrowedFd<'a>) -> Self {
        self.cgroup = Some(dir);
        self
    }

    /// The child moves itself to this cgroup (an open `cgroup.procs`) before it becomes the program.
    pub(crate) fn entering(mut self, procs: BorrowedFd<'a>) -> Self {
        self.procs.push(procs);
        self
    }

    /// Starts it. Returns once the program runs, or did not.
    pub(crate) fn spawn(&self) -> Result<Child> {
        let shown = self.path.to_string_lossy();
        let failed = |call: &'static str| move |e: io::Error| Error::os(call, &shown, e);
        let mut ours = [None, None, None];
        let mut theirs = Vec::with_capacity(3);
        for (index, stream) in self.streams.iter().enumerate() {
            let end = match stream {
                Stream::Null => File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from),
                Stream::Pipe => {
                    pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from).map(|(read, write)| {
                        let (mine, its) = if index == 0 { (write, read) } else { (read, write) };
                        ours[index] = Some(File::from(mine));
                        its
                    })
                }
            };
            // Above the standard ones, so that the child's dup2 never meets its own source.
            let end = end.and_then(|fd| Ok(fcntl_dupfd_cloexec(&fd, 3)?)).map_err(failed.clone()("pipe"))?;
            theirs.push(end);
        }
        let argv = pointers(&self.args);
        let envp = pointers(&self.env);
        let procs: Vec<RawFd> = self.procs.iter().map(AsRawFd::as_raw_fd).collect();
        let mut plan = Plan {
            path: self.path.as_ptr(),
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            streams: [theirs[0].as_raw_fd(), theirs[1].as_raw_fd(), theirs[2].as_raw_fd()],
            procs: procs.as_ptr(),
            procs_len: procs.len(),
            errno: 0,
        };
        let (pid, pidfd) = clone_child(&mut plan, self.cgroup).map_err(failed.clone()("clone3"))?;
        let [stdin, stdout, stderr] = ours;
        let mut child = Child { pid, pidfd, ended: None, stdin, stdout, stderr };
        if plan.errno != 0 {
            child.wait()?;
            return Err(failed("execve")(io::Error::from_raw_os_error(plan.errno)));
        }
        Ok(child)
    }
}

impl Child {
    /// Waits until it ends.
    pub(crate) fn wait(&mut self) -> Result<Ended> {
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        let status = loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Ok(Some(status)) => break status,
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::os("waitid", self.pid, error)),
            }
        };
        let ended = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ended::Exited(code),
            (None, signal) => Ended::Signaled(signal.unwrap_or(0)),
        };
        self.ended = Some(ended);
        Ok(ended)
    }

    /// Waits until it ends, for at most `timeout`.
    pub(crate) fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<Ended>> {
        if self.ended.is_none() && !pidfd::wait_exit(self.pidfd.as_fd(), Some(timeout))? {
            return Ok(None);
        }
        self.wait().map(Some)
    }

    /// Sends SIGKILL. One that has ended is killed.
    pub(crate) fn kill(&self) {
        if self.ended.is_none() {
            // It fails only for a process that is dead already.
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }

    /// Becomes readable when the program has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.kill();
            let _ = self.wait();
        }
    }
}

fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| Error::invalid("argument", text.to_string_lossy(), "must not contain a zero byte"))
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

/// What the child reads, and the one thing it writes. Both live in the caller's memory.
#[repr(C)]
struct Plan {
    path: *const libc::c_char,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
    streams: [RawFd; 3],
    procs: *const RawFd,
    procs_len: usize,
    errno: i32,
}

/// Bytes of stack for the child: it calls a dozen thin functions.
const STACK: usize = 64 * 1024;

fn clone_child(plan: &mut Plan, cgroup: Option<BorrowedFd<'_>>) -> io::Result<(u32, OwnedFd)> {
    let mut stack: Vec<u128> = vec![0; STACK / mem::size_of::<u128>()];
    let mut pidfd: RawFd = -1;
    // SAFETY: all zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { mem::zeroed() };
    // VM and VFORK: nothing is copied, however large the caller is, and the caller's thread sleeps until the exec.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD;
    args.flags = u64::from(flags.unsigned_abs()) | CLONE_CLEAR_SIGHAND;
    args.pidfd = ptr::from_mut(&mut pidfd) as u64;
    args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    args.stack = stack.as_mut_ptr() as u64;
    args.stack_size = STACK as u64;
    if let Some(dir) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(dir.as_raw_fd().unsigned_abs());
    }
    // No handler of the caller may run in the child, on the caller's memory.
    let before = block_all_signals()?;
    // SAFETY: the stack is ours, 16-byte aligned, and lives until the child has left this memory (VFORK); the child
    // runs `child` only, which never returns; `plan` outlives it for the same reason.
    let result = unsafe { clone3_call(&args, child, ptr::from_mut(plan).cast()) };
    // SAFETY: `before` was filled by the same call.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
    drop(stack);
    if result < 0 {
        return Err(io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EIO)));
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let pid = u32::try_from(result).map_err(io::Error::other)?;
    Ok((pid, pidfd))
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

fn block_all_signals() -> io::Result<libc::sigset_t> {
    // SAFETY: both sets are plain memory that the calls fill.
    unsafe {
        let mut all: libc::sigset_t = mem::zeroed();
        let mut before: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&mut all);
        match libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before) {
            0 => Ok(before),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// The child's whole life before exec. It shares the caller's memory: no allocation, no lock, no drop.
extern "C" fn child(plan: *mut libc::c_void) -> ! {
    // SAFETY: `plan` is the `Plan` that the sleeping caller keeps; each call is async-signal-safe.
    unsafe {
        let plan = plan.cast::<Plan>();
        if prepare(&*plan) {
            libc::execve((*plan).path, (*plan).argv, (*plan).envp);
        }
        (*plan).errno = match *libc::__errno_location() {
            0 => libc::EIO,
            errno => errno,
        };
        libc::_exit(127)
    }
}

/// # Safety
/// Only in the child, before exec.
unsafe fn prepare(plan: &Plan) -> bool {
    // SAFETY: plain system calls on descriptors and memory that the caller keeps open and alive.
    unsafe {
        for index in 0..plan.procs_len {
            // "0" is the writer itself.
            if libc::write(*plan.procs.add(index), c"0".as_ptr().cast(), 1) != 1 {
                return false;
            }
        }
        for (target, source) in (0..).zip(plan.streams) {
            if libc::dup2(source, target) < 0 {
                return false;
            }
        }
        // Descriptors of the embedding program that lack CLOEXEC are not the container's business.
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 4_u32);
        // A terminal's Ctrl-C is meant for the program that embeds us.
        libc::setsid();
        // Handlers are gone already (CLEAR_SIGHAND), ignored signals are not: Rust programs ignore SIGPIPE.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::signal(libc::SIGHUP, libc::SIG_DFL);
        libc::signal(libc::SIGINT, libc::SIG_DFL);
        libc::signal(libc::SIGQUIT, libc::SIG_DFL);
        libc::signal(libc::SIGTERM, libc::SIG_DFL);
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut()) == 0
    }
}

/// `clone3` whose child runs `entry(arg)` on the stack in `args`. Returns the pid, or the negative error number.
///
/// # Safety
/// `args` must give a stack; `entry` must not return.
#[cfg(target_arch = "x86_64")]
unsafe fn clone3_call(
    args: &libc::clone_args,
    entry: extern "C" fn(*mut libc::c_void) -> !,
    arg: *mut libc::c_void,
) -> i64 {
    let result: i64;
    // SAFETY: the child leaves this function at once, on its own stack; the caller goes on as after any call.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") ptr::from_ref(args),
            in("rsi") mem::size_of::<libc::clone_args>(),
            in("r12") entry,
            in("r13") arg,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// As on x86-64.
///
/// # Safety
/// `args` must give a stack; `entry` must not return.
#[cfg(target_arch = "aarch64")]
unsafe fn clone3_call(
    args: &libc::clone_args,
    entry: extern "C" fn(*mut libc::c_void) -> !,
    arg: *mut libc::c_void,
) -> i64 {
    let result: i64;
    // SAFETY: the child leaves this function at once, on its own stack; the caller goes on as after any call.
    unsafe {
        std::arch::asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, {arg}",
            "blr {entry}",
            "brk 1",
            "2:",
            inlateout("x0") ptr::from_ref(args) as i64 => result,
            in("x1") mem::size_of::<libc::clone_args>(),
            in("x8") libc::SYS_clone3,
            entry = in(reg) entry,
            arg = in(reg) arg,
            lateout("x30") _,
        );
    }
    result
}

impl Ended {
    /// As a person reads it.
    pub(crate) fn shown(self) -> String {
        match self {
            Self::Exited(code) => format!("exit status: {code}"),
            Self::Signaled(signal) => format!("signal: {signal}"),
        }
    }
}

/// The pid as rustix wants it.
pub(crate) fn pid(raw: u32) -> Result<Pid> {
    i32::try_from(raw)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::invalid("process id", raw.to_string(), "must be 1 to 2147483647"))
}
