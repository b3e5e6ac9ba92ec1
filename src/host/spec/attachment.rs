//! A container's place in a network. Plain data; what becomes of it is a veth pair (`man 4 veth`).

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Forward;
use crate::name::NetworkName;
use crate::net::{Mtu, RateLimits, SourceGuard};

/// A container's place in a network: what one of its interfaces is.
///
/// ```
/// use std::collections::BTreeMap;
///
/// use docklet::host::{Attachment, ContainerSpec, Forward};
/// use docklet::net::{Rate, RateLimits};
///
/// let lan = Attachment { forwards: vec![Forward::tcp(8080, 80)?], ..Attachment::new("lan".parse()?) };
/// let backup = Attachment {
///     addresses: vec![[10, 89, 0, 7].into()],
///     rates: RateLimits { from_container: Some(Rate::megabits(20)?), ..RateLimits::default() },
///     ..Attachment::new("backup".parse()?)
/// };
/// let web = ContainerSpec {
///     interfaces: BTreeMap::from([("eth0".parse()?, lan), ("eth1".parse()?, backup)]),
///     ..ContainerSpec::new("web".parse()?, "busybox".parse()?)
/// };
/// # Ok::<(), docklet::Error>(())
/// ```
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
    /// How much may go through. Default: as much as the host can.
    #[serde(default)]
    pub rates: RateLimits,
    /// The ports of the host that lead to it. Default: none.
    #[serde(default)]
    pub forwards: Vec<Forward>,
    /// Whether the bridge keeps it from the network's other isolated containers; what goes by the gateway still arrives, see
    /// [`VethSpec::isolated`](crate::net::VethSpec::isolated). Default: it reaches all.
    #[serde(default)]
    pub isolated: bool,
    /// What it may send besides what is its own. Default: nothing, so that it cannot pose as another; `None` checks nothing.
    #[serde(default = "own_only")]
    pub guard: Option<SourceGuard>,
}

#[expect(clippy::unnecessary_wraps, reason = "the field's default")]
fn own_only() -> Option<SourceGuard> {
    Some(SourceGuard::default())
}

impl Attachment {
    /// A place in `network` with addresses that the host picks, and the defaults of every other field.
    #[must_use]
    pub fn new(network: NetworkName) -> Self {
        Self {
            network,
            addresses: Vec::new(),
            mtu: None,
            rates: RateLimits::default(),
            forwards: Vec::new(),
            isolated: false,
            guard: own_only(),
        }
    }
}
