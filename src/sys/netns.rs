//! Network namespaces (`man 7 network_namespaces`, `man 7 namespaces`): making one, pinning it on a file, working in it.
//!
//! A thread that has entered another namespace is no use to anyone else, so each job gets a thread of its own. It
//! begins in its parent's mount namespace and leaves only the network namespace.
//!
//! A network namespace can belong to a user namespace of its own ([`Owner`]), which is pinned beside it.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstatfs};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::error::{Error, Result};
use crate::sys::file::{absent_is_none, descriptor_path, remove_file};
use crate::sys::{ioctl, userns, wait};

/// `NSFS_MAGIC` of `linux/magic.h`: the file system of namespaces, pinned ones too.
pub(crate) const NSFS_MAGIC: u64 = 0x6e73_6673;

/// What there is at the place of a pin.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// A pinned namespace of this kind (`CLONE_NEWNET`).
    Pinned(c_int),
    /// An empty file, on which one can be pinned.
    Free,
    /// Something that is not ours.
    Foreign,
}

/// The user namespace that a new network namespace is to belong to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner<'a> {
    /// Where it is pinned.
    pub(crate) path: &'a Path,
    /// Its `uid_map` and `gid_map`.
    pub(crate) map: &'a str,
}

/// Looks at the place `path`, opened as `file`.
fn inspect(file: &File, path: &Path) -> Result<Place> {
    let found = fstatfs(file).map_err(|e| Error::os("fstatfs", path.display(), e))?;
    if u64::try_from(found.f_type) != Ok(NSFS_MAGIC) {
        let metadata = file.metadata().map_err(|e| Error::os("fstat", path.display(), e))?;
        let free = metadata.is_file() && metadata.len() == 0;
        return Ok(if free { Place::Free } else { Place::Foreign });
    }
    // SAFETY: the request takes no argument (`man 2 ioctl_nsfs`).
    let kind = unsafe { ioctl::number(file, libc::NS_GET_NSTYPE, 0) }
        .map_err(|e| Error::os("ioctl(NS_GET_NSTYPE)", path.display(), e))?;
    Ok(Place::Pinned(kind))
}

fn foreign(path: &Path, kind: c_int) -> Error {
    let kind = if kind == libc::CLONE_NEWNET { "network" } else { "user" };
    Error::Differs {
        what: format!("`{}`", path.display()),
        difference: format!("it is neither a pinned {kind} namespace nor an empty file"),
    }
}

/// Opens the place `path` to read, if there is anything. A link is not followed.
fn open(path: &Path) -> Result<Option<File>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    absent_is_none(OpenOptions::new().read(true).custom_flags(flags).open(path))
        .map_err(|e| Error::os("open", path.display(), e))
}

/// The network namespace that is pinned at `path`, or `None` if there is no such file or nothing is pinned on it.
pub(crate) fn open_pinned(path: &Path) -> Result<Option<OwnedFd>> {
    let Some(file) = open(path)? else { return Ok(None) };
    Ok((inspect(&file, path)? == Place::Pinned(libc::CLONE_NEWNET)).then(|| file.into()))
}

/// The network namespace that is pinned at `path`; makes one, with its loopback interface up, if there is none.
/// Callers that race for one path end with one namespace; one waits for at most `timeout`. With an `owner` it belongs to that
/// user namespace, which is made with it.
pub(crate) fn ensure_pinned(path: &Path, owner: Option<Owner<'_>>, timeout: Duration) -> Result<OwnedFd> {
    let namespace = ensure_network(path, owner, timeout)?;
    if let Some(owner) = owner {
        pin_owner(&namespace, path, owner.path)?;
    }
    Ok(namespace)
}

fn ensure_network(path: &Path, owner: Option<Owner<'_>>, timeout: Duration) -> Result<OwnedFd> {
    let found = wait::until(wait::deadline(timeout), || {
        if let Some(namespace) = open_pinned(path)? {
            return Ok(Some(namespace));
        }
        let Some(file) = lock_file(path)? else { return Ok(None) };
        make_pinned(&file, path, owner)?;
        open_pinned(path)
    })?;
    found.ok_or_else(|| Error::Busy {
        what: format!("network namespace `{}`", path.display()),
        reason: format!("another process has been making it for more than {timeout:?}"),
    })
}

/// The locked file that a namespace will be pinned on, or `None` if somebody else has it or has pinned one on it.
fn lock_file(path: &Path) -> Result<Option<File>> {
    // Only to read: a namespace that was pinned there just now cannot be opened to write.
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))
        .map(File::from)
        .map_err(|e| Error::os("open", path.display(), e))?;
    match inspect(&file, path)? {
        Place::Free => {}
        Place::Pinned(libc::CLONE_NEWNET) => return Ok(None),
        Place::Pinned(_) | Place::Foreign => return Err(foreign(path, libc::CLONE_NEWNET)),
    }
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(error) => return Err(Error::os("flock", path.display(), error)),
    }
    // Between our open and our lock somebody may have pinned one there, or removed the file.
    let ours = file.metadata().map_err(|e| Error::os("fstat", path.display(), e))?;
    let same = fs::symlink_metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino()));
    Ok(same.then_some(file))
}

