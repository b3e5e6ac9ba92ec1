//! User namespaces (`man 7 user_namespaces`): making one for its map of ids, and working with another id; and network
//! namespaces that belong to one.
//!
//! A process of several threads cannot make one for itself. So a child does, which shares the caller's memory (nothing
//! is copied), waits, and is killed as soon as there is a descriptor of its namespace. It dies with its maker.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::ptr;
use std::thread;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Gid;
use rustix::thread::{
    CapabilitySet, capabilities, set_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::error::{Error, Result};
use crate::sys::clone::{CLONE_CLEAR_SIGHAND, block_all_signals, clone3_call};

/// Bytes of stack for the child: it makes three system calls.
const STACK: usize = 16 * 1024;

/// A user namespace. It exists as long as its descriptor does.
#[derive(Debug)]
pub(crate) struct UserNamespace {
    namespace: OwnedFd,
    /// It has been killed already, and ends while others work; dropping it waits for that.
    _maker: Sleeper,
}

impl AsFd for UserNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

/// A child that does nothing, in a user namespace of its own. Dropping it ends it.
#[derive(Debug)]
struct Sleeper {
    pid: u32,
    pidfd: OwnedFd,
    /// The child runs on it, so it is freed after the child.
    _stack: Vec<u128>,
}

/// A new user namespace whose `uid_map` and `gid_map` are `map`.
pub(crate) fn with_map(map: &str) -> Result<UserNamespace> {
    let maker = Sleeper::with_map(map, 0)?;
    let namespace = maker.namespace("user")?;
    maker.kill();
    Ok(UserNamespace { namespace, _maker: maker })
}

/// A new network namespace that belongs to a new user namespace with that map: root there may set it up and mount its
/// `/sys`. It keeps the user namespace.
pub(super) fn network_with_map(map: &str) -> Result<OwnedFd> {
    Sleeper::with_map(map, libc::CLONE_NEWNET)?.namespace("net")
}

fn write_map(path: &Path, map: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(map.as_bytes()))
        .map_err(|e| Error::os("write", format_args!("{} ({map:?})", path.display()), e))
}

/// Why no namespace of a map could be made.
fn unmade(e: io::Error) -> Error {
    match e.raw_os_error() {
        Some(libc::ENOSPC | libc::EPERM | libc::ENOSYS | libc::EINVAL) => Error::Unsupported {
            what: "a map of ids".to_owned(),
            needs: format!(
                "it takes user namespaces (CONFIG_USER_NS, sysctl user.max_user_namespaces above the number in use), and root \
                 in the initial one: {e}"
            ),
        },
        _ => Error::os("clone3", "a user namespace", e),
    }
}

impl Sleeper {
    /// In a user namespace of this map, and in new namespaces of the kinds `more`.
    fn with_map(map: &str, more: i32) -> Result<Self> {
        let sleeper = Self::start(more).map_err(unmade)?;
        for name in ["uid_map", "gid_map"] {
            write_map(&sleeper.proc().join(name), map)?;
        }
        Ok(sleeper)
    }

