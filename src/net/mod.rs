//! Links of a host: bridges, veth pairs, addresses, NAT.
