//! What the suite needs to know of a back end: how a pool of it is made on a disk, and how that is taken down (for
//! loop files, `man 8 losetup`; for memory, `man 5 tmpfs`; for quotas, `man 8 mount`).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use docklet::storage::{
    Allocation, Filesystem, LvmPool, PhysicalSpace, SizeLimit, ThinPoolSpec, VolumeGroup, VolumeGroupSpec,
    VolumePool,
};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use crate::kernel;

/// One back end. Dropping it takes down what `on` made, which must be out of use.
pub(crate) trait BackEnd {
    /// How its volumes are allocated.
    const ALLOCATION: Allocation;

    /// A pool that takes its room from `disk`, a directory. The files of the pool itself are in it, too.
    fn on(disk: &Path) -> Self;

    fn pool(&self) -> &VolumePool;

    /// What a snapshot has to be given.
    const RESERVE: Option<u64> = None;

    /// What holds a volume of that size to it.
    fn limit(size_bytes: u64) -> SizeLimit {
        SizeLimit::Hard(size_bytes)
    }

    /// What the kernel calls the file system of a mounted volume.
    fn shown(filesystem: Filesystem) -> String {
        filesystem.to_string()
    }
}

pub(crate) struct Tmpfs(VolumePool);

impl BackEnd for Tmpfs {
    const ALLOCATION: Allocation = Allocation::Sparse;

    fn on(disk: &Path) -> Self {
        Self(VolumePool::tmpfs(disk.join("pool")).expect("pool"))
    }

    fn pool(&self) -> &VolumePool {
        &self.0
    }
}

pub(crate) struct LoopFiles(VolumePool);

impl BackEnd for LoopFiles {
    const ALLOCATION: Allocation = Allocation::Sparse;

    fn on(disk: &Path) -> Self {
        Self(VolumePool::loop_files(disk.join("pool")).expect("pool"))
    }

    fn pool(&self) -> &VolumePool {
        &self.0
    }
}

/// A volume group in a file that takes what the disk has, with a thin pool that takes most of it or none.
pub(crate) struct Lvm<const THIN: bool> {
    pool: VolumePool,
    pub(crate) group: VolumeGroupSpec,
}

pub(crate) type LvmThin = Lvm<true>;
pub(crate) type LvmLinear = Lvm<false>;

impl<const THIN: bool> Lvm<THIN> {
    pub(crate) fn lvm(&self) -> LvmPool {
        LvmPool {
            volume_group: self.group.name.clone(),
            thin_pool: self.group.thin_pool.as_ref().map(|pool| pool.name.clone()),
        }
    }
}

impl<const THIN: bool> BackEnd for Lvm<THIN> {
    const ALLOCATION: Allocation = if THIN { Allocation::Sparse } else { Allocation::Preallocated };
    const RESERVE: Option<u64> = if THIN { None } else { Some(16 << 20) };

    fn on(disk: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let space = rustix::fs::statvfs(disk).expect("statvfs");
        let size_bytes = (space.f_bavail * space.f_frsize).min(4 << 30) >> 20 << 20;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let group = VolumeGroupSpec {
            name: format!("dktest-{}-{number}", std::process::id()).parse().expect("name"),
            on: PhysicalSpace::LoopFile { path: disk.join("group.img"), size_bytes },
            // Beside it are its metadata, twice, and the group's.
            thin_pool: THIN.then(|| ThinPoolSpec {
                name: "thin".parse().expect("name"),
                size_bytes: size_bytes - (32 << 20),
            }),
        };
        VolumeGroup::ensure(&group).expect("volume group");
        let lvm = LvmPool {
            volume_group: group.name.clone(),
            thin_pool: group.thin_pool.as_ref().map(|pool| pool.name.clone()),
        };
        Self { pool: VolumePool::lvm(disk.join("pool"), &lvm).expect("pool"), group }
    }

    fn pool(&self) -> &VolumePool {
        &self.pool
    }
}

impl<const THIN: bool> Drop for Lvm<THIN> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            VolumeGroup::remove(&self.group).expect("nothing is left in the volume group");
        }
    }
}

/// Directories on a file system of their own, in a file, with project quotas.
pub(crate) struct Quota<const XFS: bool> {
    pool: VolumePool,
    mounted: PathBuf,
}

pub(crate) type QuotaXfs = Quota<true>;
pub(crate) type QuotaExt4 = Quota<false>;

impl<const XFS: bool> BackEnd for Quota<XFS> {
    const ALLOCATION: Allocation = Allocation::Sparse;

    fn on(disk: &Path) -> Self {
        let (image, mounted) = (disk.join("quota.img"), disk.join("pool"));
        File::create(&image).and_then(|file| file.set_len(4 << 30)).expect("file");
        fs::create_dir(&mounted).expect("mkdir");
        let (image, target) = (image.to_str().expect("UTF-8"), mounted.to_str().expect("UTF-8"));
        if XFS {
            kernel::run("mkfs.xfs", ["-q", image]);
        } else {
            kernel::run("mkfs.ext4", ["-q", "-O", "project,quota", "-E", "quotatype=prjquota", image]);
            // Who has this capability is not held by ext4.
            let mut all = capabilities(None).expect("capget");
            all.effective.remove(CapabilitySet::SYS_RESOURCE);
            set_capabilities(None, all).expect("capset");
        }
        kernel::run("mount", ["-o", "loop,prjquota", image, target]);
        Self { pool: VolumePool::directories(&mounted).expect("pool"), mounted }
    }

    fn pool(&self) -> &VolumePool {
        &self.pool
    }

    fn limit(size_bytes: u64) -> SizeLimit {
        SizeLimit::Soft(size_bytes)
    }

    fn shown(_: Filesystem) -> String {
        if XFS { "xfs" } else { "ext4" }.to_owned()
    }
}

impl<const XFS: bool> Drop for Quota<XFS> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            kernel::unmount(&self.mounted);
        }
    }
}
