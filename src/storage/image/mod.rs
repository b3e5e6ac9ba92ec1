//! The read-only layers that roots are made over.

mod builder;
mod store;

pub use self::builder::ImageBuilder;
pub use self::store::{Image, ImageStore};
