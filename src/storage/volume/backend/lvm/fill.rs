//! Giving a new logical volume its content: a template's, or another volume's (kernel `Documentation/block/`).
//!
//! A thin volume reads as zeros where nothing was written. A linear one holds what was there before: what its file system
//! relies on to be zero is made zero, and nothing else.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::storage::volume::filesystem::Filesystem;
use crate::storage::volume::spec::Allocation;
use crate::sys::block;

const PIECE: usize = 1 << 20;

/// Makes `device`, which is new, a copy of `template`.
pub(super) fn from_template(
    template: &File,
    device: &Path,
    filesystem: Filesystem,
    allocation: Allocation,
) -> Result<()> {
    let to = open(device)?;
    if allocation == Allocation::Preallocated {
        let relied_on =
            filesystem.kind().relies_on(template).map_err(|e| Error::os("read", "a template", e))?;
        for range in relied_on {
            block::zero_out(&to, &range, device)?;
        }
    }
    let failed = |e: Errno| Error::os("lseek", "a template", e);
    let size = seek(template, SeekFrom::End(0)).map_err(failed)?;
    let mut position = 0;
    while position < size {
        let start = match seek(template, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(failed(error)),
        };
        let end = seek(template, SeekFrom::Hole(start)).map_err(failed)?;
        copy(template, &to, start..end, device)?;
        position = end;
    }
    finish(&to, filesystem, device)
}

/// Makes `device`, which is new, a copy of all of `from`, which nobody writes to.
pub(super) fn from_volume(from: &Path, device: &Path, filesystem: Filesystem) -> Result<()> {
    let source = File::open(from).map_err(|e| Error::os("open", from.display(), e))?;
    let length = block::length(&source).map_err(|e| Error::os("lseek", from.display(), e))?;
    let to = open(device)?;
    copy(&source, &to, 0..length, device)?;
    finish(&to, filesystem, device)
}

/// Gives the copy of another volume in `device` an identity of its own.
pub(super) fn make_unique(device: &Path, filesystem: Filesystem) -> Result<()> {
    finish(&open(device)?, filesystem, device)
}

fn finish(to: &File, filesystem: Filesystem, device: &Path) -> Result<()> {
    filesystem.kind().make_unique(to, device)?;
    to.sync_all().map_err(|e| Error::os("fsync", device.display(), e))
}

fn open(device: &Path) -> Result<File> {
    OpenOptions::new().read(true).write(true).open(device).map_err(|e| Error::os("open", device.display(), e))
}

fn copy(from: &File, to: &File, range: std::ops::Range<u64>, shown: &Path) -> Result<()> {
    let mut piece = vec![0; PIECE];
    let mut position = range.start;
    while position < range.end {
        let length = usize::try_from(range.end - position).unwrap_or(PIECE).min(PIECE);
        from.read_exact_at(&mut piece[..length], position)
            .map_err(|e| Error::os("pread", shown.display(), e))?;
        to.write_all_at(&piece[..length], position).map_err(|e| Error::os("pwrite", shown.display(), e))?;
        position += length as u64;
    }
    Ok(())
}
