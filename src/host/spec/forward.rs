//! A port of the host that leads to a container (`man 8 nft`, "NAT STATEMENTS"). Plain data.

use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::net::Protocol;

/// A published port: who connects to the host there, from outside or from any container, reaches the container.
///
/// No two containers of a host have the same one, and a process of the host that listens there is an error. It stays
/// published while the container is stopped. When it is withdrawn, or leads elsewhere, its connections end. Not reached under `127.0.0.1` and `::1`: see [`PortForward`](crate::net::PortForward).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// The protocol.
    pub protocol: Protocol,
    /// The address of the host under which it is reached; then of this family alone. Default: all of them but loopback, of
    /// each family in which the interface has an address.
    #[serde(default)]
    pub host_address: Option<IpAddr>,
    /// The port there, 1 to 65535.
    pub host_port: NonZeroU16,
    /// The container's port, 1 to 65535.
    pub port: NonZeroU16,
}
