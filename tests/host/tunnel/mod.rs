//! Tunnels: network namespaces are the hosts, joined by a bridge as their underlay. Tests called `gre_…` need GRE in the kernel.

mod changes;
mod fixture;
mod gre;
mod hostile;
mod life;
mod refusals;
mod traffic;
