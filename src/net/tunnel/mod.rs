//! Tunnels between hosts (`man 8 ip-link`, RFC 7348 for VXLAN, RFC 2784 and 2890 for GRE).
//!
//! What a tunnel is stands at [`TunnelTopology`], how it is used at [`Tunnel`]. A host's links of it are its arms: ports of the
//! bridge, each with its [`Wire`](wire::Wire), which the kernel does not change.

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
