//! btrfs on disk (kernel `include/uapi/linux/btrfs_tree.h`) and btrfs-progs (`man 8 mkfs.btrfs`).
//!
//! The kernel takes two devices with one file system id for parts of one file system, so every copy of a template gets
//! an id of its own. The id that all its metadata carries stays, as `metadata_uuid` (Linux 5.0); only the superblocks
//! are written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::storage::volume::filesystem::kind::{run_mkfs, succeeded};
use crate::storage::volume::filesystem::superblock::{Finding, bytes_at, read_at};
use crate::storage::volume::filesystem::{Filesystem, Kind, Superblock};
use crate::sys::{growfs, random};

/// Where the superblock is, and its copies as far as they fit.
const OFFSETS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
const BYTES: usize = 4096;
const MAGIC: &[u8; 8] = b"_BHRfS_M";
const INCOMPAT_METADATA_UUID: u64 = 0x400;
const CHECKSUM_CRC32C: u16 = 0;

/// Fields: where each begins.
const FSID: usize = 32;
const BYTE_NUMBER: usize = 48;
const MAGIC_AT: usize = 64;
const TOTAL_BYTES: usize = 112;
const BYTES_USED: usize = 120;
const INCOMPAT_FLAGS: usize = 188;
const CHECKSUM_TYPE: usize = 196;
const METADATA_UUID: usize = 571;

const OPTIONS: [&str; 7] = ["-q", "-f", "-K", "-d", "single", "-m", "dup"];

pub(crate) struct Btrfs;

impl Kind for Btrfs {
    fn size_min(&self) -> (u64, &'static str) {
        (256 << 20, "must be at least 268435456 bytes (256 MiB) for btrfs, which the kernel grows to no less")
    }

    fn format(&self, file: &File) -> Result<()> {
        succeeded("mkfs.btrfs", &run_mkfs("mkfs.btrfs", "btrfs-progs", &OPTIONS, file)?)
    }

    fn find(&self, file: &File) -> io::Result<Finding> {
        let mut copies = OFFSETS.iter().map(|offset| Ok(parse(read_at(file, *offset)?.as_ref(), *offset)));
        let first: io::Result<Finding> = copies.next().unwrap_or(Ok(Finding::Nothing));
        let first = first?;
        if first == Finding::Nothing
            && copies.collect::<io::Result<Vec<_>>>()?.iter().any(|copy| matches!(copy, Finding::Whole(_)))
        {
            return Ok(Finding::Lost("the first superblock of its btrfs is gone, a copy of it is there"));
        }
        Ok(first)
    }

    fn make_unique(&self, copy: &File, shown: &Path) -> Result<()> {
        let mut fsid: [u8; 16] = random::bytes()?;
        // A random UUID, as RFC 9562 marks them.
        fsid[6] = fsid[6] & 0x0f | 0x40;
        fsid[8] = fsid[8] & 0x3f | 0x80;
        for offset in OFFSETS {
            let block = read_at(copy, offset).map_err(|e| Error::os("read", shown.display(), e))?;
            if let Some(mut block) = block
                && matches!(parse(Some(&block), offset), Finding::Whole(_))
            {
                if checksum_type(&block) != CHECKSUM_CRC32C {
                    return Err(Error::Unsupported {
                        what: format!("another identity of the copy of a btrfs in `{}`", shown.display()),
                        needs: "a btrfs with the checksum crc32c, as volumes are made with".to_owned(),
                    });
                }
                rename(&mut block, &fsid);
                copy.write_all_at(&block, offset).map_err(|e| Error::os("write", shown.display(), e))?;
            }
        }
        Ok(())
    }

    /// Nothing is discarded behind one's back: what a preallocated volume has taken stays taken.
    fn mount_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        &[("nodiscard", None)]
    }

    fn grow_mounted(&self, inside: &File, size_bytes: u64, shown: &Path) -> Result<()> {
        growfs::btrfs(inside, size_bytes, shown)
    }

    fn mender(&self) -> &'static str {
        "`btrfs rescue super-recover` and `btrfs check`"
    }
}

