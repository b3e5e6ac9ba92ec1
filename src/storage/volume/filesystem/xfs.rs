//! xfs on disk (kernel `Documentation/filesystems/xfs/` and `fs/xfs/libxfs/xfs_format.h`) and xfsprogs (`man 8 mkfs.xfs`).
//!
//! Copies of one template have the same UUID: the kernel is told not to mind.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use crate::error::Result;
use crate::storage::volume::filesystem::kind::{run_mkfs, succeeded};
use crate::storage::volume::filesystem::superblock::{Finding, bytes_at, fits, read_at};
use crate::storage::volume::filesystem::{Filesystem, Kind, Superblock};
use crate::sys::growfs;

const MAGIC: &[u8; 4] = b"XFSB";
/// Of the header of the first allocation group, in the sector after the superblock's.
const GROUP_MAGIC: &[u8; 4] = b"XAGF";
const CHECKSUM_AT: usize = 224;
const VERSION: u16 = 5;

/// Sectors of 4096 bytes, so that a template fits every disk, and the smallest log whatever the size: mkfs writes all of
/// it.
const OPTIONS: [&str; 7] = ["-q", "-f", "-K", "-s", "size=4096", "-l", "size=64m"];

pub(crate) struct Xfs;

impl Kind for Xfs {
    fn size_min(&self) -> (u64, &'static str) {
        (300 << 20, "must be at least 314572800 bytes (300 MiB) for xfs, which makes no smaller ones")
    }

    fn format(&self, file: &File) -> Result<()> {
        succeeded("mkfs.xfs", &run_mkfs("mkfs.xfs", "xfsprogs", &OPTIONS, file)?)
    }

    fn find(&self, file: &File) -> io::Result<Finding> {
        let Some(bytes) = read_at(file, 0)? else { return Ok(Finding::Nothing) };
        Ok(parse(&bytes))
    }

    /// The log, of which mkfs' zeros were made holes.
    fn relies_on(&self, template: &File) -> io::Result<Vec<Range<u64>>> {
        let Some(bytes) = read_at::<4096>(template, 0)? else { return Ok(Vec::new()) };
        let u32_at = |at: usize| u64::from(u32::from_be_bytes(bytes_at(&bytes, at)));
        let (block_bytes, log_start) = (u32_at(4), u64::from_be_bytes(bytes_at(&bytes, 48)));
        // A block's number has its group's in the high bits.
        let group_bits = u32::from(bytes[124]).min(63);
        let (group, block) = (log_start >> group_bits, log_start & ((1 << group_bits) - 1));
        let start = group.saturating_mul(u32_at(84)).saturating_add(block);
        if !fits(template, start, u32_at(96), block_bytes)? {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an xfs that is not as mkfs makes it"));
        }
        let start = start * block_bytes;
        Ok(std::iter::once(start..start + u32_at(96) * block_bytes).collect())
    }

    fn mount_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        &[("nouuid", None)]
    }

    fn grow_mounted(&self, inside: &File, size_bytes: u64, shown: &Path) -> Result<()> {
        growfs::xfs(inside, size_bytes, shown)
    }

    fn mender(&self) -> &'static str {
        "`xfs_repair`"
    }
}

/// The largest sector, and the header behind it. Versions before 5 have no checksums and are none.
fn parse(bytes: &[u8; 8192]) -> Finding {
    let u16_at = |at: usize| u16::from_be_bytes(bytes_at(bytes, at));
    let u32_at = |at: usize| u32::from_be_bytes(bytes_at(bytes, at));
    let u64_at = |at: usize| u64::from_be_bytes(bytes_at(bytes, at));
    if bytes[..4] != *MAGIC {
        let group = [512, 4096].iter().any(|at| bytes[*at..*at + 4] == *GROUP_MAGIC);
        return if group {
            Finding::Lost("the first superblock of its xfs is gone, the header behind it is there")
        } else {
            Finding::Nothing
        };
    }
    let (block_bytes, sector_bytes) = (u64::from(u32_at(4)), usize::from(u16_at(102)));
    if u16_at(100) & 0xf != VERSION {
        return Finding::Nothing;
    }
    let believable = matches!(sector_bytes, 512 | 1024 | 2048 | 4096) && {
        let mut sector = bytes[..sector_bytes].to_vec();
        sector[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
        crc32c::crc32c(&sector) == u32::from_le_bytes(bytes_at(bytes, CHECKSUM_AT))
    };
    if !believable {
        return Finding::Lost("the superblock of its xfs is not as it was written");
    }
    let blocks = u64_at(8);
    let (log_blocks, free_blocks) = (u64::from(u32_at(96)), u64_at(144));
    Finding::Whole(Superblock {
        filesystem: Filesystem::Xfs,
        device_bytes: blocks.saturating_mul(block_bytes),
        size_bytes: blocks.saturating_sub(log_blocks).saturating_mul(block_bytes),
        free_bytes: free_blocks.saturating_mul(block_bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> [u8; 8192] {
        let mut bytes = [0; 8192];
        bytes[..4].copy_from_slice(MAGIC);
        bytes[4..8].copy_from_slice(&4096_u32.to_be_bytes());
        bytes[8..16].copy_from_slice(&100_u64.to_be_bytes());
        bytes[96..100].copy_from_slice(&10_u32.to_be_bytes());
        bytes[100..102].copy_from_slice(&0xb4a5_u16.to_be_bytes());
        bytes[102..104].copy_from_slice(&512_u16.to_be_bytes());
        bytes[144..152].copy_from_slice(&80_u64.to_be_bytes());
        let sum = crc32c::crc32c(&bytes[..512]);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    #[test]
    fn superblocks_are_told_from_other_data() {
        assert_eq!(parse(&[0; 8192]), Finding::Nothing);
        let bytes = example();
        let Finding::Whole(superblock) = parse(&bytes) else { panic!("{:?}", parse(&bytes)) };
        assert_eq!(
            (superblock.device_bytes, superblock.size_bytes, superblock.free_bytes),
            (100 << 12, 90 << 12, 80 << 12)
        );
        for at in [5, 50, 103, 225, 511] {
            let mut bytes = example();
            bytes[at] ^= 1;
            assert!(matches!(parse(&bytes), Finding::Lost(_)), "{at}");
        }
        let mut bytes = example();
        bytes[0] = 0;
        assert_eq!(parse(&bytes), Finding::Nothing);
        bytes[512..516].copy_from_slice(GROUP_MAGIC);
        assert!(matches!(parse(&bytes), Finding::Lost(_)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes: [u8; 32], at in 4_usize..992) {
            let mut block = example();
            block[at..at + 32].copy_from_slice(&bytes);
            let _ = parse(&block);
        }
    }
}
