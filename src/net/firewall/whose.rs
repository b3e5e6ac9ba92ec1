//! Whose an entry of the table is (`man 8 nft`, "comment").

use crate::net::LinkOwner;

/// Whose an entry of the table is, to choose what stays of those that are not known now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose<'a> {
    /// A network's, or a published port's.
    Owner(&'a LinkOwner),
    /// What is said for all networks: [`Ruleset::pool`](super::Ruleset::pool) and [`Ruleset::denied`](super::Ruleset::denied).
    Host,
    /// Of [`Ruleset::tunnel_ports`](super::Ruleset::tunnel_ports).
    Tunnels,
}
