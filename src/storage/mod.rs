//! Bytes on disk become a root a container can start from.
//!
//! - [`VolumePool`] and [`Volume`]: size-limited writable space, as files or logical volumes with a file system in them, in memory,
//!   or as directories with a quota.
//! - [`OverlayRoot`]: read-only layers with a volume's space on top of them, or without; for a user namespace, too.
//! - [`ImageStore`] and [`ImageBuilder`]: the layers.
//! - [`unpack_layer`] and [`pack_layer`]: between a layer and the archive that images are passed on as.
//! - [`remove_tree`]: the only recursive removal.
//!
//! All of it needs root in the initial user namespace, loop devices, and the kernel's `ext4` and `overlay`.
//! The calls block; a program on tokio makes them on blocking threads. Nothing here is undone by dropping a value.

mod acl;
mod image;
mod overlay;
mod volume;

pub use self::image::{
    CollectOptions, Collected, Compression, DeviceNodes, Digest, HistoryEntry, Image, ImageBuilder,
    ImageContent, ImageDescription, ImageOptions, ImageSource, ImageStore, ImageTarget, ImportProgress,
    ImportStep, Layer, LayerDescription, MapOwner, PackOptions, Packed, UnpackLimits, UnpackOptions,
    UnpackProgress, Unpacked, Verified, pack_layer, unpack_layer,
};
pub use self::overlay::{
    Change, Changed, Changes, Difference, MountMethod, OverlayLayers, OverlayPlan, OverlayRoot,
};
pub use self::volume::{
    Allocation, Filesystem, GroupUsage, LvmPool, MountedVolume, PhysicalSpace, PoolSpec, PreparedVolume,
    ProvisionRatio, Reserve, SizeLimit, Snapshot, SnapshotSpec, ThinPoolSpec, ThinUsage, Usage, Volume,
    VolumeGroup, VolumeGroupSpec, VolumePool, VolumeSpec,
};
pub use crate::sys::tree::remove_tree;
