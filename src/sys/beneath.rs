//! Opening what lies beneath a directory, without following a link or crossing a mount on the way (`man 2 openat2`).
//!
//! Where links are to be followed, [`ConfinedRoot`](crate::sys::confined::ConfinedRoot) keeps them inside.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// The longest path that is handed to the kernel in one piece, in bytes; its limit is 4095.
const PIECE_MAX: usize = 4000;

/// Opens `path` beneath `root`, of any length; without a name in it, `root` itself. A link is opened, not followed (with
/// `O_PATH`, else it is `ELOOP`).
pub(crate) fn open_beneath(
    root: BorrowedFd<'_>,
    path: impl AsRef<Path>,
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let open = |at: BorrowedFd<'_>, path: &Path, flags: OFlags| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        openat2(at, path, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)
    };
    let mut at: Option<OwnedFd> = None;
    let mut piece = PathBuf::new();
    for name in path.as_ref().components() {
        if piece.as_os_str().len() + name.as_os_str().len() > PIECE_MAX {
            let from = at.as_ref().map_or(root, OwnedFd::as_fd);
            at = Some(open(from, &piece, OFlags::PATH | OFlags::DIRECTORY)?);
            piece.clear();
        }
        piece.push(name);
    }
    open(at.as_ref().map_or(root, OwnedFd::as_fd), &piece, flags)
}
