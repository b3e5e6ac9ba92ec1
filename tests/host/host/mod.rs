//! The host layer: whole containers.

mod bad_input;
mod concurrency;
mod fixture;
mod life;
mod recovery;
