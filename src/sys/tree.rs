//! The crate's only recursive removal (`man 2 unlinkat`).

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, unlinkat};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys::beneath::open_beneath;

/// Removes `relative` and everything beneath it, where `relative` is a path beneath `base` without links.
/// What is gone is removed.
///
/// # Errors
/// [`Error::Invalid`] if `base` is `/` or not absolute, or if `relative` is empty, absolute or has `..`;
/// [`Error::Busy`] if something is mounted in the tree: nothing beneath a mount is touched.
pub fn remove_tree(base: &Path, relative: &Path) -> Result<()> {
    let shown = base.join(relative);
    let invalid = |rule: &str| Error::invalid("tree to remove", shown.to_string_lossy(), rule);
    if !base.is_absolute() || base.components().count() < 3 {
        return Err(invalid("must lie beneath a directory that is at least two levels below '/'"));
    }
    if relative.components().next().is_none()
        || relative.components().any(|c| !matches!(c, Component::Normal(_)))
    {
        return Err(invalid("must be a plain path beneath its base"));
    }
    let base_fd = rustix::fs::open(base, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::os("open", base.display(), e))?;
    let name = relative.file_name().ok_or_else(|| invalid("must end in a name"))?;
    let parent = match relative.parent().filter(|p| !p.as_os_str().is_empty()) {
        None => base_fd,
        Some(parent) => match open_beneath(base_fd.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(Error::os("openat2", shown.display(), error)),
        },
    };
    let name = CString::new(name.as_bytes()).map_err(|_| invalid("must not contain a zero byte"))?;
    remove_entry(parent.as_fd(), &name, &shown)
}

/// How many directories of a deep tree are held open at once.
const OPEN_LEVELS: usize = 64;
/// How often a directory that others keep filling is emptied before giving up.
const ATTEMPTS: u32 = 16;

/// A directory that is being emptied.
struct Level {
    /// Its name in the directory above.
    name: CString,
    /// What it is: the way back up from a directory below is by `..`, and must end here.
    identity: (u64, u64),
    /// Closed for the upper levels of a deep tree, and opened again on the way back.
    open: Option<Dir>,
    attempts: u32,
}

/// What could not be done, and to which entry of the lowest level.
struct Stuck {
    call: &'static str,
    entry: Option<CString>,
    error: Errno,
}

/// Removes one entry of `parent`: its content first if it is a directory. Neither the stack nor the number of
/// descriptors grows with the depth.
fn remove_entry(parent: BorrowedFd<'_>, name: &CStr, shown: &Path) -> Result<()> {
    let top = unlink_or_open(parent, name).map_err(|(call, e)| removal_error(call, shown, e))?;
    let mut levels: Vec<Level> = top.into_iter().collect();
    while !levels.is_empty() {
        if let Err(stuck) = step(parent, &mut levels) {
            let below = levels.iter().skip(1).map(|level| &level.name).chain(&stuck.entry);
            let path =
                below.fold(shown.to_owned(), |path, name| path.join(OsStr::from_bytes(name.to_bytes())));
            return Err(removal_error(stuck.call, &path, stuck.error));
        }
    }
    Ok(())
}

/// Empties the lowest level, up to the first directory in it that is not empty, which becomes the lowest; or removes
/// the lowest level if it is empty.
fn step(parent: BorrowedFd<'_>, levels: &mut Vec<Level>) -> Result<(), Stuck> {
    let stuck = |call: &'static str| move |error| Stuck { call, entry: None, error };
    let Some(lowest) = levels.last_mut() else { return Ok(()) };
    // Only levels with others below them are closed, and coming back opens them.
    let dir = lowest.open.as_mut().ok_or(Errno::STALE).map_err(stuck("openat"))?;
    if let Some(below) = empty(dir)? {
        levels.push(below);
        if let Some(far) = levels.len().checked_sub(OPEN_LEVELS + 1) {
            levels[far].open = None;
        }
        return Ok(());
    }
    let Some(done) = levels.pop() else { return Ok(()) };
    let stuck = |call: &'static str| {
        let entry = (!levels.is_empty()).then(|| done.name.clone());
        move |error| Stuck { call, entry, error }
    };
    let (open_error, fd_error, removal_error) = (stuck("openat"), stuck("dirfd"), stuck("rmdir"));
    if let Some(above) = levels.last_mut()
        && above.open.is_none()
    {
        above.open = Some(reopen(&done, above).map_err(open_error)?);
    }
    let above = match levels.last().and_then(|level| level.open.as_ref()) {
        Some(dir) => dir.fd().map_err(fd_error)?,
        None => parent,
    };
    match unlinkat(above, &done.name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // Somebody added to it, or the list had gaps, as it may while entries are removed.
        Err(Errno::NOTEMPTY) if done.attempts < ATTEMPTS => {
            let mut again = Level { attempts: done.attempts + 1, ..done };
            again.open.iter_mut().for_each(Dir::rewind);
            levels.push(again);
            Ok(())
        }
        Err(error) => Err(removal_error(error)),
    }
}