    fn proc(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}", self.pid))
    }

    fn namespace(&self, kind: &str) -> Result<OwnedFd> {
        let path = self.proc().join("ns").join(kind);
        File::open(&path).map(OwnedFd::from).map_err(|e| Error::os("open", path.display(), e))
    }

    fn start(more: i32) -> io::Result<Self> {
        let mut stack: Vec<u128> = vec![0; STACK / mem::size_of::<u128>()];
        let mut pidfd: RawFd = -1;
        // SAFETY: all zero is a valid clone_args.
        let mut args: libc::clone_args = unsafe { mem::zeroed() };
        let flags = libc::CLONE_VM | libc::CLONE_PIDFD | libc::CLONE_NEWUSER | more;
        args.flags = u64::from(flags.unsigned_abs()) | CLONE_CLEAR_SIGHAND;
        args.pidfd = ptr::from_mut(&mut pidfd) as u64;
        // No signal when it ends, and no `wait` of the embedding program sees it.
        args.exit_signal = 0;
        args.stack = stack.as_mut_ptr() as u64;
        args.stack_size = STACK as u64;
        // The child inherits this: nothing but SIGKILL reaches it.
        let before = block_all_signals()?;
        // SAFETY: the stack is ours, a `u128` is 16-byte aligned and so is its end, and it is freed only after the child
        // has ended (`Drop`). The child runs `sleep`, which never returns, and shares this thread's thread-local
        // storage, of which it touches nothing.
        let result = unsafe { clone3_call(&args, sleep, ptr::without_provenance_mut(own_pid())) };
        // SAFETY: `before` is the whole set that `block_all_signals` was given.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
        if result < 0 {
            return Err(io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EIO)));
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let pid = u32::try_from(result).map_err(io::Error::other)?;
        Ok(Self { pid, pidfd, _stack: stack })
    }

    fn kill(&self) {
        let pidfd = self.pidfd.as_raw_fd();
        // SAFETY: no memory of ours is reached. That it has ended already is no harm: it is not waited for before `Drop`,
        // so its number is not another's.
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd, libc::SIGKILL, ptr::null::<u8>(), 0) };
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.kill();
        let id = self.pidfd.as_raw_fd().unsigned_abs();
        // SAFETY: the call fills one `siginfo_t`, which is plain data.
        unsafe {
            let mut info: libc::siginfo_t = mem::zeroed();
            while libc::waitid(libc::P_PIDFD, id, &mut info, libc::WEXITED | libc::__WALL) != 0
                && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
            {}
        }
    }
}

fn own_pid() -> usize {
    usize::try_from(std::process::id()).unwrap_or_default()
}

/// The child's whole life. It shares the memory of a thread that goes on: system calls that cannot fail, so that not even
/// `errno` is written.
extern "C" fn sleep(parent: *mut libc::c_void) -> ! {
    // SAFETY: plain system calls; `_exit` ends this process only.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // The maker may have died before that.
        if usize::try_from(libc::getppid()).unwrap_or_default() != parent.addr() {
            libc::_exit(0);
        }
        loop {
            libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0);
        }
    }
}

/// Gives the calling thread the ids that root of a map has outside, for files that it makes. It keeps the right to write
/// where such a root may. There is no way back: for a thread that ends soon.
pub(crate) fn become_root_of_map(id: u32) -> Result<()> {
    become_user(id, CapabilitySet::DAC_OVERRIDE)
}

/// Runs `job` on a thread that [is](become_root_of_map) root of a map, so that what it makes is that root's from the first
/// moment on.
pub(crate) fn as_root_of_map<T: Send>(id: u32, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_a_thread(|| {
        become_root_of_map(id)?;
        job()
    })
}

/// The first of `paths`, or of the directories above them, that root of a map may not pass, as any other user of the host
/// may not. What does not exist is in nobody's way.
pub(crate) fn first_barred(id: u32, paths: &[PathBuf]) -> Result<Option<PathBuf>> {
    on_a_thread(|| {
        become_user(id, CapabilitySet::empty())?;
        for path in paths {
            let mut above: Vec<&Path> = path.ancestors().collect();
            above.reverse();
            for pair in above.windows(2) {
                match rustix::fs::open(pair[1], OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
                    Ok(_) | Err(Errno::NOENT) => {}
                    Err(Errno::ACCESS) => return Ok(Some(pair[0].to_owned())),
                    Err(error) => return Err(Error::os("open", pair[1].display(), error)),
                }
            }
        }
        Ok(None)
    })
}

fn become_user(id: u32, effective: CapabilitySet) -> Result<()> {
    let failed = |call: &'static str| move |e: Errno| Error::os(call, format!("id {id}"), e);
    let (root, user) = (rustix::process::Uid::ROOT, rustix::process::Uid::from_raw(id));
    set_thread_groups(&[]).map_err(failed("setgroups"))?;
    set_thread_res_gid(Gid::ROOT, Gid::from_raw(id), Gid::ROOT).map_err(failed("setresgid"))?;
    set_thread_res_uid(root, user, root).map_err(failed("setresuid"))?;
    let mut sets = capabilities(None).map_err(failed("capget"))?;
    sets.effective = effective;
    set_capabilities(None, sets).map_err(failed("capset"))
}

fn on_a_thread<T: Send>(job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let span = tracing::Span::current();
        let worker = thread::Builder::new()
            .name("docklet-ids".to_owned())
            .spawn_scoped(scope, move || span.in_scope(job))
            .map_err(|e| Error::os("clone", "a thread with other ids", e))?;
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
