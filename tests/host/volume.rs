//! Loop-file volumes for the tests of whatever needs one (`man 4 loop`).

use docklet::Result;
use docklet::error::Chain;
use docklet::name::VolumeName;
use docklet::storage::{Allocation, Filesystem, VolumePool, VolumeSpec};

use crate::sandbox::Sandbox;

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn spec(name: &str, size_bytes: u64) -> VolumeSpec {
    VolumeSpec {
        name: VolumeName::new(name).expect("name"),
        size_bytes,
        filesystem: Filesystem::Ext4,
        allocation: Allocation::Sparse,
    }
}

pub(crate) fn pool(sandbox: &Sandbox) -> VolumePool {
    VolumePool::loop_files(sandbox.paths.volumes()).expect("pool")
}

pub(crate) fn message<T: std::fmt::Debug>(result: Result<T>) -> String {
    Chain(&result.expect_err("must be refused")).to_string()
}
