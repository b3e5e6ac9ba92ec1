//! Tunnels between hosts (`man 8 ip-link`, RFC 7348 for VXLAN, RFC 2784 and 2890 for GRE): one tenant's bridges, on
//! several hosts, become one network.
//!
//! A [`TunnelTopology`] states the whole network, the same on every host; [`TunnelSpec::local`] says which host this is.
//! [`Tunnel::ensure`] makes the links of this host, its arms: ports of the bridge, marked with their owner.
//!
//! | topology | arms of a host | how frames get on |
//! |---|---|---|
//! | VXLAN mesh | one, with a flood entry for each other host | the kernel learns who is where |
//! | VXLAN star | the hub: one for each spoke, with a VNI of its own; a spoke: one | the hub's bridge passes them on |
//! | GRE mesh | one for each other host, isolated from one another | the bridge learns |
//! | GRE star | the hub: one for each spoke; a spoke: one | the hub's bridge passes them on |
//!
//! # Why there is no loop
//!
//! In a mesh nothing that came from a tunnel goes into a tunnel: a bridge does not send a frame back to the port it came
//! from, and a VXLAN mesh is one port; ports of a GRE mesh are `isolated`, which the bridge does not join. So it does not
//! matter what the hosts believe of each other while a change makes its way. In a star only the hub passes on, and a spoke
//! has one arm; while the hub moves there are two for a moment, with one path between them. A bridge takes one tunnel: a
//! second one, whoever's it is, is [`Error::Differs`](crate::Error::Differs). New arms are down until that was looked at.
//!
//! A star over VXLAN needs a VNI for each spoke since the kernel tells its links apart by VNI and not by sender, and one
//! link for all would send a broadcast back to the spoke it came from.
//!
//! Isolated ports do not reach each other, whatever is behind them: a container whose own port is isolated does not reach
//! the other hosts through a GRE mesh. VXLAN does not have this limit.
//!
//! # MTU
//!
//! What a tunnel carries is the least of its local interface and of the routes to the other hosts, less its headers:
//! [`Tunnel::mtu`] says it before anything is made. Give it to the bridge, too: a bridge drops without a word what is too
//! large for a port. VXLAN lets a packet be fragmented where the path is narrower than its routes say; GRE does not.
//! Outer UDP checksums are on.
//!
//! # Who can send into it
//!
//! Neither VXLAN nor GRE encrypts or knows its sender: who can send to a host of the underlay can write into a network,
//! and who is on the way can read. VXLAN takes frames from any sender, also one that is no host of it (measured); GRE goes
//! by the sender's address, which can be forged. So the underlay must be trusted, or lie in WireGuard or IPsec;
//! and the firewall should let the UDP port (or IP protocol 47) in from the other hosts only.

mod arm;
mod found;
mod gre_key;
mod handle;
mod peers;
mod spec;
mod topology;
mod underlay;
mod vni;
mod wire;

pub use gre_key::GreKey;
pub use handle::Tunnel;
pub use spec::TunnelSpec;
pub use topology::TunnelTopology;
pub use vni::Vni;
