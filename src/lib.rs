//! Typed, validated, crash-safe building blocks for machines that run system containers.
//!
//! What a host object should be is stated as plain typed data, checked before the host is touched,
//! made real idempotently, kept through crashes and reboots, and removed without a trace.
//!
//! # Modules, in reading order
//!
//! - [`error`]: the one [`Error`].
//! - [`name`]: validated names.
//! - [`paths`]: where files live under `FS_PREFIX`.
//! - [`storage`]: bytes on disk become a root a container can start from.
//! - [`net`]: bridges, veth pairs, addresses, NAT.
//! - [`cgroup`]: which hierarchy this host has, limits and figures.
//! - [`lxc`]: typed configuration, and a container's life.
//! - [`host`]: the composition of all of it on one machine.

pub mod cgroup;
pub mod error;
pub mod host;
pub mod lxc;
pub mod name;
pub mod net;
pub mod paths;
pub mod storage;
mod sys;

pub use error::{Error, Result};
