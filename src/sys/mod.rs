//! The operating system's calls as this crate needs them. Private; the only place with unsafe code.

pub(crate) mod block;
mod clone;
pub(crate) mod confined;
pub(crate) mod detached;
pub(crate) mod directory;
pub(crate) mod fiemap;
pub(crate) mod file;
pub(crate) mod freeze;
pub(crate) mod growfs;
mod ioctl;
pub(crate) mod kernel;
pub(crate) mod lock;
pub(crate) mod loopdev;
pub(crate) mod mount;
pub(crate) mod mountinfo;
pub(crate) mod netns;
pub(crate) mod pidfd;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod record;
pub(crate) mod sparse;
pub(crate) mod tmpfs;
pub(crate) mod tool;
pub(crate) mod tree;
pub(crate) mod unnamed;
pub(crate) mod userns;
pub(crate) mod wait;
