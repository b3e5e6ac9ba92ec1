//! All records at one moment, and what a decision changes of them.

use std::collections::BTreeMap;

use crate::cluster::records::{
    ContainerId, ContainerStatus, Epoch, Node, NodeId, Presence, User, UserId, VirtualCluster,
    VirtualClusterId,
};
use crate::net::Subnet;

/// All records of a cluster at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// What the networks of virtual clusters are taken from.
    pub networks: Subnet,
    /// The length of their prefixes.
    pub network_prefix_len: u8,
    /// Users.
    pub users: BTreeMap<UserId, User>,
    /// Nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// How many times each node has come.
    pub epochs: BTreeMap<NodeId, Epoch>,
    /// The nodes that are there.
    pub presences: BTreeMap<NodeId, Presence>,
    /// Virtual clusters.
    pub virtual_clusters: BTreeMap<VirtualClusterId, VirtualCluster>,
    /// What nodes have said.
    pub statuses: BTreeMap<(NodeId, ContainerId), ContainerStatus>,
}

/// A change of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The user is this from now on.
    User(User),
    /// The node is this from now on.
    Node(Node),
    /// The node is none any more, and is not there.
    RemoveNode(NodeId),
    /// The virtual cluster is this from now on.
    VirtualCluster(VirtualCluster),
    /// The virtual cluster is none any more.
    RemoveVirtualCluster(VirtualClusterId),
    /// What the node said of the container is done with.
    RemoveStatus(NodeId, ContainerId),
}

/// What is to be changed, in one transaction.
///
/// It holds only if its records are what they were in the [`View`] that it was made from, and if nobody else leads by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The changes.
    pub writes: Vec<Write>,
    /// Nodes that must still be absent, with the epoch that they had: what is decided hangs on their not having come back.
    pub absent: BTreeMap<NodeId, Epoch>,
    /// What was decided, for people.
    pub reason: String,
}

impl View {
    /// A cluster without anything, whose virtual clusters get networks of `network_prefix_len` from `networks`.
    #[must_use]
    pub fn new(networks: Subnet, network_prefix_len: u8) -> Self {
        Self {
            networks,
            network_prefix_len,
            users: BTreeMap::new(),
            nodes: BTreeMap::new(),
            epochs: BTreeMap::new(),
            presences: BTreeMap::new(),
            virtual_clusters: BTreeMap::new(),
            statuses: BTreeMap::new(),
        }
    }

    /// Makes the changes of `decision`.
    pub fn apply(&mut self, decision: &Decision) {
        for write in &decision.writes {
            match write.clone() {
                Write::User(user) => drop(self.users.insert(user.id.clone(), user)),
                Write::Node(node) => drop(self.nodes.insert(node.id.clone(), node)),
                Write::RemoveNode(id) => {
                    self.nodes.remove(&id);
                    self.epochs.remove(&id);
                    self.presences.remove(&id);
                }
                Write::VirtualCluster(cluster) => {
                    drop(self.virtual_clusters.insert(cluster.id.clone(), cluster));
                }
                Write::RemoveVirtualCluster(id) => drop(self.virtual_clusters.remove(&id)),
                Write::RemoveStatus(node, container) => drop(self.statuses.remove(&(node, container))),
            }
        }
    }

    /// What `node` last said of `container` in answer to an order of `fence` or a later one.
    #[must_use]
    pub fn answer(&self, node: &NodeId, container: &ContainerId, fence: u64) -> Option<&ContainerStatus> {
        self.statuses.get(&(node.clone(), container.clone())).filter(|status| status.fence >= fence)
    }
}
