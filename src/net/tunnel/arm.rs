//! One link of a tunnel as it should be (`man 8 bridge`: `isolated`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::wire::Wire;

/// A link that a host needs for its tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arm {
    pub(super) wire: Wire,
    /// Whom it sends to what nobody has been seen at. Of a GRE tap that is its one remote address.
    pub(super) peers: BTreeSet<IpAddr>,
    /// Whether the bridge keeps it from other isolated ports.
    pub(super) isolated: bool,
}
