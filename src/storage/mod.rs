//! Bytes on disk become a root a container can start from.

pub use crate::sys::tree::remove_tree;
