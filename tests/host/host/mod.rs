//! The host layer: whole containers.

mod bad_input;
mod concurrency;
mod connections;
mod console;
mod control_plane;
mod crowd;
mod damage;
mod disguise;
mod escapes;
mod far;
pub(crate) mod fixture;
mod foreign;
mod garbage;
mod hostile;
mod ids;
mod images;
mod interfaces;
mod life;
mod limits;
mod mounts;
mod names;
mod pools;
mod reach;
mod recovery;
mod restarts;
mod span;
mod watch;
