//! A child that shares the caller's memory until it becomes another program: `vfork` with a stack of its own, and a
//! control group to be born in (`man 2 clone3`).

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};

/// What the child is to do before it becomes the program.
pub(super) struct Request<'a> {
    /// The program.
    pub(super) path: &'a CStr,
    pub(super) args: &'a [CString],
    pub(super) env: &'a [CString],
    /// Its standard streams. Numbers above 2, so that none is overwritten before it is taken.
    pub(super) streams: [BorrowedFd<'a>; 3],
    /// Whether they are a terminal that becomes its controlling one.
    pub(super) on_terminal: bool,
    /// Files it writes itself into.
    pub(super) procs: &'a [BorrowedFd<'a>],
    /// The cgroup v2 directory it is born in.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
}

/// What the child reads, and the one thing it writes. Both live in the caller's memory.
struct Plan {
    path: *const libc::c_char,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
    streams: [RawFd; 3],
    on_terminal: bool,
    procs: *const RawFd,
    procs_len: usize,
    errno: i32,
}

/// Bytes of stack for the child: it calls a dozen thin functions.
const STACK: usize = 64 * 1024;

/// Makes the child and returns once it runs the program; or it could not, and has ended with the error that stands
/// beside its id. It has to be waited for in both cases.
pub(super) fn spawn(request: &Request<'_>) -> io::Result<(u32, OwnedFd, Option<io::Error>)> {
    let argv = pointers(request.args);
    let envp = pointers(request.env);
    let procs: Vec<RawFd> = request.procs.iter().map(AsRawFd::as_raw_fd).collect();
    let mut plan = Plan {
        path: request.path.as_ptr(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        streams: request.streams.map(|fd| fd.as_raw_fd()),
        on_terminal: request.on_terminal,
        procs: procs.as_ptr(),
        procs_len: procs.len(),
        errno: 0,
    };
    // SAFETY: what `plan` points to, and its descriptors, live in `request` and here until this returns.
    let (pid, pidfd) = unsafe { vfork(child, ptr::from_mut(&mut plan).cast(), request.cgroup) }?;
    let error = (plan.errno != 0).then(|| io::Error::from_raw_os_error(plan.errno));
    Ok((pid, pidfd, error))
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

/// Makes a child that runs `entry(arg)`, in the cgroup v2 directory `cgroup`, and returns once it has become a program or has
/// ended. It has to be waited for.
///
/// # Safety
/// `entry` must not return; what it does with `arg` must be right for a child that shares this memory: no allocation, no lock,
/// no drop, no panic.
pub(super) unsafe fn vfork(
    entry: extern "C" fn(*mut libc::c_void) -> !,
    arg: *mut libc::c_void,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<(u32, OwnedFd)> {
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
    // The child has no handlers (CLEAR_SIGHAND), but a signal to the caller's process group could stop it half-way, and
    // this thread with it.
    let before = block_all_signals()?;
    // SAFETY: the stack is ours, a `u128` is 16-byte aligned and so is its end, and it lives until the child has left
    // this memory (VFORK); the child runs `entry` only, which the caller vouches for. The child also shares this thread's thread-local storage (no SETTLS): all it changes there is `errno`, while this
    // thread sleeps.
    let result = unsafe { clone3_call(&args, entry, arg) };
    // SAFETY: `before` is the whole set that `block_all_signals` was given.
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

/// Waits for the end of a child, whatever it is.
pub(super) fn reap(pidfd: &OwnedFd) -> io::Result<()> {
    loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(_)) => return Ok(()),
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

// The C library's constants for these two have the type `c_int`, which they do not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
pub(super) const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// Blocks them for the calling thread; returns what it had blocked.
pub(super) fn block_all_signals() -> io::Result<libc::sigset_t> {
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

/// The child's whole life before exec. It shares the caller's memory: no allocation, no lock, no drop, no panic.
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
        // Descriptors of the embedding program that lack CLOEXEC are not the container's business. Not closed here:
        // closing one can wait (for a file server), and the caller sleeps. Kernels before 5.11 cannot put it off.
        if libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) != 0 {
            libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32);
        }
        // Nor is its directory: `lxc-attach` would change to the one of that name inside, and a directory in use cannot
        // be unmounted.
        if libc::chdir(c"/".as_ptr()) != 0 {
            return false;
        }
        // A terminal's Ctrl-C is meant for the program that embeds us.
        libc::setsid();
        if plan.on_terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 {
            return false;
        }
        // Handlers are gone already (CLEAR_SIGHAND), ignored signals are not: Rust programs ignore SIGPIPE.
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut()) == 0
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("docklet knows how to make a child on x86-64 and 64-bit ARM only: see src/sys/clone.rs");

/// `clone3` whose child runs `entry(arg)` on the stack in `args`. Returns the pid, or the negative error number.
///
/// # Safety
/// `args` must give a stack; `entry` must not return.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn clone3_call(
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
pub(super) unsafe fn clone3_call(
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
