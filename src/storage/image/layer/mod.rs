//! A layer's two forms, a tar archive and a tree for overlayfs, and the ways between them.

mod content;
pub(crate) mod diff_id;
mod entries;
mod header;
mod lower;
pub(crate) mod member;
pub(crate) mod options;
mod pack;
mod pax;
pub(crate) mod reader;
mod sparse;
mod tree;
mod unpack;
pub(crate) mod writer;
mod xattrs;

pub use self::options::{DeviceNodes, UnpackLimits, UnpackOptions};
pub use self::pack::{MapOwner, PackOptions, Packed, pack_layer};
pub use self::unpack::{UnpackProgress, Unpacked, unpack_layer};
