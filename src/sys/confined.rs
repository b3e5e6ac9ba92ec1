//! A file tree that nothing can lead us out of (`man 2 openat2` on `RESOLVE_IN_ROOT`).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2, symlinkat};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// A directory that is `/` to every path used with it: links inside it, absolute or with `..`, stay inside.
#[derive(Debug)]
pub(crate) struct ConfinedRoot {
    root: OwnedFd,
    shown: PathBuf,
}

impl ConfinedRoot {
    /// Opens the directory `root`, which the caller vouches for.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let fd = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Error::os("open", root.display(), e))?;
        Ok(Self { root: fd, shown: root.to_owned() })
    }

    /// The directory `root`, which is `shown` in errors.
    pub(crate) fn within(root: BorrowedFd<'_>, shown: impl Into<PathBuf>) -> Result<Self> {
        let shown = shown.into();
        let root = root.try_clone_to_owned().map_err(|e| Error::os("dup", shown.display(), e))?;
        Ok(Self { root, shown })
    }

    /// Opens `path` inside. With `follow` links are followed as if this root were `/`, without it any link on the
    /// way is `ELOOP`.
    pub(crate) fn open_at(
        &self,
        path: &Path,
        flags: OFlags,
        mode: Mode,
        follow: bool,
    ) -> io::Result<OwnedFd> {
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        if !follow {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        Ok(settled(|| openat2(&self.root, relative, flags | OFlags::CLOEXEC, mode, resolve))?)
    }

    /// Makes the directory `path` (mode 0755) and those above it. No link on the way is followed.
    pub(crate) fn create_dir_all(&self, path: &Path) -> Result<()> {
        let mut made = PathBuf::from("/");
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            let parent = self.parent_of(&made.join(name))?;
            match mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(Error::os("mkdir", self.show(&made.join(name)), error)),
            }
            made.push(name);
        }
        self.open_at(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), false)
            .map(drop)
            .map_err(|e| Error::os("openat2", self.show(path), e))
    }

    /// Makes an empty file `path` if there is none, and the directories above it. No link is followed.
    pub(crate) fn create_file(&self, path: &Path, mode: u32) -> Result<OwnedFd> {
        if let Some(parent) = path.parent() {
            self.create_dir_all(parent)?;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW;
        self.open_at(path, flags, Mode::from_raw_mode(mode), false)
            .map_err(|e| Error::os("openat2", self.show(path), e))
    }

    /// Makes the symbolic link `path` with the text `target`, and the directories above it.
    pub(crate) fn create_symlink(&self, path: &Path, target: &Path) -> Result<()> {
        if let Some(parent) = path.parent() {
            self.create_dir_all(parent)?;
        }
        let name = path
            .file_name()
            .ok_or_else(|| Error::invalid("path", path.to_string_lossy(), "must end in a name"))?;
        symlinkat(target, self.parent_of(path)?, name).map_err(|e| Error::os("symlink", self.show(path), e))
    }

    fn parent_of(&self, path: &Path) -> Result<OwnedFd> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        self.open_at(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), false)
            .map_err(|e| Error::os("openat2", self.show(parent), e))
    }

    pub(crate) fn show(&self, path: &Path) -> String {
        self.shown.join(path.strip_prefix("/").unwrap_or(path)).display().to_string()
    }
}

/// Repeats a confined resolution that a rename or a mount elsewhere on the host disturbed: `EAGAIN` says no more
/// than that, and only for paths with `..` in them or in a link (`man 2 openat2`).
fn settled<T>(resolve: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 0..1000 {
        match resolve() {
            Err(Errno::AGAIN) => std::thread::yield_now(),
            result => return result,
        }
    }
    resolve()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rustix::fs::fstat;

    use super::*;

    #[test]
    fn links_in_a_confined_root_stay_in_it() {
        let scratch = PathBuf::from(format!("/var/tmp/docklet-confined-{}", std::process::id()));
        fs::create_dir(&scratch).unwrap();
        let root = ConfinedRoot::open(&scratch).unwrap();
        root.create_dir_all(Path::new("/etc")).unwrap();
        drop(root.create_file(Path::new("/etc/passwd"), 0o600).unwrap());
        root.create_symlink(Path::new("/absolute"), Path::new("/etc/passwd")).unwrap();
        root.create_symlink(Path::new("/climbing"), Path::new("../../../../../../etc/passwd")).unwrap();
        root.create_symlink(Path::new("/etc-link"), Path::new("/etc")).unwrap();
        root.create_symlink(Path::new("/proc-link"), Path::new("/proc/self/root/etc")).unwrap();
        let inside = std::os::unix::fs::MetadataExt::ino(&fs::metadata(scratch.join("etc/passwd")).unwrap());
        for path in ["/absolute", "/climbing", "/etc-link/passwd", "etc/passwd", "/../../etc/passwd"] {
            let found = root.open_at(Path::new(path), OFlags::PATH, Mode::empty(), true).unwrap();
            assert_eq!(fstat(&found).unwrap().st_ino, inside, "{path}");
        }
        for path in ["/absolute", "/climbing", "/etc-link/passwd"] {
            let error = root.open_at(Path::new(path), OFlags::RDONLY, Mode::empty(), false).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ELOOP), "{path}");
        }
        for (path, flags) in [("/proc-link", OFlags::PATH), ("/etc/shadow", OFlags::RDONLY)] {
            let error = root.open_at(Path::new(path), flags, Mode::empty(), true).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENOENT), "{path}");
        }
        for through_link in ["/etc-link/new", "/climbing", "/absolute", "/absolute/x"] {
            root.create_file(Path::new(through_link), 0o600).unwrap_err();
        }
        root.create_dir_all(Path::new("/etc-link/new")).unwrap_err();
        root.create_symlink(Path::new("/etc-link/new"), Path::new("x")).unwrap_err();
        assert_eq!(fs::read_dir(scratch.join("etc")).unwrap().count(), 1);
        let name = scratch.file_name().unwrap();
        crate::sys::tree::remove_tree(scratch.parent().unwrap(), Path::new(name)).unwrap();
    }
}
