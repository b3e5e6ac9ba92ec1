//! What is taken of each node.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use super::View;
use crate::cluster::records::{Member, MemberSpec, Node, NodeId, Resources};
use crate::net::Protocol;

/// What is taken of each node, by what is there, is to come, or may be left of it.
#[derive(Debug, Clone)]
pub struct Usage<'a>(BTreeMap<&'a NodeId, Site<'a>>);

/// A node, and what is taken of it.
#[derive(Debug, Clone)]
pub(super) struct Site<'a> {
    pub(super) node: &'a Node,
    /// Whether it is there now.
    pub(super) is_there: bool,
    taken: Resources,
    ports: BTreeSet<(Protocol, NonZeroU16)>,
}

impl<'a> Usage<'a> {
    /// What is taken in `view`.
    #[must_use]
    pub fn of(view: &'a View) -> Self {
        let site = |node: &'a Node| {
            let is_there = view.presences.contains_key(&node.id);
            Site { node, is_there, taken: Resources::default(), ports: BTreeSet::new() }
        };
        let mut usage = Self(view.nodes.iter().map(|(id, node)| (id, site(node))).collect());
        for member in view.virtual_clusters.values().flat_map(|cluster| cluster.members.values()) {
            usage.add(member);
        }
        usage
    }

    /// What is taken of `node`.
    #[must_use]
    pub fn of_node(&self, node: &NodeId) -> Resources {
        self.0.get(node).map_or_else(Resources::default, |site| site.taken)
    }

    /// All nodes.
    pub(super) fn sites(&self) -> impl Iterator<Item = &Site<'a>> {
        self.0.values()
    }

    /// Takes what `member` takes wherever it is.
    pub fn add(&mut self, member: &Member) {
        for node in member.node.iter().chain(&member.moving_to) {
            self.take(node, &member.spec);
        }
        for node in member.remains.keys() {
            if let Some(site) = self.0.get_mut(node) {
                site.taken = site.taken.plus(&Resources::remains_of(member.spec.size));
            }
        }
    }

    /// Takes what a member of `spec` takes of `node`.
    pub fn take(&mut self, node: &NodeId, spec: &MemberSpec) {
        if let Some(site) = self.0.get_mut(node) {
            site.taken = site.taken.plus(&Resources::of(spec.size));
            site.ports.extend(spec.forwards.iter().map(|forward| (forward.protocol, forward.host_port)));
        }
    }
}

impl Site<'_> {
    /// What is not taken.
    pub(super) fn free(&self) -> Resources {
        self.node.capacity.minus(&self.taken)
    }

    /// The first port of `spec` that another member has.
    pub(super) fn taken_port(&self, spec: &MemberSpec) -> Option<NonZeroU16> {
        let mut ports = spec.forwards.iter().map(|forward| (forward.protocol, forward.host_port));
        ports.find(|port| self.ports.contains(port)).map(|(_, number)| number)
    }
}
