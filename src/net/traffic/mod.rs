//! What may go through a port, and how fast (`man 8 tc`): what comes out of a container is checked, and both directions
//! can have a limit.

mod control;
#[cfg(test)]
mod frames;
mod guard;
#[cfg(test)]
mod interpreter;
mod program;
mod rate;
mod source;

pub(super) use control::{
    Bucket, Filter, add_ingress, bucket, bytes, guard, redirect, remove_bucket, set_bucket, set_guard,
    set_redirect,
};
pub use guard::SourceGuard;
pub(super) use program::Instruction;
pub use rate::{Rate, RateLimits};
pub(super) use source::program;
