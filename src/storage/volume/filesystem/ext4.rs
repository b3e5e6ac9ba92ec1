//! ext4 on disk (kernel `Documentation/filesystems/ext4/super.rst`) and e2fsprogs (`man 8 mke2fs`).
//!
//! Copies of one template have the same UUID, which ext4 does not mind; nothing here looks a volume up by it.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use rustix::thread::{CapabilitySet, capabilities};

use crate::error::{Error, Result};
use crate::storage::volume::filesystem::kind::{GrowUnmounted, run_mkfs, succeeded};
use crate::storage::volume::filesystem::superblock::{Finding, bytes_at, fits, read_at};
use crate::storage::volume::filesystem::{Filesystem, Kind, Superblock};
use crate::sys::tool::{self, Limit};
use crate::sys::{growfs, wait};

const OFFSET: u64 = 1024;
/// The first of the copies, where there is room for one.
const COPY_OFFSET: u64 = 32768 * 4096;
const MAGIC: u16 = 0xef53;
const INCOMPAT_EXTENTS: u32 = 0x40;
const INCOMPAT_64BIT: u32 = 0x80;
const RO_COMPAT_METADATA_CSUM: u32 = 0x400;
const CHECKSUM_AT: usize = 0x3fc;

/// No blocks reserved for root, nothing discarded, the journal's blocks left as holes, and 4096-byte blocks
/// whatever the size, so that every volume can grow.
const OPTIONS: [&str; 11] = ["-q", "-F", "-t", "ext4", "-b", "4096", "-i", "16384", "-m", "0", "-E"];
/// A new file reads as zeros, so the inode tables need no zeroing, now or later by the kernel; and metadata lies
/// together, which makes a template of 1 TiB 24 pieces instead of 535. Needs e2fsprogs 1.47.
const EXTENDED: &str = "nodiscard,lazy_journal_init=1,assume_storage_prezeroed=1,packed_meta_blocks=1";
/// For older ones. Volumes are mounted with `noinit_itable`, so that the kernel does not zero the tables later.
const EXTENDED_OLD: &str = "nodiscard,lazy_journal_init=1,lazy_itable_init=1,packed_meta_blocks=1";

/// How long another program may be at the device: as long as `resize2fs` takes.
const UNUSED_TIMEOUT: Duration = Duration::from_secs(30);

/// How long `e2fsck` and `resize2fs` may take. Late ones are left to themselves: a file system that is half resized is damaged,
/// and who has the device to itself keeps mounts and other programs off it.
const PROGRAM_LIMIT: Limit = Limit::Leave(Duration::from_secs(3600));

pub(crate) struct Ext4;

impl Kind for Ext4 {
    fn size_min(&self) -> (u64, &'static str) {
        (16 << 20, "must be at least 16777216 bytes (16 MiB) for ext4, which has no room for a journal below")
    }

    fn format(&self, file: &File) -> Result<()> {
        let run = |extended| run_mkfs("mkfs.ext4", "e2fsprogs", &[&OPTIONS[..], &[extended]].concat(), file);
        let output = run(EXTENDED)?;
        let is_old = String::from_utf8_lossy(&output.stderr).contains("assume_storage_prezeroed");
        let output = if is_old && !output.status.success() { run(EXTENDED_OLD)? } else { output };
        succeeded("mkfs.ext4", &output)
    }

    fn find(&self, file: &File) -> io::Result<Finding> {
        let Some(bytes) = read_at(file, OFFSET)? else { return Ok(Finding::Nothing) };
        let found = parse(&bytes);
        if found != Finding::Nothing {
            return Ok(found);
        }
        let copy = read_at(file, COPY_OFFSET)?.map_or(Finding::Nothing, |bytes| parse(&bytes));
        Ok(match copy {
            Finding::Whole(_) => {
                Finding::Lost("the first superblock of its ext4 is gone, a copy of it is there")
            }
            _ => Finding::Nothing,
        })
    }

