//! A network's record: what it should be, and what its objects are called. A file, replaced whole (`man 2 rename`).

use serde::{Deserialize, Serialize};

use super::files::{FORMAT, Record};
use crate::error::Result;
use crate::host::NetworkSpec;
use crate::name::{LinkName, NetworkName};
use crate::net::{BridgeSpec, LinkOwner, Mtu, Netlink, Rival, Subnet, TunnelSpec};

/// How long the kernel's bridges remember unless they are told.
const DEFAULT_AGEING_SECONDS: u32 = 300;

/// What a network should be, and what its objects are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    format: u32,
    pub(crate) bridge: LinkName,
    /// The mark in the `ifalias` of the bridge and of the tunnel's links.
    pub(crate) owner: LinkOwner,
    /// The largest packet, as it was asked for or turned out.
    pub(crate) mtu: Mtu,
    /// Whether it is being changed: links and ports may not yet be what they should be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) unsettled: bool,
    pub(crate) spec: NetworkSpec,
}

impl NetworkRecord {
    pub(crate) fn new(bridge: LinkName, owner: LinkOwner, mtu: Mtu, spec: NetworkSpec) -> Self {
        Self { format: FORMAT, bridge, owner, mtu, unsettled: false, spec }
    }

    pub(crate) fn bridge_spec(&self) -> BridgeSpec {
        BridgeSpec {
            addresses: self.spec.gateways.clone(),
            // Said in any case: what is left to the kernel stays what it was, or changes with the ports.
            mtu: Some(self.mtu),
            stp: self.spec.stp,
            ageing_seconds: Some(self.spec.ageing_seconds.unwrap_or(DEFAULT_AGEING_SECONDS)),
            ..BridgeSpec::new(self.bridge.clone(), self.owner.clone())
        }
    }

    /// What this host has of it as a network over several hosts.
    pub(crate) fn tunnel_spec(&self) -> Option<TunnelSpec> {
        self.spec.span.as_ref().map(|span| TunnelSpec {
            owner: self.owner.clone(),
            bridge: self.bridge.clone(),
            local: span.local,
            topology: span.topology.clone(),
            mtu: Some(self.mtu),
        })
    }

    /// Another link of the host that is in one of its subnets.
    pub(crate) async fn rival(&self, net: &Netlink) -> Result<Option<(Subnet, Rival)>> {
        for (gateway, subnet) in self.spec.gateways.iter().zip(self.spec.subnets()?) {
            if let Some(rival) = Rival::look(net, &self.bridge, *gateway).await? {
                return Ok(Some((subnet, rival)));
            }
        }
        Ok(None)
    }
}

impl Record for NetworkRecord {
    type Name = NetworkName;
    const WHAT: &'static str = "network";

    fn name(&self) -> &NetworkName {
        &self.spec.name
    }
}
