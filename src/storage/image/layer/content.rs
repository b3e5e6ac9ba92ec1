//! The content of a file on its way into an archive (`man 2 lseek` on `SEEK_DATA`).

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, pread};

use crate::error::{Error, Result};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Writes the `size` bytes of `file`. Of a `sparse` one the holes are not read. False if it ends before.
pub(crate) fn copy(
    file: &OwnedFd,
    size: u64,
    sparse: bool,
    output: &mut impl Write,
    buffer: &mut [u8],
    shown: &Path,
) -> Result<bool> {
    let failed = |call: &'static str| move |e: Errno| Error::os(call, shown.display(), e);
    let mut at = 0;
    while at < size {
        let (data, end) = if sparse {
            let data = match seek(file, SeekFrom::Data(at)) {
                Err(Errno::NXIO) => size,
                result => result.map_err(failed("lseek"))?.min(size),
            };
            let end =
                if data < size { seek(file, SeekFrom::Hole(data)).map_err(failed("lseek"))? } else { size };
            (data, end.min(size))
        } else {
            (0, size)
        };
        while at < data {
            let most = usize::try_from(data - at).unwrap_or(usize::MAX).min(ZEROS.len());
            output.write_all(&ZEROS[..most]).map_err(|e| writing(e, size))?;
            at += most as u64;
        }
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let read = match pread(file, &mut buffer[..most], at) {
                Err(Errno::INTR) => continue,
                result => result.map_err(failed("pread64"))?,
            };
            if read == 0 {
                return Ok(false);
            }
            output.write_all(&buffer[..read]).map_err(|e| writing(e, size))?;
            at += read as u64;
        }
    }
    Ok(true)
}

/// What went wrong when `needed_bytes` were written to an archive.
pub(crate) fn writing(error: io::Error, needed_bytes: u64) -> Error {
    let what = "packed layer".to_owned();
    match error.raw_os_error() {
        // Where it is written to is the caller's matter: how much is free there is not known here.
        Some(libc::ENOSPC | libc::EDQUOT) => Error::NoSpace { what, needed_bytes, available_bytes: 0 },
        _ => Error::os("write", what, error),
    }
}
