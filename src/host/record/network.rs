//! A network's record: what it should be, and what its objects are called. A file, replaced whole (`man 2 rename`).

use serde::{Deserialize, Serialize};

use super::files::{FORMAT, Record};
use crate::host::NetworkSpec;
use crate::name::{LinkName, NetworkName};
use crate::net::LinkOwner;

/// What a network should be, and what its objects are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    format: u32,
    pub(crate) bridge: LinkName,
    /// The mark in the bridge's `ifalias`.
    pub(crate) owner: LinkOwner,
    pub(crate) spec: NetworkSpec,
}

impl NetworkRecord {
    pub(crate) fn new(bridge: LinkName, owner: LinkOwner, spec: NetworkSpec) -> Self {
        Self { format: FORMAT, bridge, owner, spec }
    }
}

impl Record for NetworkRecord {
    type Name = NetworkName;
    const WHAT: &'static str = "network";

    fn name(&self) -> &NetworkName {
        &self.spec.name
    }
}
