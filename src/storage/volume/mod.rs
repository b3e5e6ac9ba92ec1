//! Size-limited writable space: a pool of volumes, and one volume's life.

mod backend;
pub(super) mod directory;
mod filesystem;
mod grow;
pub(super) mod handle;
mod limit;
mod pool;
mod pool_spec;
mod prepared;
mod snapshot;
mod space;
mod spec;
mod template;

pub use self::backend::lvm::{
    GroupUsage, LvmPool, PhysicalSpace, ThinPoolSpec, ThinUsage, VolumeGroup, VolumeGroupSpec,
};
pub use self::filesystem::Filesystem;
pub use self::handle::{MountedVolume, Volume};
pub use self::limit::SizeLimit;
pub use self::pool::VolumePool;
pub use self::pool_spec::PoolSpec;
pub use self::prepared::PreparedVolume;
pub use self::snapshot::{Reserve, Snapshot, SnapshotSpec};
pub use self::space::ProvisionRatio;
pub use self::spec::{Allocation, Usage, VolumeSpec};
