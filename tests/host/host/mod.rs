//! The host layer: whole containers.

mod bad_input;
mod concurrency;
mod connections;
mod control_plane;
mod crowd;
mod damage;
mod far;
mod fixture;
mod foreign;
mod garbage;
mod hostile;
mod images;
mod interfaces;
mod life;
mod names;
mod pools;
mod reach;
mod recovery;
mod span;