/// Removes what is left in `dir` up to the first directory that is not empty, which it opens.
fn empty(dir: &mut Dir) -> Result<Option<Level>, Stuck> {
    while let Some(entry) = dir.read() {
        let entry = entry.map_err(|error| Stuck { call: "getdents", entry: None, error })?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let parent = dir.fd().map_err(|error| Stuck { call: "dirfd", entry: None, error })?;
        if entry.file_type() == FileType::Directory
            && matches!(unlinkat(parent, name, AtFlags::REMOVEDIR), Ok(()) | Err(Errno::NOENT))
        {
            continue;
        }
        let below = unlink_or_open(parent, name).map_err(|(call, error)| Stuck {
            call,
            entry: Some(name.to_owned()),
            error,
        })?;
        if below.is_some() {
            return Ok(below);
        }
    }
    Ok(None)
}

/// Removes `name` from `parent`, or opens it if it is a directory.
fn unlink_or_open(parent: BorrowedFd<'_>, name: &CStr) -> Result<Option<Level>, (&'static str, Errno)> {
    let unlinked = match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(None),
        // For a directory some file systems say the one, some the other.
        Err(error @ (Errno::ISDIR | Errno::PERM)) => error,
        Err(error) => return Err(("unlink", error)),
    };
    let open =
        match open_beneath(parent, OsStr::from_bytes(name.to_bytes()), OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(open) => open,
            Err(Errno::NOENT) => return Ok(None),
            // A file that must not be removed: it is immutable, see `man 1 chattr`.
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(("unlink", unlinked)),
            Err(error) => return Err(("openat2", error)),
        };
    let found = fstat(&open).map_err(|e| ("fstat", e))?;
    let identity = (found.st_dev, found.st_ino);
    let open = Dir::new(open).map_err(|e| ("fdopendir", e))?;
    Ok(Some(Level { name: name.to_owned(), identity, open: Some(open), attempts: 0 }))
}

/// Opens the directory above `below` again. Somebody may have moved `below` elsewhere: then it is not `above`.
fn reopen(below: &Level, above: &Level) -> Result<Dir, Errno> {
    let dir = below.open.as_ref().ok_or(Errno::STALE)?.fd()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = openat(dir, c"..", flags, Mode::empty())?;
    let found = fstat(&open)?;
    if (found.st_dev, found.st_ino) == above.identity { Dir::new(open) } else { Err(Errno::STALE) }
}

