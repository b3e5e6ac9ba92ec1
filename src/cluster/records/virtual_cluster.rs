//! A user's named set of containers with a network of their own: what is wished. One record, so that each change of it is made
//! whole or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{ContainerId, NodeId, Size, UserId, VirtualClusterId};
use crate::host::{Forward, RestartPolicy};
use crate::name::{ContainerName, ImageName, Label, VirtualClusterName};
use crate::net::{Subnet, Vni};
use crate::state::Record;

/// A user's named set of containers with a network of their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VirtualCluster {
    /// Its id.
    pub id: VirtualClusterId,
    /// Unique among its owner's.
    pub name: VirtualClusterName,
    /// Whose it is.
    pub owner: UserId,
    /// The network that its members are in, and nobody else.
    pub network: PrivateNetwork,
    /// Its containers.
    pub members: BTreeMap<ContainerId, Member>,
    /// Whether it is being removed: it is gone when the last member is.
    #[serde(default)]
    pub removing: bool,
}

/// The network of a virtual cluster. It goes over all nodes that have members.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivateNetwork {
    /// Its addresses. No other network of the cluster has any of them.
    pub subnet: Subnet,
    /// Its number between the nodes. No other network of the cluster has it.
    pub vni: Vni,
    /// The address that each node has in it.
    pub gateways: BTreeMap<NodeId, IpAddr>,
}

/// What a user asks of a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberSpec {
    /// What it is called: its host name, unique in its virtual cluster.
    pub name: ContainerName,
    /// What its root is made of.
    pub image: ImageName,
    /// How large it is.
    pub size: Size,
    /// Ports of its node that lead to it. It is placed where they are free. Default: none.
    #[serde(default)]
    pub forwards: Vec<Forward>,
    /// The labels that its node must have. Default: none.
    #[serde(default)]
    pub labels: BTreeMap<Label, Label>,
    /// What becomes of it when its node is lost. Default: it waits.
    #[serde(default)]
    pub node_lost: NodeLost,
    /// What becomes of it when it ends by itself. Default: it is started again.
    #[serde(default)]
    pub restart: RestartPolicy,
}

/// What becomes of a container when its node is lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeLost {
    /// It waits until the node is back. Cut off from the cluster, it runs on. No data is lost.
    #[default]
    Wait,
    /// It is started on another node from its image: **what it has written is lost**. On the lost node it is killed when the lease is over,
    /// also when that node is only cut off.
    Restart,
}

/// A container of a virtual cluster: what is asked of it, and where it is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// What its user asks of it.
    pub spec: MemberSpec,
    /// Whether it should run.
    pub wish: Wish,
    /// Its address in the network. It keeps it wherever it is.
    pub address: IpAddr,
    /// Counts the decisions on where it is to be and whether it is to be there. A node carries none out that is older than one it knows.
    pub fence: u64,
    /// The node that it is on, or is to be made on. `None`: none was free yet.
    pub node: Option<NodeId>,
    /// The fence with which it was placed there.
    pub placed: u64,
    /// The node that it is being moved to from [`node`](Self::node), which is drained. It has its room there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moving_to: Option<NodeId>,
    /// The image that its root is made of instead of the one that was asked for: it holds what it had written before it was moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<ImageName>,
    /// Whether its data went with its node: it is not made anew until its user says so.
    #[serde(default)]
    pub lost: bool,
    /// Nodes on which something of it may be left, each with the fence of the order to remove it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub remains: BTreeMap<NodeId, u64>,
}

/// What is wished of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wish {
    /// It runs.
    Run,
    /// It is there, and does not run.
    Stop,
    /// It is gone, with its data.
    Remove,
}

impl VirtualCluster {
    /// The nodes that have, get or may still have something of it.
    #[must_use]
    pub fn nodes(&self) -> BTreeSet<&NodeId> {
        self.members.values().flat_map(Member::nodes).collect()
    }
}

impl Member {
    /// The nodes that have, get or may still have something of it.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.node.iter().chain(&self.moving_to).chain(self.remains.keys())
    }
}

impl Record for VirtualCluster {
    const KIND: &'static str = "virtual cluster";
}
