//! Growing a mounted file system in place (`man 2 ioctl_ext4`, `man 2 ioctl_xfs_fsgeometry`, `man 2 ioctl_btrfs`).
//!
//! The device must have its new size already. Nothing happens if the file system is that large.

#![allow(unsafe_code)]

use std::fs::File;
use std::mem;
use std::path::Path;

use linux_raw_sys::ioctl::{BTRFS_IOC_RESIZE, EXT4_IOC_RESIZE_FS};
use rustix::fs::fstatvfs;

use crate::error::{Error, Result};
use crate::sys::ioctl;

/// `_IOR('X', 100, struct xfs_fsop_geom_v1)` of the kernel's `fs/xfs/libxfs/xfs_fs.h`, and
/// `_IOW('X', 110, struct xfs_growfs_data)`.
const XFS_IOC_FSGEOMETRY_V1: u32 = 0x8070_5864;
const XFS_IOC_FSGROWFSDATA: u32 = 0x4010_586e;

/// The first fields of `struct xfs_fsop_geom_v1`, and how long it is.
#[repr(C)]
#[derive(Default)]
struct XfsGeometry {
    block_bytes: u32,
    /// Of the real-time part, the groups, the log, sectors and inodes.
    others: [u32; 6],
    inode_percent: u32,
    data_blocks: u64,
    rest: [u64; 9],
}

#[repr(C)]
struct XfsGrowth {
    data_blocks: u64,
    inode_percent: u32,
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct BtrfsArguments {
    fd: i64,
    name: [u8; 4088],
}

const _: () = assert!(mem::size_of::<XfsGeometry>() == 112);
const _: () = assert!(mem::size_of::<XfsGrowth>() == 16);
const _: () = assert!(mem::size_of::<BtrfsArguments>() == 4096);

/// Grows the ext4 that `inside` is in. Takes CAP_SYS_RESOURCE.
pub(crate) fn ext4(inside: &File, size_bytes: u64, shown: &Path) -> Result<()> {
    let failed = |call| move |e: rustix::io::Errno| Error::os(call, shown.display(), e);
    let mut blocks = size_bytes / fstatvfs(inside).map_err(failed("fstatvfs"))?.f_frsize.max(1);
    // SAFETY: the request reads one u64.
    unsafe { ioctl::structure(inside, EXT4_IOC_RESIZE_FS.into(), &mut blocks) }
        .map(drop)
        .map_err(failed("EXT4_IOC_RESIZE_FS"))
}

/// Grows the xfs that `inside` is in. Takes CAP_SYS_ADMIN.
pub(crate) fn xfs(inside: &File, size_bytes: u64, shown: &Path) -> Result<()> {
    let failed = |call| move |e: rustix::io::Errno| Error::os(call, shown.display(), e);
    let mut geometry = XfsGeometry::default();
    // SAFETY: the request fills one `xfs_fsop_geom_v1`, whose every value is valid.
    unsafe { ioctl::structure(inside, XFS_IOC_FSGEOMETRY_V1.into(), &mut geometry) }
        .map_err(failed("XFS_IOC_FSGEOMETRY"))?;
    let data_blocks = size_bytes / u64::from(geometry.block_bytes.max(1));
    if data_blocks <= geometry.data_blocks {
        return Ok(());
    }
    // The share of inodes is set by the same request: it stays as it is.
    let mut growth = XfsGrowth { data_blocks, inode_percent: geometry.inode_percent };
    // SAFETY: the request reads one `xfs_growfs_data`.
    unsafe { ioctl::structure(inside, XFS_IOC_FSGROWFSDATA.into(), &mut growth) }
        .map(drop)
        .map_err(failed("XFS_IOC_FSGROWFSDATA"))
}

/// Grows the btrfs that `inside` is in, which must have one device. Takes CAP_SYS_ADMIN.
/// [`Error::Busy`] while it is balanced or resized by somebody else.
pub(crate) fn btrfs(inside: &File, size_bytes: u64, shown: &Path) -> Result<()> {
    let mut arguments = BtrfsArguments { fd: 0, name: [0; 4088] };
    let text = format!("1:{size_bytes}");
    arguments.name[..text.len()].copy_from_slice(text.as_bytes());
    // SAFETY: the request reads one `btrfs_ioctl_vol_args`, which ends with a zero byte.
    match unsafe { ioctl::structure(inside, BTRFS_IOC_RESIZE.into(), &mut arguments) } {
        Ok(0) => Ok(()),
        // A positive number is one of btrfs's own errors; here there is only this one.
        Ok(_) => Err(Error::Busy {
            what: format!("the btrfs on {}", shown.display()),
            reason: "it is being balanced, or its devices are changed; wait, or `btrfs balance cancel` it"
                .to_owned(),
        }),
        Err(error) => Err(Error::os("BTRFS_IOC_RESIZE", shown.display(), error)),
    }
}
