//! What a network of this host should be. Plain data; what becomes of it is a bridge (`man 8 bridge`).

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::name::NetworkName;
use crate::net::{InterfaceAddress, Mtu, Subnet};

/// What a network of this host should be: a bridge with an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    /// Unique on the host.
    pub name: NetworkName,
    /// The bridge's own address and the length of the subnet: `10.88.0.1/24`. Containers use it as their gateway.
    pub gateway: InterfaceAddress,
    /// Whether what leaves the subnet is masqueraded as the host. Default: it is not.
    #[serde(default)]
    pub nat: bool,
    /// The largest packet. `None`: the kernel's default of 1500 bytes.
    #[serde(default)]
    pub mtu: Option<Mtu>,
}

impl NetworkSpec {
    /// The network that containers' addresses are taken from.
    pub(crate) fn subnet(&self) -> Result<Subnet> {
        Subnet::new(ipnet::IpNet::from(self.gateway).trunc())
    }
}
