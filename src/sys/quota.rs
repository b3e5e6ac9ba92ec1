//! Project quotas (`man 2 quotactl`, `man 2 ioctl_xfs_fsgetxattr`): how much of its file system a directory may take with all
//! that is beneath it. Kept by xfs and ext4, where they are turned on.

#![allow(unsafe_code)]

use std::ffi::{CString, c_int};
use std::fs::File;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use linux_raw_sys::ioctl::{FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::sys::{ioctl, mountinfo};

/// The kind of quota, and `Q_XGETQSTATV` of `linux/dqblk_xfs.h`: ext4 answers it, too.
const PROJECTS: c_int = 2;
const GET_STATE: c_int = 0x5808;
/// `FS_QUOTA_PDQ_ACCT` and `FS_QUOTA_PDQ_ENFD`: projects are counted, and held to their limits.
const COUNTED_AND_HELD: u16 = 1 << 4 | 1 << 5;
/// `FS_XFLAG_PROJINHERIT`: what is made in the directory is in its project.
const INHERITED: u32 = 0x200;
/// `QIF_DQBLKSIZE`: limits count these, and usage bytes.
const LIMIT_UNIT: u64 = 1024;

/// `struct fs_quota_statv`.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    pad: u8,
    flags: u16,
    in_core: u32,
    /// The files of the three kinds, times and warnings.
    rest: [u64; 19],
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    pad: [u8; 8],
}

const _: () = assert!(mem::size_of::<State>() == 160);
const _: () = assert!(mem::size_of::<Attributes>() == 28);
const _: () = assert!(mem::size_of::<libc::dqblk>() == 72);

/// What the quota has on one project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    /// How much it may take, in bytes; 0 is all there is.
    pub(crate) limit_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) inodes: u64,
    /// Nothing is in it, and nobody has given it a limit of any kind.
    pub(crate) is_unused: bool,
}

/// The project quotas of one file system.
#[derive(Debug)]
pub(crate) struct ProjectQuotas {
    directory: File,
    shown: PathBuf,
}

impl ProjectQuotas {
    /// Those of the file system that `directory` is on, whether there are any or not.
    pub(crate) fn of(directory: &Path) -> Result<Self> {
        let opened = File::open(directory).map_err(|e| Error::os("open", directory.display(), e))?;
        Ok(Self { directory: opened, shown: directory.to_owned() })
    }

    /// Whether the kernel counts projects there, and holds them to their limits.
    pub(crate) fn are_enforced(&self) -> Result<bool> {
        let mut state = State { version: 1, ..State::default() };
        // SAFETY: the command fills one `fs_quota_statv`, whose every value is valid.
        match unsafe { self.control(GET_STATE, 0, &mut state) } {
            Ok(()) => Ok(state.flags & COUNTED_AND_HELD == COUNTED_AND_HELD),
            // Without quotas: in the kernel, in this file system, or turned on; and without a device.
            Err(Errno::NOSYS | Errno::INVAL | Errno::SRCH | Errno::NOTBLK | Errno::NODEV) => Ok(false),
            Err(error) => Err(self.failed("quotactl(Q_XGETQSTATV)")(error)),
        }
    }

    /// What there is on `project`.
    pub(crate) fn account(&self, project: u32) -> Result<Account> {
        let mut block = empty();
        // SAFETY: the command fills one `dqblk`, whose every value is valid.
        match unsafe { self.control(libc::Q_GETQUOTA, project, &mut block) } {
            // xfs has no entry before something is in it.
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(self.failed("quotactl(Q_GETQUOTA)")(error)),
        }
        Ok(Account {
            limit_bytes: block.dqb_bhardlimit.saturating_mul(LIMIT_UNIT),
            used_bytes: block.dqb_curspace,
            inodes: block.dqb_curinodes,
            is_unused: [
                block.dqb_bhardlimit,
                block.dqb_bsoftlimit,
                block.dqb_curspace,
                block.dqb_ihardlimit,
                block.dqb_isoftlimit,
                block.dqb_curinodes,
            ] == [0; 6],
        })
    }

