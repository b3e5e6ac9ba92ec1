//! How a network goes on on other hosts (`man 8 ip-link` on VXLAN and GRE). Plain data.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::net::TunnelTopology;

/// A network over several hosts, and which of them this one is. Each host's network has its gateways and containers'
/// addresses of its own: what one host gives out the others do not know of.
///
/// ```
/// use docklet::host::{NetworkSpec, Span};
/// use docklet::net::{TunnelTopology, Vni};
///
/// let hosts = [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()];
/// let topology = TunnelTopology::vxlan_mesh(Vni::new(7)?, hosts); // the same on both hosts
/// let lan = NetworkSpec {
///     span: Some(Span { local: hosts[0], topology }), // on the other host its own: `hosts[1]`
///     ..NetworkSpec::new("lan".parse()?, "10.88.0.1/24".parse()?)
/// };
/// # Ok::<(), docklet::Error>(())
/// ```
///
/// What is sent is neither encrypted nor is its sender checked: see [`Tunnel`](crate::net::Tunnel).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    /// This host's address on the underlay.
    pub local: IpAddr,
    /// All of the network, the same on every host.
    pub topology: TunnelTopology,
}
