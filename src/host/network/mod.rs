//! Networks of one host: a bridge each (`man 8 bridge`), one nftables table for all, and the containers' ports.

mod addresses;
mod firewall;
mod interfaces;
mod life;
mod ports;
