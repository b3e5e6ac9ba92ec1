//! One machine: specifications become running containers, stay so, and go without a trace.
//!
//! [`Host`] composes the other modules. What a container should be is written down before the host is touched;
//! [`Host::recover`] makes the host agree with what is written down, after a crash or a reboot. Every operation runs
//! as a task of its own: dropping its future lets it finish unwatched, it does not stop half-way.
//!
//! # In order
//!
//! [`Host::open`], [`Host::recover`] once, then images ([`Host::images`]) and networks ([`Host::ensure_network`]), then
//! containers ([`Host::launch`]). Containers are removed before the network that they are in.
//!
//! | | made, or found as asked | changed while it runs | removed |
//! |---|---|---|---|
//! | network | [`Host::ensure_network`] | [`Host::apply_network`] | [`Host::remove_network`] |
//! | container | [`Host::launch`] | [`Host::apply_limits`], [`Host::apply_interfaces`], [`Host::apply_mounts`] | [`Host::remove`] |
//!
//! Specifications are whole: what one leaves at its default is that default. [`Host::networks`] and
//! [`ContainerInfo::spec`] tell the present one, to be changed and handed in again. Each call undoes its work on an error, or
//! says what is [left behind](crate::Error::LeftBehind).
//!
//! Several processes may use one prefix at once. Nothing restarts by itself: a container that ends stays down until
//! somebody calls [`Host::start`] or [`Host::recover`], or a process runs [`Host::supervise`].
//!
//! Networks are kept from each other and from the host by what each says of itself, and all of them from what the host says
//! beside:
//!
//! ```no_run
//! # async fn example(host: docklet::host::Host) -> Result<(), Box<dyn std::error::Error>> {
//! use docklet::host::IsolationSpec;
//! use docklet::net::Denied;
//!
//! let control_plane = Denied { net: "192.0.2.0/28".parse()?, port: None };
//! host.apply_isolation(&IsolationSpec { denied: [control_plane].into(), ..IsolationSpec::default() }).await?;
//! # Ok(())
//! # }
//! ```

mod change;
mod configuration;
mod directory;
mod doctor;
mod ended;
mod etc;
mod handle;
mod ids;
mod images;
mod info;
mod inventory;
mod launch;
mod life;
mod limit_events;
mod limits;
mod marks;
mod meter;
mod mounts;
mod network;
mod objects;
mod pools;
mod record;
mod recover;
mod spec;
mod supervise;
mod watch;

pub use doctor::{Check, Doctor, Finding};
pub use ended::Ended;
pub use handle::Host;
pub use info::{ContainerInfo, Interface};
pub use inventory::{Inventory, InventoryDiff};
pub use limit_events::ContainerLimitEvents;
pub use meter::UsageMeter;
pub use recover::{Outcome, Recovered};
pub use spec::{
    Attachment, ContainerSpec, Forward, Init, IsolationSpec, NetworkSpec, Privilege, Resolver, Restart,
    RestartPolicy, RootVolume, Span,
};
pub use watch::{Change, StateChange, StateChanges};