    /// Holds `project` to `bytes`, a multiple of 1024, and to `inodes`; 0 is no limit.
    pub(crate) fn set_limit(&self, project: u32, bytes: u64, inodes: u64) -> Result<()> {
        let mut block = libc::dqblk {
            dqb_bhardlimit: bytes / LIMIT_UNIT,
            dqb_ihardlimit: inodes,
            dqb_valid: libc::QIF_LIMITS,
            ..empty()
        };
        // SAFETY: the command reads one `dqblk`.
        unsafe { self.control(libc::Q_SETQUOTA, project, &mut block) }
            .map_err(self.failed("quotactl(Q_SETQUOTA)"))
    }

    /// # Safety
    /// `command` must reach nothing but one `T`, and leave a valid one in its place.
    unsafe fn control<T>(&self, command: c_int, project: u32, data: &mut T) -> rustix::io::Result<()> {
        let command = libc::QCMD(command, PROJECTS);
        let data = std::ptr::from_mut(data);
        // SAFETY: the command reaches `data` only, says the caller, and it lives through the call; the descriptor is open.
        let by_descriptor = unsafe {
            libc::syscall(libc::SYS_quotactl_fd, self.directory.as_raw_fd(), command, project, data)
        };
        match result(by_descriptor) {
            // Kernels before 5.14 know devices only.
            Err(Errno::NOSYS) => {
                let device = self.device()?;
                // SAFETY: as above; the name ends with a zero byte.
                result(unsafe { libc::syscall(libc::SYS_quotactl, command, device.as_ptr(), project, data) })
            }
            result => result,
        }
    }

    /// The device of the file system.
    fn device(&self) -> rustix::io::Result<CString> {
        let number = self.directory.metadata().map_err(|_| Errno::NODEV)?.dev();
        let mounts = mountinfo::mounts().map_err(|_| Errno::NODEV)?;
        let mount = mounts.into_iter().find(|mount| mount.device == number).ok_or(Errno::NODEV)?;
        CString::new(mount.source.as_os_str().as_bytes()).map_err(|_| Errno::NODEV)
    }

    fn failed(&self, call: &'static str) -> impl Fn(Errno) -> Error {
        move |error| Error::os(call, self.shown.display(), error)
    }
}

/// The project that what is made in `directory` will be in; `None` if it does not pass on its own.
pub(crate) fn inherited_project(directory: &File, shown: &Path) -> Result<Option<u32>> {
    let attributes = attributes(directory, shown)?;
    Ok((attributes.flags & INHERITED != 0).then_some(attributes.project))
}

/// Puts `directory`, which is empty, in `project`, and all that will be made in it.
pub(crate) fn set_project(directory: &File, project: u32, shown: &Path) -> Result<()> {
    let mut attributes = attributes(directory, shown)?;
    attributes.project = project;
    attributes.flags |= INHERITED;
    // SAFETY: the request reads one `fsxattr`.
    unsafe { ioctl::structure(directory, FS_IOC_FSSETXATTR.into(), &mut attributes) }
        .map(drop)
        .map_err(|e| Error::os("FS_IOC_FSSETXATTR", shown.display(), e))
}

fn attributes(directory: &File, shown: &Path) -> Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the request fills one `fsxattr`, whose every value is valid.
    unsafe { ioctl::structure(directory, FS_IOC_FSGETXATTR.into(), &mut attributes) }
        .map_err(|e| Error::os("FS_IOC_FSGETXATTR", shown.display(), e))?;
    Ok(attributes)
}

fn empty() -> libc::dqblk {
    libc::dqblk {
        dqb_bhardlimit: 0,
        dqb_bsoftlimit: 0,
        dqb_curspace: 0,
        dqb_ihardlimit: 0,
        dqb_isoftlimit: 0,
        dqb_curinodes: 0,
        dqb_btime: 0,
        dqb_itime: 0,
        dqb_valid: 0,
    }
}

fn result(returned: libc::c_long) -> rustix::io::Result<()> {
    if returned == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
