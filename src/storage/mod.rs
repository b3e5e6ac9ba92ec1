//! Bytes on disk become a root a container can start from.
//!
//! - [`VolumePool`] and [`Volume`]: size-limited writable space, as files with a file system in them.
//! - [`OverlayRoot`]: read-only layers with a volume's space on top of them.
//! - [`ImageStore`] and [`ImageBuilder`]: the layers.
//! - [`remove_tree`]: the only recursive removal.
//!
//! All of it needs root in the initial user namespace, loop devices, and the kernel's `ext4` and `overlay`.
//! The calls block; a program on tokio makes them on blocking threads. Nothing here is undone by dropping a value.

mod grow;
mod image;
mod image_builder;
mod overlay;
mod overlay_options;
mod overlay_support;
mod pool;
mod prepared;
mod space;
mod spec;
mod template;
mod volume;
mod volume_file;

pub use self::image::{Image, ImageStore};
pub use self::image_builder::ImageBuilder;
pub use self::overlay::{OverlayLayers, OverlayPlan, OverlayRoot};
pub use self::overlay_options::MountMethod;
pub use self::pool::VolumePool;
pub use self::prepared::PreparedVolume;
pub use self::space::ProvisionRatio;
pub use self::spec::{Allocation, Filesystem, Usage, VolumeSpec};
pub use self::volume::{MountedVolume, Volume};
pub use crate::sys::tree::remove_tree;
