//! Volumes that are logical volumes of LVM (`man 8 lvm`, `man 7 lvmthin`): linear or thin, in a volume group.
//!
//! All is done by the program `lvm`, which keeps the group's metadata whole whatever is killed. What belongs to a pool is
//! told by tags, never by a name alone; what has no tag of ours is never changed.

mod command;
mod fill;
mod group;
mod group_file;
mod making;
mod record;
mod report;
mod room;
mod snapshots;
mod tags;
mod volumes;

pub use self::group::{GroupUsage, PhysicalSpace, ThinPoolSpec, ThinUsage, VolumeGroup, VolumeGroupSpec};
pub use self::record::LvmPool;
pub(crate) use self::volumes::LogicalVolumes;
