//! The read-only layers that roots are made over.

mod builder;
mod compression;
mod digest;
mod layer;
mod oci;
mod pipe;
mod source;
mod store;
mod target;

pub use self::builder::ImageBuilder;
pub use self::compression::Compression;
pub use self::digest::Digest;
pub use self::layer::{
    DeviceNodes, MapOwner, PackOptions, Packed, Progress, UnpackLimits, UnpackOptions, Unpacked, pack_layer,
    unpack_layer,
};
pub use self::source::{ImageSource, SourceImage, SourceLayer};
pub use self::store::{Image, ImageStore};
pub use self::target::{ImageTarget, OpenBlob};
