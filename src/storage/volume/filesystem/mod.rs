//! What volumes are formatted with, each with its own ways of being made, told, mounted and grown.
//!
//! All of it works on a regular file as on a block device.

mod btrfs;
mod choice;
mod deviceless;
mod ext4;
mod kind;
mod superblock;
mod xfs;

pub use self::choice::Filesystem;
pub(crate) use self::kind::{GrowUnmounted, Kind};
pub(crate) use self::superblock::Superblock;
