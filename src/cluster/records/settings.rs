//! What holds for a cluster as a whole.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::{ClusterName, ObjectId};
use crate::net::Subnet;
use crate::state::Record;

/// What holds for a cluster as a whole. It is written once, when the cluster is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Its id: containers on hosts bear it.
    pub id: ObjectId,
    /// What people call it.
    pub name: ClusterName,
    /// What the networks of virtual clusters are taken from.
    pub networks: Subnet,
    /// The length of their prefixes.
    pub network_prefix_len: u8,
    /// How long things take.
    #[serde(default)]
    pub timing: Timing,
}

/// How long things take, the same on all machines of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timing {
    /// How long a node's lease holds without being kept, in whole seconds. Default: 20 s.
    pub lease: Duration,
    /// How much earlier than that the node takes it for over: for clocks that do not run alike. Default: 2 s.
    pub margin: Duration,
    /// How long after the lease's end was seen what ran there may be started elsewhere: for killing what runs. Default: 5 s.
    pub fence: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { lease: Duration::from_secs(20), margin: Duration::from_secs(2), fence: Duration::from_secs(5) }
    }
}

impl Record for Settings {
    const KIND: &'static str = "cluster";
}
