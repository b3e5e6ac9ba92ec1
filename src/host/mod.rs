//! One machine: specifications become running containers, stay so, and go without a trace.
//!
//! [`Host`] composes the other modules. What a container should be is written down before the host is touched;
//! [`Host::recover`] makes the host agree with what is written down, after a crash or a reboot. Every operation runs
//! as a task of its own: dropping its future lets it finish unwatched, it does not stop half-way.
//!
//! Several processes may use one prefix at once. Nothing restarts by itself: a container that ends stays down until
//! somebody calls [`Host::start`] or [`Host::recover`], or a process runs [`Host::supervise`].

mod doctor;
mod etc;
mod handle;
mod ids;
mod images;
mod info;
mod inventory;
mod launch;
mod life;
mod marks;
mod network;
mod objects;
mod pools;
mod record;
mod recover;
mod spec;
mod supervise;

pub use doctor::{Check, Doctor, Finding};
pub use handle::Host;
pub use info::{ContainerInfo, Interface};
pub use inventory::{Inventory, InventoryDiff};
pub use recover::{Outcome, Recovered};
pub use spec::{
    Attachment, ContainerSpec, Forward, Init, NetworkSpec, Privilege, Resolver, RootVolume, Span,
};
