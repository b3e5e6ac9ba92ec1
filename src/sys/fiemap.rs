//! Where a file's data lies (kernel `Documentation/filesystems/fiemap.rst`): for what files share of each other.

#![allow(unsafe_code)]

use std::fs::File;
use std::path::Path;

use linux_raw_sys::ioctl::FS_IOC_FIEMAP;

use crate::error::{Error, Result};
use crate::sys::ioctl;

const LAST: u32 = 0x1;
const SHARED: u32 = 0x2000;
const AT_ONCE: usize = 128;

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Where it lies on the device, in bytes.
    pub(crate) physical: u64,
    /// Its length in bytes.
    pub(crate) length: u64,
    /// Other files, or other places in this one, have it too.
    pub(crate) shared: bool,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct RawExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved_too: [u32; 3],
}

#[repr(C)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [RawExtent; AT_ONCE],
}

/// The extents of `file`, in order. `shown` is named in errors.
pub(crate) fn extents(file: &File, shown: &Path) -> Result<Vec<Extent>> {
    let mut found = Vec::new();
    let mut start = 0;
    loop {
        let mut request = Request {
            start,
            length: u64::MAX - start,
            flags: 0,
            mapped: 0,
            count: u32::try_from(AT_ONCE).unwrap_or(0),
            reserved: 0,
            extents: [RawExtent::default(); AT_ONCE],
        };
        // SAFETY: the request reaches the header and as many extents behind it as `count` says, which are there.
        unsafe { ioctl::structure(file, FS_IOC_FIEMAP.into(), &mut request) }
            .map_err(|e| Error::os("FS_IOC_FIEMAP", shown.display(), e))?;
        let mapped = usize::try_from(request.mapped).unwrap_or(0).min(AT_ONCE);
        let pieces = &request.extents[..mapped];
        found.extend(pieces.iter().map(|piece| Extent {
            physical: piece.physical,
            length: piece.length,
            shared: piece.flags & SHARED != 0,
        }));
        match pieces.last() {
            Some(last) if last.flags & LAST == 0 && last.length > 0 => start = last.logical + last.length,
            _ => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_files_data_is_found() {
        let path = std::env::temp_dir().join(format!("docklet-fiemap-{}", std::process::id()));
        let mut file = File::create(&path).unwrap();
        file.write_all(&[1; 65536]).unwrap();
        file.sync_all().unwrap();
        let found = extents(&File::open(&path).unwrap(), &path);
        std::fs::remove_file(&path).unwrap();
        match found {
            Ok(extents) => assert_eq!(extents.iter().map(|extent| extent.length).sum::<u64>(), 65536),
            // tmpfs, where a machine has its temporary files.
            Err(error) => assert_eq!(error.errno(), Some(libc::EOPNOTSUPP)),
        }
    }
}
