//! What follows from what there is: the leading master's decisions that nobody asks for.

use std::collections::{BTreeMap, BTreeSet};

use super::admission::is_missing;
use super::network::set_gateways;
use super::orders::saved_image;
use super::{Absences, Decision, Moment, Need, Usage, View, Write, place};
use crate::cluster::records::{
    ContainerId, ContainerState, Epoch, Member, NodeId, NodeLost, Schedule, Timing, VirtualCluster, Wish,
};

/// How many words of nodes are done with in one decision.
const SWEPT_MAX: usize = 100;

/// What is to be decided now, at most one decision for each virtual cluster. Once they are carried out there may be more.
#[must_use]
pub fn due(view: &View, absences: &Absences, now: Moment, timing: &Timing) -> Vec<Decision> {
    let mut usage = Usage::of(view);
    let mut due = Vec::new();
    for cluster in view.virtual_clusters.values() {
        let look = Look { view, absences, now, timing, cluster };
        due.extend(look.decide(&mut usage));
    }
    // What was decided may concern what nobody else asks for.
    if due.is_empty() { sweep(view).into_iter().collect() } else { due }
}

/// Words of nodes on containers that nobody wishes there.
fn sweep(view: &View) -> Option<Decision> {
    let members = || view.virtual_clusters.values().flat_map(|cluster| &cluster.members);
    let concerned: BTreeSet<(&NodeId, &ContainerId)> =
        members().flat_map(|(id, member)| member.nodes().map(move |node| (node, id))).collect();
    let idle = view.statuses.keys().filter(|(node, id)| !concerned.contains(&(node, id)));
    let writes: Vec<_> =
        idle.take(SWEPT_MAX).map(|(node, id)| Write::RemoveStatus(node.clone(), id.clone())).collect();
    let reason = format!("{} words of nodes are forgotten", writes.len());
    (!writes.is_empty()).then_some(Decision { writes, absent: BTreeMap::new(), reason })
}

/// What is looked at for one virtual cluster.
struct Look<'a> {
    view: &'a View,
    absences: &'a Absences,
    now: Moment,
    timing: &'a Timing,
    cluster: &'a VirtualCluster,
}

/// What becomes of one member.
#[derive(Default)]
struct Next {
    /// The member. `None`: there is none any more.
    member: Option<Member>,
    reason: String,
    /// The node on whose absence this hangs.
    absent: Option<(NodeId, Epoch)>,
    /// Nodes whose word on it is done with.
    heard: Vec<NodeId>,
}

