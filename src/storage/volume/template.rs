//! Formatted empty file systems to copy volumes from.
//!
//! `mkfs.ext4` (`man 8 mke2fs`) takes ten milliseconds and more; copying what it wrote takes less than one. Volumes of
//! one template have the same UUID, which ext4 does not mind; nothing here looks a volume up by it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, SystemTime};

use tracing::debug;

use crate::error::{Error, Result};
use crate::storage::volume::backend::{publish, unnamed};
use crate::storage::volume::spec::Filesystem;
use crate::sys::ext4::Superblock;
use crate::sys::file::{remove_file, sync_parent};
use crate::sys::lock::FileLock;
use crate::sys::tool;

/// How many templates are kept; the oldest go first. Each takes some megabytes at most.
const KEPT: usize = 8;
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// No blocks reserved for root, nothing discarded, the journal's blocks left as holes, and 4096-byte blocks
/// whatever the size, so that every volume can grow.
const OPTIONS: [&str; 11] = ["-q", "-F", "-t", "ext4", "-b", "4096", "-i", "16384", "-m", "0", "-E"];
/// A new file reads as zeros, so the inode tables need no zeroing, now or later by the kernel; and metadata lies
/// together, which makes a template of 1 TiB 24 pieces instead of 535. Needs e2fsprogs 1.47.
const EXTENDED: &str = "nodiscard,lazy_journal_init=1,assume_storage_prezeroed=1,packed_meta_blocks=1";
/// For older ones. Volumes are mounted with `noinit_itable`, so that the kernel does not zero the tables later.
const EXTENDED_OLD: &str = "nodiscard,lazy_journal_init=1,lazy_itable_init=1,packed_meta_blocks=1";

/// Opens the template of this kind in `directory`, and makes it first if there is none.
pub(crate) fn open(directory: &Path, filesystem: Filesystem, size_bytes: u64) -> Result<File> {
    let path = directory.join(format!("{filesystem}-{size_bytes}.img"));
    if let Some(file) = open_existing(&path, size_bytes)? {
        return Ok(file);
    }
    // One mkfs, even if many volumes of a new size are asked for at once.
    let lock = directory.join("lock");
    let _lock = FileLock::acquire(&lock, LOCK_TIMEOUT, &format!("template `{}`", path.display()))?;
    if let Some(file) = open_existing(&path, size_bytes)? {
        return Ok(file);
    }
    let file = unnamed(directory)?;
    file.set_len(size_bytes).map_err(|e| Error::os("ftruncate", path.display(), e))?;
    format(&file)?;
    file.sync_all().map_err(|e| Error::os("fsync", path.display(), e))?;
    // What is there is no good template, or it would have been opened.
    remove_file(&path)?;
    publish(&file, &path)?;
    sync_parent(&path)?;
    debug!(template = %path.display(), "made template");
    prune(directory)?;
    Ok(file)
}

/// Removes all but the newest templates, and returns what it removed.
pub(crate) fn prune(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::os("getdents", directory.display(), e);
    let mut templates: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // Another process may be pruning too.
        if path.extension().is_some_and(|extension| extension == "img")
            && let Ok(made) = fs::symlink_metadata(&path).and_then(|m| m.modified())
        {
            templates.push((made, path));
        }
    }
    templates.sort();
    let surplus = templates.len().saturating_sub(KEPT);
    let removed: Vec<PathBuf> = templates.into_iter().take(surplus).map(|(_, path)| path).collect();
    for path in &removed {
        remove_file(path)?;
    }
    Ok(removed)
}

fn open_existing(path: &Path, size_bytes: u64) -> Result<Option<File>> {
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::os("open", path.display(), error)),
    };
    let metadata = file.metadata().map_err(|e| Error::os("fstat", path.display(), e))?;
    let good = metadata.len() == size_bytes && Superblock::read(&file, path)?.is_some();
    Ok(good.then_some(file))
}

fn format(file: &File) -> Result<()> {
    let output = run_mkfs(file, EXTENDED)?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let output =
        if stderr.contains("assume_storage_prezeroed") { run_mkfs(file, EXTENDED_OLD)? } else { output };
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        program: "mkfs.ext4".to_owned(),
        status: output.status.to_string(),
        stderr: tool::said(&output.stderr),
    })
}

/// The file has no name, so it is handed over as standard input.
fn run_mkfs(file: &File, extended: &str) -> Result<Output> {
    let mut command = tool::command("mkfs.ext4").ok_or_else(|| Error::Unsupported {
        what: "formatting a volume with ext4".to_owned(),
        needs: "the program `mkfs.ext4` is missing: install the package e2fsprogs".to_owned(),
    })?;
    let input = file.try_clone().map_err(|e| Error::os("dup", "template", e))?;
    tool::output(command.args(OPTIONS).args([extended, "/proc/self/fd/0"]).stdin(Stdio::from(input)))
}
