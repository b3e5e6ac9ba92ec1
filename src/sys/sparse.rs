//! Copies of files with holes (`man 2 copy_file_range`, `man 2 lseek` on `SEEK_DATA`, `man 2 ioctl_ficlone`).
//!
//! Only what holds data is copied, by the kernel; holes stay holes. On btrfs and xfs a copy can share its blocks.

use std::fs::File;
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, ftruncate, ioctl_ficlone, seek};
use rustix::io::{Errno, pread};

use crate::error::{Error, Result};

/// How much of a file is looked at in one piece.
const PIECE: usize = 64 << 10;

/// Makes `to`, which must be empty, a copy of `from`. `shown` is named in errors.
pub(crate) fn copy(from: &File, to: &File, shown: &Path) -> Result<()> {
    let fail = |call: &'static str| move |e: Errno| Error::os(call, shown.display(), e);
    let size = seek(from, SeekFrom::End(0)).map_err(fail("lseek"))?;
    ftruncate(to, size).map_err(fail("ftruncate"))?;
    let mut position = 0;
    while position < size {
        let start = match seek(from, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(fail("lseek")(error)),
        };
        let end = seek(from, SeekFrom::Hole(start)).map_err(fail("lseek"))?;
        let (mut read_at, mut write_at) = (start, start);
        while read_at < end {
            let length = usize::try_from(end - read_at).unwrap_or(usize::MAX);
            let copied = copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), length)
                .map_err(fail("copy_file_range"))?;
            if copied == 0 {
                return Err(fail("copy_file_range")(Errno::IO));
            }
        }
        position = end;
    }
    Ok(())
}

/// Makes `to`, which must be empty, share the content of `from`. False if the file system cannot; nothing was done then.
pub(crate) fn share(from: &File, to: &File, shown: &Path) -> Result<bool> {
    match ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV | Errno::INVAL | Errno::NOSYS) => Ok(false),
        Err(error) => Err(Error::os("FICLONE", shown.display(), error)),
    }
}

/// Makes holes of the zeros in `file`.
pub(crate) fn dig(file: &File, shown: &Path) -> Result<()> {
    let fail = |call: &'static str| move |e: Errno| Error::os(call, shown.display(), e);
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let mut piece = vec![0; PIECE];
    let mut position = 0;
    loop {
        let start = match seek(file, SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(fail("lseek")(error)),
        };
        let length = pread(file, &mut piece[..], start).map_err(fail("pread"))?;
        if length == PIECE && piece.iter().all(|byte| *byte == 0) {
            fallocate(file, flags, start, PIECE as u64).map_err(fail("fallocate"))?;
        }
        position = start + length as u64;
        if length == 0 {
            return Ok(());
        }
    }
}

/// Takes disk space for the first `size` bytes of `file` where it has none yet. Data stays; the length too.
pub(crate) fn allocate(file: &File, size: u64) -> rustix::io::Result<()> {
    loop {
        match fallocate(file, FallocateFlags::KEEP_SIZE, 0, size) {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
