//! Small files: durable publication, reading, and single writes to the kernel's interface files.
//!
//! See `man 2 rename` and `man 2 fsync`. Not for large data.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tracing::debug_span;

use crate::error::{Error, Result};

/// Puts `content` at `path` so that after a crash either the old or the new content is there, whole. The content is on
/// the disk when this returns; that it is what `path` means, only after [`sync_parent`].
pub(crate) fn publish(path: &Path, content: &[u8]) -> Result<()> {
    replace(path, content, true)
}

/// As [`publish`], but a power cut may lose it. For what does not outlive a boot.
pub(crate) fn publish_volatile(path: &Path, content: &[u8]) -> Result<()> {
    replace(path, content, false)
}

fn replace(path: &Path, content: &[u8], durable: bool) -> Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    let written = write_new(temporary, content, durable)
        .and_then(|()| fs::rename(temporary, path).map_err(|e| Error::os("rename", path.display(), e)));
    if written.is_err() {
        // A full disk is not left with half a file. The first error is the one to tell.
        let _ = remove_file(temporary);
    }
    written
}

fn write_new(path: &Path, content: &[u8], durable: bool) -> Result<()> {
    // One name per target: writers of one target hold its lock, and what a crash left under it, or somebody put there,
    // is not written into.
    remove_file(path)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| Error::os("open", path.display(), e))?;
    file.write_all(content).map_err(|e| Error::os("write", path.display(), e))?;
    if durable {
        debug_span!("flush")
            .in_scope(|| file.sync_data())
            .map_err(|e| Error::os("fdatasync", path.display(), e))?;
    }
    Ok(())
}

/// Makes the creation, renaming or removal of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let _span = debug_span!("flush").entered();
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| Error::os("fsync", parent.display(), e))
}

/// The whole of `path` as text.
pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|e| Error::os("read", path.display(), e))
}

/// The file `name` of the process `pid` as text. What a container names its programs and groups may be any bytes, and is no reason
/// not to read the rest.
pub(crate) fn of_process(pid: u32, name: &str) -> io::Result<String> {
    fs::read(format!("/proc/{pid}/{name}")).map(|text| String::from_utf8_lossy(&text).into_owned())
}

/// The whole of `path` as text, or `None` if there is no such file. A kernel's file that goes while it is read is gone.
/// Anything but a regular file is an error: a fifo would be waited for.
pub(crate) fn read_if_exists(path: &Path) -> Result<Option<String>> {
    let read = || {
        let mut file =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map(|_| text)
    };
    match absent_is_none(read()) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        result => result.map_err(|e| Error::os("read", path.display(), e)),
    }
}

/// Writes `value` to an interface file of the kernel, in one write.
pub(crate) fn write_interface(path: &Path, value: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|e| Error::os("write", format_args!("{} ({value:?})", path.display()), e))
}

/// Removes a file; one that is gone is removed.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    absent_is_none(fs::remove_file(path)).map(drop).map_err(|e| Error::os("unlink", path.display(), e))
}

/// A path to an open file, whatever happens to its names; of one opened with `O_PATH`, too. It leads to the file itself, also
/// if that is a link. For this thread alone.
pub(crate) fn descriptor_path(file: impl AsFd) -> String {
    format!("/proc/thread-self/fd/{}", file.as_fd().as_raw_fd())
}

/// Turns "no such file" into `None`.
pub(crate) fn absent_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
