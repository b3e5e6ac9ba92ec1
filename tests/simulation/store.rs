//! A simulated store: what the real ones promise of transactions, leases and offices, with a clock of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use docklet::cluster::decide::{Decision, View, Write};
use docklet::cluster::records::{ContainerId, ContainerStatus, Epoch, NodeId, Presence, Timing};

/// How long a master leads without keeping its office.
pub(crate) const OFFICE: Duration = Duration::from_secs(10);

/// One record that was changed, for those who watch.
#[derive(Clone)]
pub(crate) enum Change {
    Decided(Decision),
    Came(NodeId, Epoch),
    Went(NodeId),
    Said(NodeId, ContainerId, ContainerStatus),
}

pub(crate) struct Store {
    pub(crate) view: View,
    pub(crate) revision: u64,
    /// Everything that was changed, by revision: the first is 1.
    pub(crate) changes: Vec<Change>,
    pub(crate) leases: BTreeMap<NodeId, (Epoch, Duration)>,
    /// Who leads: a master, its fence, and until when.
    pub(crate) leader: Option<(usize, u64, Duration)>,
    fences: u64,
    pub(crate) timing: Timing,
}

impl Store {
    pub(crate) fn new(view: View, timing: Timing) -> Self {
        let leases = BTreeMap::new();
        Self { view, revision: 0, changes: Vec::new(), leases, leader: None, fences: 0, timing }
    }

    pub(crate) fn change(&mut self, change: Change) {
        match &change {
            Change::Decided(decision) => self.view.apply(decision),
            change => apply(&mut self.view, change),
        }
        self.changes.push(change);
        self.revision += 1;
    }

    /// Ends what is over.
    pub(crate) fn tick(&mut self, now: Duration) {
        let over: Vec<_> = self
            .leases
            .iter()
            .filter(|(_, (_, until))| *until <= now)
            .map(|(node, _)| node.clone())
            .collect();
        for node in over {
            self.leases.remove(&node);
            self.change(Change::Went(node));
        }
        self.leader = self.leader.filter(|(_, _, until)| *until > now);
    }

    /// Takes or keeps the office: the fence.
    pub(crate) fn lead(&mut self, master: usize, now: Duration) -> Option<u64> {
        let fence = match self.leader {
            None => {
                self.fences += 1;
                self.fences
            }
            Some((holder, fence, _)) if holder == master => fence,
            Some(_) => return None,
        };
        self.leader = Some((master, fence, now + OFFICE));
        Some(fence)
    }

    /// A node comes, again or for the first time. `None` if it is no node of the cluster.
    pub(crate) fn register(&mut self, node: &NodeId, now: Duration) -> Option<Epoch> {
        self.view.nodes.get(node)?;
        let epoch = Epoch(self.view.epochs.get(node).map_or(1, |epoch| epoch.0 + 1));
        self.leases.insert(node.clone(), (epoch, now + self.timing.lease));
        self.change(Change::Came(node.clone(), epoch));
        Some(epoch)
    }

    /// Keeps the lease of a node's coming. False if it is over.
    pub(crate) fn keep(&mut self, node: &NodeId, epoch: Epoch, now: Duration) -> bool {
        let lease = self.timing.lease;
        let kept = self.leases.get_mut(node).filter(|(current, _)| *current == epoch);
        kept.map(|(_, until)| *until = now + lease).is_some()
    }

    /// Takes what a node says, unless it said something later, or came again since.
    pub(crate) fn hear(&mut self, node: &NodeId, container: &ContainerId, status: ContainerStatus) {
        if self.view.epochs.get(node) != Some(&status.report.epoch) || !self.concerns(node, container) {
            return;
        }
        let key = (node.clone(), container.clone());
        if self.view.statuses.get(&key).is_none_or(|known| known.report < status.report) {
            self.change(Change::Said(node.clone(), container.clone(), status));
        }
    }

    fn concerns(&self, node: &NodeId, container: &ContainerId) -> bool {
        let mut clusters = self.view.virtual_clusters.values();
        let member = clusters.find_map(|cluster| cluster.members.get(container));
        member.is_some_and(|member| member.nodes().any(|at| at == node))
    }

    /// Carries out what a master decided, if it leads with `fence`, and the nodes are absent as it says.
    pub(crate) fn commit(&mut self, master: usize, fence: u64, decision: &Decision) -> bool {
        let leads = self.leader.is_some_and(|(holder, current, _)| (holder, current) == (master, fence));
        let absent = decision.absent.iter().all(|(node, epoch)| {
            !self.view.presences.contains_key(node) && self.view.epochs.get(node) == Some(epoch)
        });
        if leads && absent {
            for write in &decision.writes {
                if let Write::RemoveNode(node) = write {
                    self.leases.remove(node);
                }
            }
            self.change(Change::Decided(decision.clone()));
        }
        leads && absent
    }
}

/// Makes a change that no master decided.
pub(crate) fn apply(view: &mut View, change: &Change) {
    match change.clone() {
        Change::Decided(decision) => view.apply(&decision),
        Change::Came(node, epoch) => {
            view.epochs.insert(node.clone(), epoch);
            view.presences.insert(node, Presence { epoch });
        }
        Change::Went(node) => drop(view.presences.remove(&node)),
        Change::Said(node, container, status) => drop(view.statuses.insert((node, container), status)),
    }
}
