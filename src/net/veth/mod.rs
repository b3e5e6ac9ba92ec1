//! Veth pairs (`man 4 veth`): a container's wire to its bridge, as a port with rules.

mod batch;
mod inner;
mod outer;
mod pair;
mod spec;

pub use pair::Veth;
pub use spec::VethSpec;
