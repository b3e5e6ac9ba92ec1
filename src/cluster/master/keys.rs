//! Where each record stands in the store.
//!
//! ```text
//! cluster                        Settings
//! users/USER                     User
//! nodes/NODE                     Node
//! epochs/NODE                    Epoch
//! presences/NODE                 Presence, with the node's lease
//! virtual-clusters/ID            VirtualCluster
//! statuses/NODE/CONTAINER        ContainerStatus
//! leader/…                       the queue of masters
//! ```

use std::fmt;

use crate::cluster::records::{ContainerId, NodeId, UserId, VirtualClusterId};
use crate::error::Result;
use crate::state::Key;

/// Which record stands under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    User(UserId),
    Node(NodeId),
    Epoch(NodeId),
    Presence(NodeId),
    VirtualCluster(VirtualClusterId),
    Status(NodeId, ContainerId),
}

impl Place {
    /// What stands under `key`. `None` if it is nothing of these.
    pub(super) fn of(key: &Key) -> Option<Self> {
        let mut segments = key.as_str().split('/');
        let (kind, first) = (segments.next()?, segments.next()?);
        let place = match (kind, segments.next()) {
            ("users", None) => Self::User(first.parse().ok()?),
            ("nodes", None) => Self::Node(first.parse().ok()?),
            ("epochs", None) => Self::Epoch(first.parse().ok()?),
            ("presences", None) => Self::Presence(first.parse().ok()?),
            ("virtual-clusters", None) => Self::VirtualCluster(first.parse().ok()?),
            ("statuses", Some(second)) => Self::Status(first.parse().ok()?, second.parse().ok()?),
            _ => return None,
        };
        segments.next().is_none().then_some(place)
    }

    /// Its key.
    pub(super) fn key(&self) -> Result<Key> {
        Key::new(self.to_string())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "users/{id}"),
            Self::Node(id) => write!(f, "nodes/{id}"),
            Self::Epoch(id) => write!(f, "epochs/{id}"),
            Self::Presence(id) => write!(f, "presences/{id}"),
            Self::VirtualCluster(id) => write!(f, "virtual-clusters/{id}"),
            Self::Status(node, container) => write!(f, "statuses/{node}/{container}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_by_its_key() {
        let id = "0123456789abcdef";
        let (node, container) = (id.parse::<NodeId>().unwrap(), id.parse::<ContainerId>().unwrap());
        let places = [
            Place::User(id.parse().unwrap()),
            Place::Node(node.clone()),
            Place::Epoch(node.clone()),
            Place::Presence(node.clone()),
            Place::VirtualCluster(id.parse().unwrap()),
            Place::Status(node, container),
        ];
        for place in places {
            assert_eq!(Place::of(&place.key().unwrap()), Some(place));
        }
        for other in ["cluster", "leader/0123456789abcdef", "nodes/x", "nodes/0123456789abcdef/a", "nodes"] {
            assert_eq!(Place::of(&Key::new(other).unwrap()), None, "{other}");
        }
    }
}
