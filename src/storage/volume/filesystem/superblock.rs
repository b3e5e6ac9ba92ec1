//! What a superblock tells of a file system on disk, and whether it can be believed.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rustix::fs::{SeekFrom, seek};

use crate::error::{Error, Result};
use crate::storage::volume::filesystem::Filesystem;

/// What the superblock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) filesystem: Filesystem,
    /// How much of the device the file system takes, from its begin.
    pub(crate) device_bytes: u64,
    /// What can be stored.
    pub(crate) size_bytes: u64,
    /// What can still be stored. Exact when the file system was unmounted in an orderly way.
    pub(crate) free_bytes: u64,
}

/// What one kind of file system finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding {
    Nothing,
    /// There was one, of which the superblock is lost, with the reason to believe so.
    Lost(&'static str),
    Whole(Superblock),
}

/// How often a superblock that cannot be believed is read again: one that the kernel is just writing can be read half.
const READS: u32 = 3;

impl Superblock {
    /// Looks for a file system in `file`; `None` if there is none that is known here. `what` is named in errors.
    ///
    /// [`Error::Damaged`] if there was one of which the superblock is lost, or if `file` ends before it does.
    pub(crate) fn find(file: &File, path: &Path, what: &str) -> Result<Option<Self>> {
        let failed = |e| Error::os("read", path.display(), e);
        let mut lost = None;
        for read in 0..READS {
            lost = None;
            if read > 0 {
                thread::sleep(Duration::from_millis(1));
            }
            for filesystem in Filesystem::ON_DEVICES {
                match filesystem.kind().find(file).map_err(failed)? {
                    Finding::Whole(superblock) => return superblock.fits(file, path, what).map(Some),
                    Finding::Lost(reason) => lost = lost.or(Some((filesystem, reason))),
                    Finding::Nothing => {}
                }
            }
            if lost.is_none() {
                return Ok(None);
            }
        }
        lost.map_or(Ok(None), |(filesystem, reason)| Err(filesystem.damaged(what, reason)))
    }

    fn fits(self, file: &File, path: &Path, what: &str) -> Result<Self> {
        let length = seek(file, SeekFrom::End(0)).map_err(|e| Error::os("lseek", path.display(), e))?;
        if self.device_bytes <= length {
            return Ok(self);
        }
        let reason =
            format!("its {} takes {} bytes, and only {length} are there", self.filesystem, self.device_bytes);
        Err(self.filesystem.damaged(what, reason))
    }
}

/// Bytes at `offset`; `None` if `file` ends before they do.
pub(crate) fn read_at<const N: usize>(file: &File, offset: u64) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether `count` blocks of `block_bytes`, from block `first` on, are within `file`.
pub(crate) fn fits(file: &File, first: u64, count: u64, block_bytes: u64) -> io::Result<bool> {
    let length = seek(file, SeekFrom::End(0))?;
    let end = first.checked_add(count).and_then(|end| end.checked_mul(block_bytes));
    Ok(end.is_some_and(|end| end <= length))
}

/// The bytes of a number that stands at `at`.
pub(crate) fn bytes_at<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&block[at..at + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    /// Where each kind looks, and what it looks for there.
    const MAGIC: [(u64, &[u8]); 6] = [
        (1024 + 0x38, b"\x53\xef"),
        ((128 << 20) + 0x38, b"\x53\xef"),
        (0, b"XFSB"),
        (4096, b"XAGF"),
        ((64 << 10) + 64, b"_BHRfS_M"),
        ((64 << 20) + 64, b"_BHRfS_M"),
    ];

    proptest! {
        /// Whoever made them: nothing that is read out of one is believed to be small, or to end.
        #[test]
        fn any_file_is_looked_at_without_a_panic(
            length in prop_oneof![0_u64..16384, 0_u64..200 << 20, Just(1 << 40)],
            pieces in prop::collection::vec((0_usize..6, any::<[u8; 48]>(), -128_i64..1024), 0..8),
            magic in any::<[bool; 6]>(),
            per_group in prop_oneof![Just(32768_u32), any::<u32>()],
        ) {
            let file = File::from(memfd_create("superblocks", MemfdFlags::CLOEXEC).unwrap());
            let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).unwrap();
            for (place, bytes, at) in pieces {
                put(MAGIC[place].0.saturating_add_signed(at), &bytes);
            }
            put(1024 + 0x20, &per_group.to_le_bytes());
            for ((at, bytes), _) in MAGIC.iter().zip(magic).filter(|(_, planted)| *planted) {
                put(*at, bytes);
            }
            file.set_len(length).unwrap();
            let _ = Superblock::find(&file, Path::new("memory"), "it");
            for filesystem in Filesystem::ON_DEVICES {
                if let Ok(ranges) = filesystem.kind().relies_on(&file) {
                    prop_assert!(ranges.iter().all(|range| range.start <= range.end && range.end <= length));
                }
            }
        }
    }
}