    /// Every block in use: inode tables and the journal were left as holes.
    fn relies_on(&self, template: &File) -> io::Result<Vec<Range<u64>>> {
        used_blocks(template)
    }

    /// A damaged file system stops instead of getting worse; inode tables are never zeroed in the background: a new
    /// file reads as zeros anyway, and the writes would fill the sparse file.
    fn mount_options(&self) -> &'static [(&'static str, Option<&'static str>)] {
        &[("errors", Some("remount-ro")), ("noinit_itable", None)]
    }

    fn grows_unmounted_only(&self) -> Option<GrowUnmounted> {
        let may = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE));
        (!may).then_some(GrowUnmounted { lacking: "CAP_SYS_RESOURCE", check, grow: grow_unmounted })
    }

    fn grow_mounted(&self, inside: &File, size_bytes: u64, shown: &Path) -> Result<()> {
        growfs::ext4(inside, size_bytes, shown)
    }

    fn mender(&self) -> &'static str {
        "`e2fsck -f`"
    }
}

/// The blocks that the groups' bitmaps have for used. A group without a bitmap has no more than copies of the superblock
/// and of the descriptors, which mkfs writes.
fn used_blocks(file: &File) -> io::Result<Vec<Range<u64>>> {
    const BLOCK: u64 = 4096;
    const BLOCK_UNINIT: u16 = 2;
    let Some(superblock) = read_at::<1024>(file, OFFSET)? else { return Ok(Vec::new()) };
    let u32_at = |at: usize| u64::from(u32::from_le_bytes(bytes_at(&superblock, at)));
    let wide = u32_at(0x60) & u64::from(INCOMPAT_64BIT) != 0;
    let blocks = u32_at(0x04) | if wide { u32_at(0x150) << 32 } else { 0 };
    let per_group = u32_at(0x20);
    let descriptor_bytes = if wide { u64::from(u16::from_le_bytes(bytes_at(&superblock, 0xfe))) } else { 32 };
    let absurd = || io::Error::new(io::ErrorKind::InvalidData, "an ext4 that is not as mkfs makes it");
    // A bitmap is one block.
    if per_group != BLOCK * 8 || descriptor_bytes < 32 || !fits(file, 0, blocks, BLOCK)? {
        return Err(absurd());
    }
    let mut used: Vec<Range<u64>> = Vec::new();
    for group in 0..blocks.div_ceil(per_group) {
        let Some(descriptor) = read_at::<64>(file, BLOCK + group * descriptor_bytes)? else { break };
        if u16::from_le_bytes(bytes_at(&descriptor, 0x12)) & BLOCK_UNINIT != 0 {
            continue;
        }
        let high = if wide { u64::from(u32::from_le_bytes(bytes_at(&descriptor, 0x20))) << 32 } else { 0 };
        let bitmap = u64::from(u32::from_le_bytes(bytes_at(&descriptor, 0))) | high;
        if bitmap >= blocks {
            return Err(absurd());
        }
        let Some(bitmap) = read_at::<4096>(file, bitmap * BLOCK)? else { break };
        let first = group * per_group;
        for block in first..blocks.min(first + per_group) {
            let (byte, bit) = (usize::try_from((block - first) / 8).unwrap_or(0), (block - first) % 8);
            if bitmap[byte] >> bit & 1 == 0 {
                continue;
            }
            match used.last_mut() {
                Some(last) if last.end == block * BLOCK => last.end += BLOCK,
                _ => used.push(block * BLOCK..(block + 1) * BLOCK),
            }
        }
    }
    Ok(used)
}