fn removal_error(call: &'static str, shown: &Path, error: Errno) -> Error {
    match error {
        Errno::XDEV | Errno::BUSY => Error::Busy {
            what: format!("tree `{}`", shown.display()),
            reason: "something is mounted there; unmount it first".to_owned(),
        },
        Errno::NOTEMPTY => Error::Busy {
            what: format!("tree `{}`", shown.display()),
            reason: "others keep adding to it".to_owned(),
        },
        Errno::STALE => Error::Busy {
            what: format!("tree `{}`", shown.display()),
            reason: "parts of it were moved elsewhere meanwhile".to_owned(),
        },
        error => Error::os(call, shown.display(), error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::fs::{mkdirat, symlinkat};

    use super::*;

    /// A directory of the test's own beneath `/var/tmp`.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = PathBuf::from(format!("/var/tmp/docklet-tree-{}-{count}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            // Not by the function that is being tested alone: a directory that it could not empty stays for a look.
            let name = self.0.file_name().unwrap();
            let _ = remove_tree(Path::new("/var/tmp"), Path::new(name));
        }
    }

    #[test]
    fn a_tree_goes_and_what_its_links_point_to_stays() {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.0.join("keep/dir")).unwrap();
        fs::write(scratch.0.join("keep/file"), "x").unwrap();
        fs::create_dir_all(scratch.0.join("tree/a/b/c")).unwrap();
        fs::write(scratch.0.join("tree/a/file"), "x").unwrap();
        symlink("../keep", scratch.0.join("tree/link")).unwrap();
        symlink(scratch.0.join("keep/file"), scratch.0.join("tree/a/absolute")).unwrap();
        fs::hard_link(scratch.0.join("keep/file"), scratch.0.join("tree/a/hard")).unwrap();
        remove_tree(&scratch.0, Path::new("tree")).unwrap();
        assert!(!scratch.0.join("tree").exists());
        assert_eq!(fs::read(scratch.0.join("keep/file")).unwrap(), b"x");
        assert!(scratch.0.join("keep/dir").is_dir());
        remove_tree(&scratch.0, Path::new("tree")).unwrap();
        remove_tree(&scratch.0, Path::new("not/there")).unwrap();
        symlink("keep", scratch.0.join("top")).unwrap();
        remove_tree(&scratch.0, Path::new("top")).unwrap();
        assert!(scratch.0.join("keep/file").exists() && !scratch.0.join("top").exists());
    }

    #[test]
    fn a_path_through_a_link_is_refused() {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.0.join("keep/dir")).unwrap();
        symlink("keep", scratch.0.join("link")).unwrap();
        let error = remove_tree(&scratch.0, Path::new("link/dir")).unwrap_err();
        assert!(matches!(error.errno(), Some(libc::ELOOP | libc::ENOTDIR)), "{error}");
        assert!(scratch.0.join("keep/dir").exists());
    }

    #[test]
    fn dangerous_paths_are_refused() {
        for (base, relative, rule) in [
            ("/", "etc", "at least two levels"),
            ("/var", "tmp", "at least two levels"),
            ("var/tmp", "x", "at least two levels"),
            ("", "x", "at least two levels"),
            ("/var/tmp", "", "plain path"),
            ("/var/tmp", ".", "plain path"),
            ("/var/tmp", "..", "plain path"),
            ("/var/tmp", "../x", "plain path"),
            ("/var/tmp", "x/../../y", "plain path"),
            ("/var/tmp", "/etc", "plain path"),
        ] {
            let message = remove_tree(Path::new(base), Path::new(relative)).unwrap_err().to_string();
            assert!(message.contains(rule), "{base} {relative}: {message}");
        }
    }

    /// Deeper than the stack, the descriptors and a path could be.
    #[test]
    fn a_tree_of_ten_thousand_levels_goes() {
        let scratch = Scratch::new();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut dir = rustix::fs::open(&scratch.0, flags, Mode::empty()).unwrap();
        for level in 0..10_000 {
            mkdirat(&dir, c"d", Mode::from_raw_mode(0o700)).unwrap();
            let below = openat(&dir, c"d", flags, Mode::empty()).unwrap();
            if level % 100 == 0 {
                mkdirat(&below, c"e", Mode::from_raw_mode(0o700)).unwrap();
                symlinkat(c"/", &below, c"link").unwrap();
            }
            dir = below;
        }
        drop(dir);
        remove_tree(&scratch.0, Path::new("d")).unwrap();
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0);
    }

    #[test]
    fn a_wide_tree_goes() {
        let scratch = Scratch::new();
        for i in 0..3_000 {
            fs::create_dir_all(scratch.0.join(format!("tree/{i}/x"))).unwrap();
        }
        remove_tree(&scratch.0, Path::new("tree")).unwrap();
        assert!(!scratch.0.join("tree").exists());
    }

    /// A directory is swapped for a link to another place again and again while the tree is removed.
    #[test]
    fn a_link_swapped_in_leads_nowhere() {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.0.join("keep")).unwrap();
        for i in 0..50 {
            fs::write(scratch.0.join(format!("keep/{i}")), "x").unwrap();
        }
        let stop = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while stop.load(Ordering::Relaxed) == 0 {
                    let victim = scratch.0.join("tree/dir");
                    let _ = fs::create_dir_all(&victim);
                    let _ = fs::write(victim.join("x"), "x");
                    let _ = fs::rename(&victim, scratch.0.join("tree/away"));
                    let _ = symlink("../keep", &victim);
                    let _ = fs::remove_file(&victim);
                }
            });
            for _ in 0..300 {
                // Losing to the other thread may be an error; leaving the tree must not happen.
                let _ = remove_tree(&scratch.0, Path::new("tree"));
            }
            stop.store(1, Ordering::Relaxed);
        });
        assert_eq!(fs::read_dir(scratch.0.join("keep")).unwrap().count(), 50);
    }
}
