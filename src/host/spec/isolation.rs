//! What holds for all networks of a host, whatever each says of itself (`man 8 nft` has what becomes of it). Plain data.

use std::collections::BTreeSet;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::net::{Denied, Subnet};

/// What a host's networks are kept from beside each other: what only the cluster knows of. The default is nothing.
///
/// ```
/// use docklet::host::IsolationSpec;
/// use docklet::net::Denied;
///
/// let control_plane = Denied { net: "192.0.2.0/28".parse()?, port: None };
/// let spec = IsolationSpec { denied: [control_plane].into(), ..IsolationSpec::default() };
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IsolationSpec {
    /// Where the tenants' networks are on all hosts: `10.0.0.0/8`. What is sent there from a network of this host bears its own
    /// address, and is dropped, unless it is in a network of this host that it may [reach](super::NetworkSpec::reach).
    /// Nothing opens a network of another host: one that is to be on several hosts [spans](super::NetworkSpec::span) them. This
    /// host's own networks are always among them, and may lie in these.
    #[serde(default)]
    pub pool: BTreeSet<Subnet>,
    /// What no network reaches, whatever else is said: the control plane, on this host, on others, or beyond. Also not by way of
    /// a published port, nor as one of the [`host_ports`](super::NetworkSpec::host_ports).
    #[serde(default)]
    pub denied: BTreeSet<Denied>,
    /// UDP ports of the cluster's tunnels that this host has no part in: what a tenant sends there could pass for a frame of
    /// one, on the host that gets it. 4789 and the ports of this host's own [spans](super::NetworkSpec::span) are always
    /// closed.
    #[serde(default)]
    pub tunnel_ports: BTreeSet<NonZeroU16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_small_json() {
        let text = r#"{"pool":["10.0.0.0/8"],"denied":[{"net":"192.0.2.9/32","port":{"protocol":"tcp","number":2379}}],"tunnel_ports":[8472]}"#;
        let spec: IsolationSpec = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), text);
        assert_eq!(serde_json::from_str::<IsolationSpec>("{}").unwrap(), IsolationSpec::default());
        for bad in [r#"{"deny":[]}"#, r#"{"pool":["10.0.0.1/8"]}"#, r#"{"tunnel_ports":[0]}"#] {
            serde_json::from_str::<IsolationSpec>(bad).unwrap_err();
        }
    }
}
