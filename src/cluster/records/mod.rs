//! What the cluster keeps in its store: plain data, each record with its version.
//!
//! What is wished and what is are separate records with separate writers. Users, nodes and virtual clusters are written by the leading
//! master; epochs, presences and statuses by whichever master a node's worker reports to.

mod id;
mod node;
mod resources;
mod settings;
mod status;
mod user;
mod virtual_cluster;

pub use id::{ContainerId, NodeId, UserId, VirtualClusterId};
pub use node::{Epoch, Node, Presence, Schedule};
pub use resources::{Resource, Resources, Size};
pub use settings::{Settings, Timing};
pub use status::{ContainerState, ContainerStatus, Report};
pub use user::{Quota, Role, User};
pub use virtual_cluster::{Member, MemberSpec, NodeLost, PrivateNetwork, VirtualCluster, Wish};
