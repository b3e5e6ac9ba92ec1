//! What the suite needs to know of a back end: how a pool of it is made on a disk, and how that is taken down (for
//! loop files, `man 8 losetup`; for memory, `man 5 tmpfs`).

use std::path::Path;

use docklet::storage::{Allocation, VolumePool};

/// One back end. Dropping it takes down what `on` made, which must be out of use.
pub(crate) trait BackEnd {
    /// How its volumes are allocated.
    const ALLOCATION: Allocation;

    /// A pool that takes its room from `disk`, a directory. The files of the pool itself are in it, too.
    fn on(disk: &Path) -> Self;

    fn pool(&self) -> &VolumePool;
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
