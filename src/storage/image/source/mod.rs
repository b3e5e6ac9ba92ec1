//! Where images come from.

mod docker_archive;
mod files;
mod image;
mod layer;
mod oci_layout;

pub use self::image::ImageSource;
pub(crate) use self::layer::SourceLayer;