fn parse(block: Option<&[u8; BYTES]>, offset: u64) -> Finding {
    let Some(block) = block else { return Finding::Nothing };
    let u64_at = |at: usize| u64::from_le_bytes(bytes_at(block, at));
    if block[MAGIC_AT..MAGIC_AT + MAGIC.len()] != *MAGIC || u64_at(BYTE_NUMBER) != offset {
        return Finding::Nothing;
    }
    // Other checksums are other people's choice.
    if checksum_type(block) == CHECKSUM_CRC32C && checksum(block) != bytes_at(block, 0) {
        return Finding::Lost("the superblock of its btrfs is not as it was written");
    }
    let total = u64_at(TOTAL_BYTES);
    Finding::Whole(Superblock {
        filesystem: Filesystem::Btrfs,
        device_bytes: total,
        size_bytes: total,
        free_bytes: total.saturating_sub(u64_at(BYTES_USED)),
    })
}

fn checksum_type(block: &[u8; BYTES]) -> u16 {
    u16::from_le_bytes(bytes_at(block, CHECKSUM_TYPE))
}

fn checksum(block: &[u8; BYTES]) -> [u8; 4] {
    crc32c::crc32c(&block[FSID..]).to_le_bytes()
}

/// Gives the file system the id `fsid`. The device's item keeps the metadata's, as all metadata does.
fn rename(block: &mut [u8; BYTES], fsid: &[u8; 16]) {
    let flags = u64::from_le_bytes(bytes_at(block, INCOMPAT_FLAGS));
    if flags & INCOMPAT_METADATA_UUID == 0 {
        block.copy_within(FSID..FSID + 16, METADATA_UUID);
        let flags = flags | INCOMPAT_METADATA_UUID;
        block[INCOMPAT_FLAGS..INCOMPAT_FLAGS + 8].copy_from_slice(&flags.to_le_bytes());
    }
    block[FSID..FSID + 16].copy_from_slice(fsid);
    let sum = checksum(block);
    block[..4].copy_from_slice(&sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSET: u64 = OFFSETS[0];

    fn example() -> [u8; BYTES] {
        let mut block = [0; BYTES];
        block[FSID..FSID + 16].fill(7);
        block[BYTE_NUMBER..BYTE_NUMBER + 8].copy_from_slice(&OFFSET.to_le_bytes());
        block[MAGIC_AT..MAGIC_AT + 8].copy_from_slice(MAGIC);
        block[TOTAL_BYTES..TOTAL_BYTES + 8].copy_from_slice(&100_u64.to_le_bytes());
        block[BYTES_USED..BYTES_USED + 8].copy_from_slice(&30_u64.to_le_bytes());
        let sum = checksum(&block);
        block[..4].copy_from_slice(&sum);
        block
    }

    #[test]
    fn superblocks_are_told_from_other_data() {
        assert_eq!(parse(None, OFFSET), Finding::Nothing);
        assert_eq!(parse(Some(&[0; BYTES]), OFFSET), Finding::Nothing);
        let whole =
            Superblock { filesystem: Filesystem::Btrfs, device_bytes: 100, size_bytes: 100, free_bytes: 70 };
        assert_eq!(parse(Some(&example()), OFFSET), Finding::Whole(whole));
        assert_eq!(parse(Some(&example()), OFFSETS[1]), Finding::Nothing, "a copy of another place");
        for at in [0, FSID, BYTES - 1] {
            let mut block = example();
            block[at] ^= 1;
            assert!(matches!(parse(Some(&block), OFFSET), Finding::Lost(_)), "{at}");
        }
    }

    #[test]
    fn a_renamed_one_keeps_its_metadatas_id() {
        let mut block = example();
        for fsid in [[1; 16], [2; 16]] {
            rename(&mut block, &fsid);
            assert!(matches!(parse(Some(&block), OFFSET), Finding::Whole(_)));
            assert_eq!(block[FSID..FSID + 16], fsid);
            assert_eq!(block[METADATA_UUID..METADATA_UUID + 16], [7; 16]);
            assert_eq!(block[INCOMPAT_FLAGS + 1], 4);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes: [u8; 32], at in 0_usize..992) {
            let mut block = example();
            block[at..at + 32].copy_from_slice(&bytes);
            let _ = parse(Some(&block), OFFSET);
        }
    }
}
