//! What is mounted in a container: as data ([`MountEntry`]), and as mounts of this host (`man 2 open_tree`).
//!
//! LXC mounts by paths, which somebody may change between the check and the mount, knows `ro` for the topmost mount only, and
//! leaves owners as they are. So what is the host's is prepared here, from one descriptor: a mount that is nowhere yet
//! ([`tree`]), then in a private place of the container ([`place`]), from where LXC binds it inside, or it is handed to the
//! container while it runs ([`running`]).

mod entry;
mod fields;
mod options;
mod place;
mod running;
mod source;
mod tree;

pub use entry::MountEntry;
pub use options::{Create, MountOption, Propagation, Submounts};
pub(crate) use place::Place;
pub(crate) use source::is_filesystem;
pub use source::{FilesystemMount, MountSource, Tmpfs};
pub(crate) use tree::{Found, Ids, Tree};
