//! Links of a host: bridges, veth pairs, tunnels, addresses, a firewall, and network namespaces to put them in.
//!
//! Everything is rtnetlink (`man 7 rtnetlink`) but the firewall, one run of the program `nft` per look and per change, and
//! connections that are to end (ctnetlink).
//! A [`Netlink`] belongs to one network namespace, and so does all that is done with it. What takes none ([`Firewall`],
//! [`end_connections`], [`settle_forwards`], [`forward_obstacles`], [`PortForward::check_unused`]) works in the namespace of the
//! calling thread.
//!
//! # In order
//!
//! A bridge comes first, then network namespaces with their ports; whatever is made can be ensured again at any time.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use docklet::net::{Bridge, BridgeSpec, Firewall, FirewallNetwork, LinkOwner, Netlink, NetworkNamespace, Ruleset};
//! use docklet::net::{Rate, RateLimits, Veth, VethSpec};
//!
//! # async fn example() -> docklet::Result<()> {
//! let net = Netlink::connect().await?;
//! let owner = LinkOwner::new("example/lan")?; // the bridge's mark, and in the firewall the network's
//! let bridge = BridgeSpec {
//!     addresses: vec!["10.0.0.1/24".parse()?],
//!     ..BridgeSpec::new("exbr0".parse()?, owner.clone())
//! };
//! Bridge::ensure(&net, &bridge).await?;
//!
//! let pin = Path::new("/run/example-web.netns");
//! let namespace = NetworkNamespace::ensure(pin)?;
//! let port = VethSpec {
//!     addresses: vec!["10.0.0.2/24".parse()?],
//!     gateways: vec![bridge.addresses[0].ip()],
//!     rates: RateLimits { to_container: Some(Rate::megabits(100)?), ..RateLimits::default() },
//!     ..VethSpec::new("exve0".parse()?, LinkOwner::new("example/web")?, bridge.name.clone(), "eth0".parse()?)
//! };
//! Veth::ensure(&net, &namespace, &port).await?;
//!
//! let subnets = vec!["10.0.0.0/24".parse()?];
//! let network = FirewallNetwork {
//!     masquerade: true,
//!     ..FirewallNetwork::new(owner.clone(), bridge.name.clone(), subnets)
//! };
//! let firewall = Firewall::new("example")?;
//! firewall.apply(&Ruleset { networks: vec![network], ..Ruleset::default() })?;
//!
//! // What is gone is removed: this can be repeated, too.
//! Veth::remove(&net, &port.name, &port.owner).await?;
//! NetworkNamespace::remove(pin)?;
//! firewall.remove()?;
//! Bridge::remove(&net, &bridge.name, &owner).await
//! # }
//! ```
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
//! A bridge that a script has made is handed over with `ip link set NAME alias OWNER`: from then on it is that owner's.
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
//! deleted, and the thread that asks waits with it. Calls of [`Firewall`] and [`NetworkNamespace`] are not asynchronous, and
//! block: a program with other tasks makes them with `spawn_blocking`.
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
mod change;
mod connection;
mod conntrack;
mod dump;
mod firewall;
mod inet;
mod link;
mod mac;
mod mtu;
mod namespace;
mod netlink;
mod nft;
mod owner;
pub mod pool;
mod route;
mod subnet;
mod traffic;
mod tunnel;
mod veth;
mod vlan;

pub use address::InterfaceAddress;
pub use bridge::{Bridge, BridgeSpec};
pub use bridge_port::{BridgePort, PortSettings};
pub use conntrack::{end_connections, settle_forwards};
pub(crate) use firewall::number as port_number;
pub use firewall::{
    Denied, Firewall, FirewallNetwork, ForwardObstacle, Port, PortForward, Protocol, Ruleset, Whose,
    forward_obstacles,
};
/// What addresses with a length of their prefix are given as: the crate's own `ipnet`, so that versions agree.
pub use ipnet::IpNet;
pub use mac::MacAddress;
pub use mtu::Mtu;
pub use namespace::NetworkNamespace;
pub use netlink::Netlink;
pub use owner::LinkOwner;
pub(crate) use route::Rival;
pub use subnet::Subnet;
pub use traffic::{Rate, RateLimits, SourceGuard};
pub use tunnel::{GreKey, Tunnel, TunnelSpec, TunnelTopology, Vni};
pub use veth::{Veth, VethSpec};
pub use vlan::{PortVlans, VlanFiltering, VlanId};
