//! Many machines as one: what is wished is kept in the store, masters decide, workers carry it out through [`Host`](crate::host::Host).
//!
//! [`records`] is what the store keeps. [`decide`] is every decision of masters and workers, as pure functions over those records: no
//! clock, no store, no host. A simulation runs them with faults of all kinds, and checks that no container ever runs twice, that no node
//! and no quota is ever overdrawn, and that all is as wished once the faults stop.
//!
//! [`master`] makes the decisions on a store. The worker, which carries them out on a host, and what master and worker say to each other over a
//! network, are not there yet.

pub mod decide;
pub mod master;
pub mod records;
