//! Network namespaces that outlive the process that made them (`man 7 network_namespaces`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::idmap::IdMap;
use crate::sys::netns;

/// How long to wait for another process that makes the same namespace; it takes a few milliseconds.
const MAKING: Duration = Duration::from_secs(10);

/// A network namespace that is pinned on a file: it lasts until it is removed and nobody is in it. `ip netns` pins its own
/// in `/run/netns`: what is made by one is opened and removed by the other.
///
/// The value holds a descriptor of the namespace, and that alone keeps the namespace alive: what is in it (the veth pairs,
/// above all) goes when it is removed *and* the last value, socket and process of it are gone.
#[derive(Debug)]
pub struct NetworkNamespace {
    path: PathBuf,
    file: OwnedFd,
}

impl NetworkNamespace {
    /// Makes a network namespace with nothing but its loopback interface (up) and pins it on the file `path`, or
    /// adopts the one that is pinned there. The directory must exist; the file is made (mode 0600).
    ///
    /// # Errors
    /// [`Error::Invalid`] if `path` is not absolute; [`Error::Differs`] if there is something else than an empty file at
    /// `path`: it is left as it is; [`Error::Busy`] if another process has been at it for ten seconds; [`Error::Os`] if
    /// the system refuses.
    pub fn ensure(path: &Path) -> Result<Self> {
        check(path)?;
        let _span = tracing::debug_span!("network_namespace", path = %path.display()).entered();
        let file = netns::ensure_pinned(path, None, MAKING)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// As [`NetworkNamespace::ensure`], but the namespace belongs to a user namespace with the ids of `map`, which is made
    /// with it and pinned on [another file](NetworkNamespace::owner_path). Root there may set this network up, and mount its
    /// `/sys`; it may not in a network that belongs to the host. The kernel shows no map of a namespace that is adopted:
    /// one path is for one map.
    ///
    /// # Errors
    /// As [`NetworkNamespace::ensure`]; [`Error::Differs`] also if the one that is there belongs to the host;
    /// [`Error::Unsupported`] if the kernel has no user namespaces, or makes no more of them.
    pub fn ensure_mapped(path: &Path, map: &IdMap) -> Result<Self> {
        check(path)?;
        let _span = tracing::debug_span!("network_namespace", path = %path.display()).entered();
        let (pin, map) = (Self::owner_path(path), map.to_string());
        let owner = netns::Owner { path: &pin, map: &map };
        let file = netns::ensure_pinned(path, Some(owner), MAKING)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Where the user namespace is pinned that the network namespace at `path` belongs to: `path` with `.user` at its end.
    #[must_use]
    pub fn owner_path(path: &Path) -> PathBuf {
        let mut owner = path.as_os_str().to_owned();
        owner.push(".user");
        owner.into()
    }

    /// The network namespace that is pinned on the file `path`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such file, or nothing is pinned on it; [`Error::Os`] if it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        check(path)?;
        let file = netns::open_pinned(path)?
            .ok_or_else(|| Error::NotFound { what: format!("network namespace `{}`", path.display()) })?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Unpins the namespace at `path` and removes the file, also one that nothing is pinned on; likewise the user namespace
    /// that was made with it. What is gone is removed.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `path` is not absolute; [`Error::Differs`] if there is something else than a network
    /// namespace or an empty file at `path`: it is left as it is; [`Error::Os`] if the system refuses.
    pub fn remove(path: &Path) -> Result<()> {
        check(path)?;
        netns::remove_pinned(path, libc::CLONE_NEWNET)?;
        netns::remove_pinned(&Self::owner_path(path), libc::CLONE_NEWUSER)?;
        tracing::debug!(path = %path.display(), "network namespace removed");
        Ok(())
    }

    /// The file it is pinned on.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn duplicate(&self) -> Result<OwnedFd> {
        self.file.try_clone().map_err(|e| Error::os("dup", self.path.display(), e))
    }
}

impl AsFd for NetworkNamespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn check(path: &Path) -> Result<()> {
    if path.is_absolute() {
        Ok(())
    } else {
        Err(Error::invalid("network namespace", path.to_string_lossy(), "must be an absolute path"))
    }
}