/// Makes a network namespace and pins it on `file`.
fn make_pinned(file: &File, path: &Path, owner: Option<Owner<'_>>) -> Result<()> {
    on_a_thread(|| {
        match owner {
            Some(owner) => enter(userns::network_with_map(owner.map)?)?,
            // SAFETY: only FILES and memory are dangerous to unshare; this changes this thread's network namespace.
            None => unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                .map_err(|e| Error::os("unshare(CLONE_NEWNET)", path.display(), e))?,
        }
        raise_loopback().map_err(|e| Error::os("ioctl(SIOCSIFFLAGS)", "lo", e))?;
        // Through the descriptor: a link that somebody puts at `path` now cannot lead the mount elsewhere.
        mount_bind("/proc/thread-self/ns/net", descriptor_path(file))
            .map_err(|e| Error::os("mount(MS_BIND)", path.display(), e))
    })?
}

/// Pins the user namespace that `network`, which is pinned on `path`, belongs to. The network namespace keeps it, so what a
/// crash left out, or what is pinned there from an earlier one, is put right at any time.
fn pin_owner(network: &OwnedFd, path: &Path, pin: &Path) -> Result<()> {
    let wanted = File::from(owner_of(network, path)?);
    let number = |file: &File| file.metadata().map(|found| (found.dev(), found.ino()));
    let failed = |call: &'static str| move |e: io::Error| Error::os(call, pin.display(), e);
    let number_of_wanted = number(&wanted).map_err(failed("fstat"))?;
    let own = fs::metadata("/proc/self/ns/user").map_err(failed("stat"))?;
    if number_of_wanted == (own.dev(), own.ino()) {
        return Err(Error::Differs {
            what: format!("network namespace `{}`", path.display()),
            difference: "it belongs to the host, and not to a user namespace of its own".to_owned(),
        });
    }
    if let Some(file) = open(pin)?
        && number(&file).map_err(failed("fstat"))? == number_of_wanted
    {
        return Ok(());
    }
    remove_pinned(pin, libc::CLONE_NEWUSER)?;
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::open(pin, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| Error::os("open", pin.display(), e))?;
    mount_bind(descriptor_path(&wanted), descriptor_path(&place))
        .map_err(|e| Error::os("mount(MS_BIND)", pin.display(), e))
}

/// The user namespace that a network namespace belongs to.
fn owner_of(network: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    // SAFETY: the request takes no argument (`man 2 ioctl_nsfs`).
    let number = unsafe { ioctl::number(network, libc::NS_GET_USERNS, 0) }
        .map_err(|e| Error::os("ioctl(NS_GET_USERNS)", path.display(), e))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sets `lo` of the calling thread's namespace up.
fn raise_loopback() -> io::Result<()> {
    // Any socket will do to reach its namespace's interfaces (`man 7 netdevice`).
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all-zero bytes are a valid `ifreq`, which is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = libc::c_char::try_from(*from).unwrap_or_default();
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).unwrap_or_default();
    // SAFETY: the request reads one `ifreq`; the name in this one ends in zero.
    Ok(unsafe { ioctl::structure(socket, libc::SIOCSIFFLAGS, &mut request) }.map(drop)?)
}

/// Unpins the namespace of that `kind` (`CLONE_NEWNET`) at `path` and removes the file. What is gone is removed; what is not
/// ours is left.
pub(crate) fn remove_pinned(path: &Path, kind: c_int) -> Result<()> {
    loop {
        let Some(file) = open(path)? else { return Ok(()) };
        match inspect(&file, path)? {
            Place::Free => return remove_file(path),
            Place::Pinned(found) if found == kind => {}
            Place::Pinned(_) | Place::Foreign => return Err(foreign(path, kind)),
        }
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Once more: there may be another beneath. Or somebody else was faster.
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => return Err(Error::os("umount", path.display(), error)),
        }
    }
}

/// Runs `job` on a new thread that is in the network namespace `namespace`, and returns at once. `job` is dropped
/// without a run if the thread cannot get there: send the result through a channel.
pub(crate) fn spawn_in(namespace: OwnedFd, job: impl FnOnce(Result<()>) + Send + 'static) -> Result<()> {
    let entered = move || enter(namespace);
    thread::Builder::new()
        .name("docklet-netns".to_owned())
        .spawn(move || job(entered()))
        .map(drop)
        .map_err(|e| Error::os("clone", "a thread for a network namespace", e))
}

/// Moves the calling thread to `namespace`.
fn enter(namespace: OwnedFd) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| Error::os("setns(CLONE_NEWNET)", "a network namespace", e))
}

/// Runs `job` on a new thread and waits for it.
fn on_a_thread<T: Send>(job: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new()
            .name("docklet-netns".to_owned())
            .spawn_scoped(scope, job)
            .map_err(|e| Error::os("clone", "a thread for a network namespace", e))?;
        worker.join().map_err(|_| {
            Error::os("join", "a thread for a network namespace", io::Error::other("it panicked"))
        })
    })
}
