//! The lock file that liblxc makes for each container and never removes (`lxclock.c`).
//!
//! It lies in a directory named like the containers' one, `/run/lxc/lock/PATH/.NAME`. liblxc makes the directory
//! first and the file later: whoever removes an empty directory in between lets that start fail. So a container's file is
//! made before LXC runs, and a directory with a file in it stays.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::sys::directory::entries_if_exists;
use crate::sys::file;

const LOCKS: &str = "/run/lxc/lock";

/// Where the lock files of the containers beneath `lxc_path` are.
pub(crate) fn directory(lxc_path: &Path) -> PathBuf {
    Path::new(LOCKS).join(lxc_path.strip_prefix("/").unwrap_or(lxc_path))
}

fn path(lxc_path: &Path, name: &str) -> PathBuf {
    directory(lxc_path).join(format!(".{name}"))
}

/// Makes the lock file, so that its directory stays.
pub(crate) fn claim(lxc_path: &Path, name: &str) -> Result<()> {
    let path = path(lxc_path, name);
    // Another container's end may remove the directory in between.
    for _ in 0..100 {
        match File::options().write(true).create(true).truncate(false).open(&path) {
            Ok(_) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let parent = path.parent().unwrap_or(Path::new(LOCKS));
                match fs::create_dir_all(parent) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(Error::os("mkdir", parent.display(), e));
                    }
                    _ => {}
                }
            }
            Err(e) => return Err(Error::os("open", path.display(), e)),
        }
    }
    Err(Error::Busy {
        what: format!("lock file {}", path.display()),
        reason: "its directory keeps vanishing".to_owned(),
    })
}

/// Removes the lock file, and the directories above it that are empty then.
pub(crate) fn remove(lxc_path: &Path, name: &str) -> Result<()> {
    let path = path(lxc_path, name);
    file::remove_file(&path)?;
    remove_empty(&path);
    Ok(())
}

/// The names of the containers beneath `lxc_path` that have a lock file.
pub(crate) fn names(lxc_path: &Path) -> Result<Vec<String>> {
    let file = path(lxc_path, "");
    let dir = file.parent().unwrap_or(Path::new(LOCKS));
    let entries = entries_if_exists(dir)?;
    Ok(entries.iter().filter_map(|entry| Some(entry.to_str()?.strip_prefix('.')?.to_owned())).collect())
}

/// Removes the directory of the lock files of containers beneath `lxc_path`, and those above it, that are empty.
pub(crate) fn remove_directory(lxc_path: &Path) {
    remove_empty(&path(lxc_path, ""));
}

fn remove_empty(path: &Path) {
    for dir in path.ancestors().skip(1).take_while(|dir| *dir != Path::new(LOCKS)) {
        match fs::remove_dir(dir) {
            Ok(()) => {}
            // An earlier call got this far.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Not empty: others are in it.
            Err(_) => break,
        }
    }
}
