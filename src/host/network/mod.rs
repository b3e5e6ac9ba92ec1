//! Networks of one host: a bridge each (`man 8 bridge`), perhaps a tunnel, one nftables table for all, and the containers'
//! ports.

mod addresses;
mod change;
mod connections;
mod firewall;
mod interfaces;
mod isolation;
mod life;
mod ports;
