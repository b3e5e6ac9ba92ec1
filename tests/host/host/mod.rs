//! The host layer: whole containers.

mod bad_input;
mod concurrency;
mod damage;
mod escapes;
mod fixture;
mod foreign;
mod hostile;
mod ids;
mod images;
mod interfaces;
mod life;
mod names;
mod pools;
mod reach;
mod recovery;
