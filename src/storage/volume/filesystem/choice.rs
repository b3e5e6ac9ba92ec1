//! The file systems to choose from (kernel `Documentation/filesystems/`).

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Chain, Error, Result};
use crate::storage::volume::filesystem::Kind;
use crate::storage::volume::filesystem::btrfs::Btrfs;
use crate::storage::volume::filesystem::deviceless;
use crate::storage::volume::filesystem::ext4::Ext4;
use crate::storage::volume::filesystem::xfs::Xfs;
use crate::sys::freeze::unfreeze_mount;
use crate::sys::mount::{mount_device, mount_nowhere};

/// What a volume is formatted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Filesystem {
    /// ext4 with a journal and blocks of 4096 bytes, nothing reserved for root. At least 16 MiB. Its inodes are counted:
    /// one for each 16 KiB. Growing it while it is mounted takes CAP_SYS_RESOURCE.
    #[default]
    Ext4,
    /// xfs with a log of 64 MiB and sectors of 4096 bytes. At least 300 MiB. Its inodes are made as they are needed. The
    /// size it is made with decides how many parts it has after growing: one that has grown a thousandfold has thousands,
    /// and takes long to mount.
    Xfs,
    /// btrfs with its metadata stored twice. At least 256 MiB. Its inodes are made as they are needed. What programs in it
    /// make of subvolumes and snapshots stays within the volume's size.
    Btrfs,
    /// tmpfs: in memory, and in swap if the host has it, lost with a reboot. In pools of [`VolumePool::tmpfs`] only. At
    /// least 1 MiB. Its inodes are counted: one for each 16 KiB.
    ///
    /// [`VolumePool::tmpfs`]: crate::storage::VolumePool::tmpfs
    Tmpfs,
    /// None of its own: a directory of the pool's file system. In pools of [`VolumePool::directories`] only. At least 1 MiB.
    /// Its inodes are counted: one for each 16 KiB.
    ///
    /// [`VolumePool::directories`]: crate::storage::VolumePool::directories
    Directory,
}

impl Filesystem {
    /// Those on a device, in the order in which data is asked whether it is one.
    pub(crate) const ON_DEVICES: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    /// What it does in its own way.
    pub(crate) fn kind(self) -> &'static dyn Kind {
        match self {
            Self::Ext4 => &Ext4,
            Self::Xfs => &Xfs,
            Self::Btrfs => &Btrfs,
            Self::Tmpfs => &deviceless::TMPFS,
            Self::Directory => &deviceless::DIRECTORY,
        }
    }

    /// [`Error::Unsupported`] if it needs no device. For back ends that have nothing else.
    pub(crate) fn check_on_device(self) -> Result<()> {
        if Self::ON_DEVICES.contains(&self) {
            return Ok(());
        }
        let pool = if self == Self::Directory { "directories" } else { "tmpfs" };
        Err(Error::Unsupported {
            what: format!("{self} on a device"),
            needs: format!("it takes a pool made with `VolumePool::{pool}`, or another file system"),
        })
    }

    /// Mounts block device `device` on `target`, without access times. `what` is named in errors.
    pub(crate) fn mount(self, device: &Path, target: &Path, what: &str) -> Result<()> {
        mount_device(device, &self.to_string(), self.kind().mount_options(), target).map_err(|error| {
            match error.errno().map(Errno::from_raw_os_error) {
                Some(Errno::NODEV) => Error::Unsupported {
                    what: format!("mounting {what}"),
                    needs: format!("it takes the kernel's {self}: run `modprobe {self}`"),
                },
                Some(Errno::UCLEAN | Errno::BADMSG | Errno::IO) => self.damaged(what, Chain(&error)),
                // Its superblock has been read already. Of ext4 it can also be a feature of a newer one.
                Some(Errno::INVAL) => {
                    self.damaged(what, format_args!("{} (the kernel's log says why)", Chain(&error)))
                }
                _ => error,
            }
        })
    }

    /// Lets the file system on block device `device` go on, wherever it is mounted or no longer is: the kernel keeps one that
    /// is frozen. False if it was not frozen.
    pub(crate) fn unfreeze(self, device: &Path) -> Result<bool> {
        let mount = mount_nowhere(device, &self.to_string(), self.kind().mount_options())?;
        unfreeze_mount(mount.as_fd())
    }

    /// An [`Error::Damaged`] about `what`, with the program that mends it.
    pub(crate) fn damaged(self, what: &str, reason: impl fmt::Display) -> Error {
        Error::Damaged {
            what: what.to_owned(),
            reason: format!("{reason}; unmount it, keep a copy, and run {}", self.kind().mender()),
        }
    }
}

impl fmt::Display for Filesystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Tmpfs => "tmpfs",
            Self::Directory => "directory",
        })
    }
}
