//! The read-only layers that roots are made over.

mod blobs;
mod build;
mod builder;
mod chain;
mod collect;
mod compression;
mod content;
mod describe;
mod digest;
mod documents;
mod import;
mod layer;
mod layers;
mod oci;
mod opened;
mod pipe;
mod source;
mod staging;
mod store;
mod tags;
mod target;

pub use self::builder::ImageBuilder;
pub use self::collect::{CollectOptions, Collected, Verified};
pub use self::compression::Compression;
pub use self::content::{ImageContent, Layer};
pub use self::describe::{HistoryEntry, ImageDescription, LayerDescription};
pub use self::digest::Digest;
pub use self::import::{ImportProgress, ImportStep};
pub use self::layer::{
    DeviceNodes, MapOwner, PackOptions, Packed, UnpackLimits, UnpackOptions, UnpackProgress, Unpacked,
    pack_layer, unpack_layer,
};
pub use self::opened::{Image, ImageOptions};
pub use self::source::ImageSource;
pub use self::store::ImageStore;
pub use self::target::ImageTarget;