/// ext2 and ext3 are none.
fn parse(bytes: &[u8; 1024]) -> Finding {
    let u32_at = |at: usize| u32::from_le_bytes(bytes_at(bytes, at));
    let incompatible = u32_at(0x60);
    let log_block = u32_at(0x18);
    if u16::from_le_bytes(bytes_at(bytes, 0x38)) != MAGIC || incompatible & INCOMPAT_EXTENTS == 0 {
        return Finding::Nothing;
    }
    // The kernel's checksum lacks the usual last step, the inversion.
    let sum = !crc32c::crc32c(&bytes[..CHECKSUM_AT]);
    if log_block > 6 || u32_at(0x64) & RO_COMPAT_METADATA_CSUM != 0 && u32_at(CHECKSUM_AT) != sum {
        return Finding::Lost("the superblock of its ext4 is not as it was written");
    }
    let bytes_of = |low: u32, high: u32| {
        let high = if incompatible & INCOMPAT_64BIT == 0 { 0 } else { u64::from(high) };
        (high << 32 | u64::from(low)).saturating_mul(1024 << log_block)
    };
    let device_bytes = bytes_of(u32_at(0x04), u32_at(0x150));
    Finding::Whole(Superblock {
        filesystem: Filesystem::Ext4,
        device_bytes,
        size_bytes: device_bytes.saturating_sub(bytes_of(u32_at(0x248), 0)),
        free_bytes: bytes_of(u32_at(0x0c), u32_at(0x158)),
    })
}

/// `resize2fs` insists on it, and an interrupted `resize2fs` needs it.
fn check(path: &Path, what: &str) -> Result<()> {
    wait_until_unused(path, what)?;
    let output = run("e2fsck", &["-f", "-p"], path)?;
    match output.status.code() {
        // 1: errors were found and corrected.
        Some(0 | 1) => Ok(()),
        Some(4) => Err(Filesystem::Ext4.damaged(what, tool::said(&output.stdout))),
        _ => succeeded("e2fsck", &output),
    }
}

/// A program that a process started which was killed goes on for a moment, and has the device to itself.
fn wait_until_unused(path: &Path, what: &str) -> Result<()> {
    let unused = wait::until_true(wait::deadline(UNUSED_TIMEOUT), || {
        match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
            Err(error) => Err(Error::os("open", path.display(), error)),
        }
    })?;
    if unused {
        return Ok(());
    }
    let reason = format!("another program has {} to itself", path.display());
    Err(Error::Busy { what: what.to_owned(), reason })
}

fn grow_unmounted(path: &Path) -> Result<()> {
    succeeded("resize2fs", &run("resize2fs", &[], path)?)
}

fn run(program: &str, options: &[&str], path: &Path) -> Result<Output> {
    let mut command = tool::command(program).ok_or_else(|| Error::Unsupported {
        what: "growing a volume".to_owned(),
        needs: format!("it takes CAP_SYS_RESOURCE, or the program {program}: install the package e2fsprogs"),
    })?;
    tool::output(command.args(options).arg(path), PROGRAM_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn superblocks_are_told_from_other_data() {
        let mut bytes = [0; 1024];
        assert_eq!(parse(&bytes), Finding::Nothing);
        bytes[0x38..0x3a].copy_from_slice(&MAGIC.to_le_bytes());
        assert_eq!(parse(&bytes), Finding::Nothing, "ext2");
        bytes[0x60] = 0xc0;
        bytes[0x18] = 2;
        bytes[0x04..0x08].copy_from_slice(&7_u32.to_le_bytes());
        bytes[0x150] = 1;
        let Finding::Whole(superblock) = parse(&bytes) else { panic!("{:?}", parse(&bytes)) };
        assert_eq!(superblock.device_bytes, ((1 << 32) + 7) << 12);
        bytes[0x18] = 200;
        assert!(matches!(parse(&bytes), Finding::Lost(_)), "absurd block size");
        bytes[0x18] = 2;
        bytes[0x65] = 4;
        assert!(matches!(parse(&bytes), Finding::Lost(_)), "no checksum");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_parsed_without_a_panic(bytes: [u8; 32], at in 0_usize..992) {
            let mut block = [0xff; 1024];
            block[0x38..0x3a].copy_from_slice(&MAGIC.to_le_bytes());
            block[0x65] = 0;
            block[at..at + 32].copy_from_slice(&bytes);
            let _ = parse(&block);
        }
    }
}
