//! What is taken of each node.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use super::View;
use crate::cluster::records::{Member, MemberSpec, NodeId, Resources, Size};
use crate::net::Protocol;

/// What is taken of each node, by what is there, is to come, or may be left of it.
#[derive(Debug, Clone, Default)]
pub struct Usage(BTreeMap<NodeId, Taken>);

#[derive(Debug, Clone, Default)]
struct Taken {
    resources: Resources,
    ports: BTreeSet<(Protocol, NonZeroU16)>,
}

impl Usage {
    /// What is taken in `view`.
    #[must_use]
    pub fn of(view: &View) -> Self {
        let mut usage = Self::default();
        for member in view.virtual_clusters.values().flat_map(|cluster| cluster.members.values()) {
            usage.add(member);
        }
        usage
    }

    /// What is taken of `node`.
    #[must_use]
    pub fn of_node(&self, node: &NodeId) -> Resources {
        self.0.get(node).map_or_else(Resources::default, |taken| taken.resources)
    }

    /// The first port of `spec` that another member on `node` has.
    #[must_use]
    pub fn taken_port(&self, node: &NodeId, spec: &MemberSpec) -> Option<NonZeroU16> {
        let taken = self.0.get(node)?;
        let mut ports = spec.forwards.iter().map(|forward| (forward.protocol, forward.host_port));
        ports.find(|port| taken.ports.contains(port)).map(|(_, number)| number)
    }

    /// Takes what `member` takes wherever it is.
    pub fn add(&mut self, member: &Member) {
        for node in member.node.iter().chain(&member.moving_to) {
            self.take(node, &member.spec);
        }
        for node in member.remains.keys() {
            self.leave(node, member.spec.size);
        }
    }

    /// Takes what a member of `spec` takes of `node`.
    pub fn take(&mut self, node: &NodeId, spec: &MemberSpec) {
        let taken = self.0.entry(node.clone()).or_default();
        taken.resources = taken.resources.plus(&Resources::of(spec.size));
        taken.ports.extend(spec.forwards.iter().map(|forward| (forward.protocol, forward.host_port)));
    }

    /// Takes what is left of a member of `size` on `node` until it is removed.
    fn leave(&mut self, node: &NodeId, size: Size) {
        let taken = self.0.entry(node.clone()).or_default();
        taken.resources = taken.resources.plus(&Resources::remains_of(size));
    }
}
