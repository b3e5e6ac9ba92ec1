//! A container's place in a network. Plain data; what becomes of it is a veth pair (`man 4 veth`).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::name::NetworkName;

/// A container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The network. It must exist: [`Host::ensure_network`](crate::host::Host::ensure_network).
    pub network: NetworkName,
    /// The address. `None`: the host picks a free one, and keeps it for the container's life.
    #[serde(default)]
    pub address: Option<IpAddr>,
}

impl Attachment {
    /// A place in `network` with an address that the host picks.
    #[must_use]
    pub fn new(network: NetworkName) -> Self {
        Self { network, address: None }
    }
}
