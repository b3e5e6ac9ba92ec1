//! The machines that containers run on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{NodeId, Resources};
use crate::name::{Label, NodeName};
use crate::state::Record;

/// A machine that containers run on: what is wished of it, and what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Unique in the cluster.
    pub name: NodeName,
    /// Its address on the network between the nodes: where tunnels end.
    pub address: IpAddr,
    /// What can be asked of it by [`MemberSpec::labels`](super::MemberSpec::labels): `disk` is `ssd`.
    #[serde(default)]
    pub labels: BTreeMap<Label, Label>,
    /// How much of it containers may take, all together.
    pub capacity: Resources,
    /// What may be placed on it.
    #[serde(default)]
    pub schedule: Schedule,
}

/// What may be placed on a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Whatever fits.
    #[default]
    Open,
    /// Nothing more. What is there stays.
    Closed,
    /// Nothing more, and what is there is moved to other nodes.
    Drain,
}

/// That a node has come to the cluster, and how many times: each time it gets a new lease.
///
/// It stays when the [`Presence`] of that time is over: whoever decides on a node's absence checks that it has not been back meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

/// That a node is there now. It hangs on the lease that the node's worker keeps, and goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Presence {
    /// Of which coming.
    pub epoch: Epoch,
}

impl Record for Node {
    const KIND: &'static str = "node";
}

impl Record for Epoch {
    const KIND: &'static str = "epoch";
}

impl Record for Presence {
    const KIND: &'static str = "presence";
}