impl Look<'_> {
    fn decide(&self, usage: &mut Usage<'_>) -> Option<Decision> {
        if self.cluster.removing && self.cluster.members.is_empty() {
            let reason = format!("virtual cluster `{}` is gone", self.cluster.name);
            let writes = vec![Write::RemoveVirtualCluster(self.cluster.id.clone())];
            return Some(Decision { writes, absent: BTreeMap::new(), reason });
        }
        let mut cluster = None;
        let mut decision = Decision { writes: Vec::new(), absent: BTreeMap::new(), reason: String::new() };
        for (id, member) in &self.cluster.members {
            let changed = cluster.as_ref().unwrap_or(self.cluster);
            let Some(next) = self.next(usage, changed, id, member) else { continue };
            let mut changed = changed.clone();
            match next.member {
                Some(member) => drop(changed.members.insert(id.clone(), member)),
                None => drop(changed.members.remove(id)),
            }
            // Without an address for its node it stays as it is.
            if set_gateways(&mut changed).is_err() {
                continue;
            }
            if let Some(member) = changed.members.get(id) {
                usage.add(member);
            }
            let done = next.heard.into_iter().map(|node| Write::RemoveStatus(node, id.clone()));
            decision.writes.extend(done);
            decision.absent.extend(next.absent);
            let separator = if decision.reason.is_empty() { "" } else { "; " };
            decision.reason += &format!("{separator}`{}` {}", member.spec.name, next.reason);
            cluster = Some(changed);
        }
        decision.writes.insert(0, Write::VirtualCluster(cluster?));
        Some(decision)
    }

    fn next(
        &self,
        usage: &Usage<'_>,
        cluster: &VirtualCluster,
        id: &ContainerId,
        member: &Member,
    ) -> Option<Next> {
        if let Some(next) = self.cleaned(id, member) {
            return Some(next);
        }
        let at = member.node.as_ref();
        if member.wish == Wish::Remove {
            return self.removed(id, member);
        }
        match at {
            None if member.lost => None,
            None => {
                let to = self.place(usage, cluster, member)?;
                let reason = format!("is placed on {to}");
                Some(Next { member: Some(moved(member, to)), reason, ..Next::default() })
            }
            Some(node) if !self.view.nodes.contains_key(node) => Some(orphaned(member)),
            Some(node) => self
                .failed_over(usage, cluster, member, node)
                .or_else(|| self.drained(usage, cluster, id, member, node)),
        }
    }

    /// Remains that are confirmed gone, or whose node is.
    fn cleaned(&self, id: &ContainerId, member: &Member) -> Option<Next> {
        let gone = |node: &NodeId, fence: u64| self.is_gone(node, id, fence);
        let heard: Vec<_> = member
            .remains
            .iter()
            .filter(|(node, fence)| gone(node, **fence))
            .map(|(node, _)| node.clone())
            .collect();
        if heard.is_empty() {
            return None;
        }
        let mut member = member.clone();
        member.remains.retain(|node, _| !heard.contains(node));
        let reason = "is gone from where it was".to_owned();
        Some(Next { member: Some(member), reason, heard, ..Next::default() })
    }

    fn removed(&self, id: &ContainerId, member: &Member) -> Option<Next> {
        let Some(node) = &member.node else {
            let reason = "is gone".to_owned();
            return member.remains.is_empty().then(|| Next { reason, ..Next::default() });
        };
        self.is_gone(node, id, member.fence).then(|| Next {
            member: Some(Member { node: None, ..member.clone() }),
            reason: "is removed".to_owned(),
            heard: vec![node.clone()],
            ..Next::default()
        })
    }

    /// Whether nothing of the container is on `node`: it said so, or is a node no more.
    fn is_gone(&self, node: &NodeId, id: &ContainerId, fence: u64) -> bool {
        let answer = self.view.answer(node, id, fence);
        !self.view.nodes.contains_key(node)
            || answer.is_some_and(|status| status.state == ContainerState::Absent)
    }

    /// A member whose node is lost, and which may be started elsewhere.
    fn failed_over(
        &self,
        usage: &Usage<'_>,
        cluster: &VirtualCluster,
        member: &Member,
        node: &NodeId,
    ) -> Option<Next> {
        if member.spec.node_lost != NodeLost::Restart {
            return None;
        }
        let epoch = self.absences.fenced(node, self.now, self.timing)?;
        let reserved = member.moving_to.as_ref().filter(|target| self.is_there(target)).cloned();
        let to = reserved.or_else(|| self.place(usage, cluster, member))?;
        let reason = format!("is started on {to}: its node {node} is lost");
        let mut member = moved(member, to);
        member.saved = None;
        member.remains.insert(node.clone(), member.fence);
        Some(Next { member: Some(member), reason, absent: Some((node.clone(), epoch)), ..Next::default() })
    }

    /// A member whose node is drained: the next part of its way.
    fn drained(
        &self,
        usage: &Usage<'_>,
        cluster: &VirtualCluster,
        id: &ContainerId,
        member: &Member,
        node: &NodeId,
    ) -> Option<Next> {
        let Some(target) = &member.moving_to else {
            let is_drained = self.view.nodes[node].schedule == Schedule::Drain;
            if !is_drained || !self.view.presences.contains_key(node) || is_missing(self.view, id, member) {
                return None;
            }
            let to = self.place(usage, cluster, member)?;
            let reason = format!("is to move to {to}");
            let fence = member.fence + 1;
            let member = Member { moving_to: Some(to), fence, ..member.clone() };
            return Some(Next { member: Some(member), reason, ..Next::default() });
        };
        let answer = self.view.answer(node, id, member.fence)?;
        let image = saved_image(id, member.fence);
        let was_absent = answer.state == ContainerState::Absent;
        let saved = match member.spec.node_lost {
            NodeLost::Restart => None,
            NodeLost::Wait => answer.saved.clone().filter(|saved| *saved == image),
        };
        if !was_absent && saved.is_none() {
            return None;
        }
        let to = if self.is_there(target) { target.clone() } else { self.place(usage, cluster, member)? };
        let reason = format!("moves from {node} to {to}");
        let mut next = moved(member, to);
        let mut heard = Vec::new();
        if was_absent {
            heard.push(node.clone());
        } else {
            next.remains.insert(node.clone(), next.fence);
        }
        if saved.is_some() {
            next.saved = saved;
        }
        Some(Next { member: Some(next), reason, heard, ..Next::default() })
    }

    fn is_there(&self, node: &NodeId) -> bool {
        self.view.nodes.contains_key(node) && self.view.presences.contains_key(node)
    }

    fn place(&self, usage: &Usage<'_>, cluster: &VirtualCluster, member: &Member) -> Option<NodeId> {
        let not_on: Vec<_> = member.nodes().collect();
        let need = Need { spec: &member.spec, not_on: &not_on, beside: &beside(cluster) };
        place(usage, &need).ok()
    }
}

/// How many members each node has.
pub(super) fn beside(cluster: &VirtualCluster) -> BTreeMap<NodeId, usize> {
    let mut beside = BTreeMap::new();
    for node in cluster.members.values().flat_map(|member| member.node.iter().chain(&member.moving_to)) {
        *beside.entry(node.clone()).or_default() += 1;
    }
    beside
}

/// `member` on the node `to`, by a new decision.
pub(super) fn moved(member: &Member, to: NodeId) -> Member {
    let fence = member.fence + 1;
    Member { node: Some(to), moving_to: None, fence, placed: fence, ..member.clone() }
}

/// A member whose node is one no more: an administrator said that it does not come back.
fn orphaned(member: &Member) -> Next {
    let lost = member.spec.node_lost == NodeLost::Wait;
    let reason = if lost { "has lost its data with its node" } else { "has lost its node" };
    let member =
        Member { node: None, moving_to: None, saved: None, lost, fence: member.fence + 1, ..member.clone() };
    Next { member: Some(member), reason: reason.to_owned(), ..Next::default() }
}
