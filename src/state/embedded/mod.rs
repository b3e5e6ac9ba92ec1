//! The engine on one machine: a file of [redb](https://docs.rs/redb), which one process owns.
//!
//! One thread writes. All transactions that wait for it go to the disk in one commit, and nobody is answered or told before that
//! is durable. Reads never wait for it.

mod deadlines;
mod engine;
mod failure;
mod feed;
mod file;
mod ledger;
mod open;
mod owner;
mod page;
#[cfg(test)]
mod power_cut;
mod request;
mod shared;
mod spec;
mod table;
mod tail;

pub use spec::EmbeddedSpec;
