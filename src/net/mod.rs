//! Links of a host: bridges, veth pairs, tunnels, addresses, a firewall, and network namespaces to put them in.
//!
//! Everything is rtnetlink (`man 7 rtnetlink`) but the firewall: one run of the program `nft` per look and per
//! change. A [`Netlink`]
//! belongs to one network namespace, and so does all that is done with it; there is no hidden "current" one.
//!
//! # Whose link is it?
//!
//! A link that docklet makes carries the mark of its [`LinkOwner`] twice: as its `ifalias`, and as its hardware
//! address, which is derived from the owner and the name ([`MacAddress::derive`]). The kernel ignores an alias in
//! the message that makes a link, so there is a moment without one; the hardware address is there from the first
//! moment on. A link whose alias is the owner's, or that has no alias and the derived address, is the owner's. Any other
//! link of that name is [`Error::Differs`](crate::Error::Differs) and is never touched. The one exception is asked for by its
//! name: [`Bridge::attach_foreign`] makes somebody else's link a port, and changes nothing else of it.
//!
//! # After a crash
//!
//! A process may be killed between any two messages. What is half made is recognised by its mark; `ensure` completes it
//! and `remove` removes it.
//!
//! # Ports
//!
//! A container's [`Veth`] is a port of its bridge with rules at the host's end, out of the reach of who is root inside:
//! a [`SourceGuard`], [`RateLimits`], isolation. They are there before the port is up, and `ensure` puts them right. What
//! a port with a limit on what comes *out* needs beside the pair (an `ifb`) carries the owner's mark, too, and is
//! named after a hash; it does not go with the container's namespace, but with [`Veth::remove`].
//!
//! # Needs
//!
//! `CAP_NET_ADMIN`, and `CAP_SYS_ADMIN` for namespaces; Linux 4.20; for [`Firewall`] the package `nftables`; for [`Tunnel`]
//! the module `vxlan`, `ip_gre` or `ip6_gre`, which the kernel loads by itself. The
//! asynchronous calls run in a tokio runtime with time enabled. The kernel waits 15 to 30 ms when a link is
//! deleted, and the thread that asks waits with it.
//!
//! # Addresses
//!
//! [`pool`] shares networks and addresses out. It is plain data and needs none of the above.
//!
//! # What it does not do
//!
//! Links of the kind `vlan`. It never changes a link, an address or a table that it did not make.

mod address;
mod bridge;
mod bridge_port;
mod bridge_settings;
mod connection;
mod dump;
mod firewall;
mod link;
mod mac;
mod mtu;
mod namespace;
mod netlink;
mod nft;
mod owner;
pub mod pool;
mod subnet;
mod traffic;
mod tunnel;
mod veth;
mod vlan;

pub use address::InterfaceAddress;
pub use bridge::{Bridge, BridgeSpec};
pub use bridge_port::{BridgePort, PortSettings};
pub use firewall::{
    Denied, Firewall, FirewallNetwork, ForwardObstacle, Port, PortForward, Protocol, Ruleset,
    forward_obstacles,
};
pub use mac::MacAddress;
pub use mtu::Mtu;
pub use namespace::NetworkNamespace;
pub use netlink::Netlink;
pub use owner::LinkOwner;
pub use subnet::Subnet;
pub use traffic::{Rate, RateLimits, SourceGuard};
pub use tunnel::{GreKey, Tunnel, TunnelSpec, TunnelTopology, Vni};
pub use veth::{Veth, VethSpec};
pub use vlan::{PortVlans, VlanFiltering, VlanId};
