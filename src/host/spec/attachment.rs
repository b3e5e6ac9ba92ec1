//! A container's place in a network. Plain data; what becomes of it is a veth pair (`man 4 veth`).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::name::NetworkName;
use crate::net::Mtu;

/// A container's place in a network: what one of its interfaces is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The network. It must exist: [`Host::ensure_network`](crate::host::Host::ensure_network).
    pub network: NetworkName,
    /// The addresses: at most one of each family that the network has. For a family without one the host picks a free one,
    /// and keeps it for as long as the container is in the network.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// The largest packet, no larger than the network's. `None`: the network's.
    #[serde(default)]
    pub mtu: Option<Mtu>,
}

impl Attachment {
    /// A place in `network` with addresses that the host picks, and the defaults of every other field.
    #[must_use]
    pub fn new(network: NetworkName) -> Self {
        Self { network, addresses: Vec::new(), mtu: None }
    }
}
