//! The ext4 superblock on disk (kernel `Documentation/filesystems/ext4/super.rst`), and growing in place.
//!
//! Reads only what is needed to tell an ext4 file system, its size and its use.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use linux_raw_sys::ioctl::EXT4_IOC_RESIZE_FS;

use crate::error::{Error, Result};
use crate::sys::ioctl;

const OFFSET: u64 = 1024;
const MAGIC: u16 = 0xef53;
const INCOMPAT_EXTENTS: u32 = 0x40;
const INCOMPAT_64BIT: u32 = 0x80;

/// What the superblock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// The block size in bytes.
    pub(crate) block_bytes: u64,
    /// All blocks.
    pub(crate) blocks: u64,
    /// Blocks that hold nothing. Exact when the file system is not mounted.
    pub(crate) free_blocks: u64,
    /// Blocks that the file system needs for itself.
    pub(crate) overhead_blocks: u64,
}

impl Superblock {
    /// Reads `file`; `None` if there is no ext4 file system in it (ext2 and ext3 are none).
    pub(crate) fn read(file: &File, shown: &Path) -> Result<Option<Self>> {
        let mut bytes = [0; 1024];
        match file.read_exact_at(&mut bytes, OFFSET) {
            Ok(()) => Ok(Self::parse(&bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(Error::os("read", shown.display(), error)),
        }
    }

    fn parse(bytes: &[u8; 1024]) -> Option<Self> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let incompatible = u32_at(0x60);
        let log_block = u32_at(0x18);
        if u16_at(0x38) != MAGIC || incompatible & INCOMPAT_EXTENTS == 0 || log_block > 6 {
            return None;
        }
        let wide = |low: u32, high: u32| {
            let high = if incompatible & INCOMPAT_64BIT == 0 { 0 } else { u64::from(high) };
            high << 32 | u64::from(low)
        };
        Some(Self {
            block_bytes: 1024 << log_block,
            blocks: wide(u32_at(0x04), u32_at(0x150)),
            free_blocks: wide(u32_at(0x0c), u32_at(0x158)),
            overhead_blocks: u64::from(u32_at(0x248)),
        })
    }
}

/// Grows the mounted ext4 file system that `inside` is in to `blocks` blocks. The device must have them.
/// Nothing happens if it is that large already.
pub(crate) fn grow_mounted(inside: &File, blocks: u64, shown: &Path) -> Result<()> {
    let mut blocks = blocks;
    // SAFETY: the request reads one u64.
    unsafe { ioctl::structure(inside, EXT4_IOC_RESIZE_FS.into(), &mut blocks) }
        .map_err(|e| Error::os("EXT4_IOC_RESIZE_FS", shown.display(), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_are_told_from_other_data() {
        let mut bytes = [0; 1024];
        assert_eq!(Superblock::parse(&bytes), None);
        bytes[0x38..0x3a].copy_from_slice(&MAGIC.to_le_bytes());
        assert_eq!(Superblock::parse(&bytes), None, "ext2");
        bytes[0x60] = 0xc0;
        bytes[0x18] = 2;
        bytes[0x04..0x08].copy_from_slice(&7_u32.to_le_bytes());
        bytes[0x150] = 1;
        let superblock = Superblock::parse(&bytes).unwrap();
        assert_eq!(superblock.blocks, (1 << 32) + 7);
        assert_eq!(superblock.block_bytes, 4096);
        bytes[0x18] = 200;
        assert_eq!(Superblock::parse(&bytes), None, "absurd block size");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes: [u8; 32], at in 0_usize..992) {
            let mut block = [0xff; 1024];
            block[0x38..0x3a].copy_from_slice(&MAGIC.to_le_bytes());
            block[at..at + 32].copy_from_slice(&bytes);
            let _ = Superblock::parse(&block);
        }
    }
}
