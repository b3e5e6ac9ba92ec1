//! Which node a container is placed on.

use std::collections::BTreeMap;

use super::Usage;
use super::usage::Site;
use crate::cluster::records::{MemberSpec, NodeId, Resource, Resources, Schedule};

/// What a node must have room for.
#[derive(Debug, Clone, Copy)]
pub struct Need<'a> {
    /// The container.
    pub spec: &'a MemberSpec,
    /// Nodes that it must not be on.
    pub not_on: &'a [&'a NodeId],
    /// How many others of its virtual cluster each node has: it goes where there are few.
    pub beside: &'a BTreeMap<NodeId, usize>,
}

/// Why a node was not taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Obstacle {
    /// It is not there now.
    Absent,
    /// It takes nothing more, by its [`Schedule`].
    Closed,
    /// It has not the label.
    Label(String),
    /// It has, or may still have, something of the same container.
    Excluded,
    /// The port is another's.
    Port(u16),
    /// It has too little of it left.
    Little(Resource),
}

/// The node that the container is placed on: one that is there, open, has the labels, and has room. Of these the one with the fewest of
/// the same virtual cluster; of these the one of which the least is taken then. Or what keeps each node from it.
///
/// # Errors
/// A sentence that says what is wanted, and how many nodes lack what.
pub fn place(usage: &Usage<'_>, need: &Need<'_>) -> Result<NodeId, String> {
    let mut best: Option<((usize, u64), &NodeId)> = None;
    let mut obstacles = BTreeMap::<Obstacle, (usize, u64)>::new();
    for site in usage.sites() {
        let (id, free) = (&site.node.id, site.free());
        if let Some(obstacle) = obstacle(site, &free, need) {
            let most = if let Obstacle::Little(resource) = obstacle { free.get(resource) } else { 0 };
            let (count, largest) = obstacles.entry(obstacle).or_default();
            *count += 1;
            *largest = most.max(*largest);
            continue;
        }
        let beside = need.beside.get(id).copied().unwrap_or_default();
        if best.is_some_and(|((least, _), _)| beside > least) {
            continue;
        }
        let left = free.minus(&Resources::of(need.spec.size));
        let rank = (beside, fullness(&site.node.capacity, &left));
        if best.is_none_or(|(least, _)| rank < least) {
            best = Some((rank, id));
        }
    }
    best.map(|(_, id)| id.clone()).ok_or_else(|| sentence(need, &obstacles))
}

/// What keeps the container from a node of which `free` is free.
fn obstacle(site: &Site<'_>, free: &Resources, need: &Need<'_>) -> Option<Obstacle> {
    let node = site.node;
    if !site.is_there {
        return Some(Obstacle::Absent);
    }
    if node.schedule != Schedule::Open {
        return Some(Obstacle::Closed);
    }
    let missing = need.spec.labels.iter().find(|(label, value)| node.labels.get(label) != Some(value));
    if let Some((label, value)) = missing {
        return Some(Obstacle::Label(format!("{label}={value}")));
    }
    if need.not_on.contains(&&node.id) {
        return Some(Obstacle::Excluded);
    }
    if let Some(port) = site.taken_port(need.spec) {
        return Some(Obstacle::Port(port.get()));
    }
    free.lacks(&Resources::of(need.spec.size)).map(Obstacle::Little)
}

/// How much of a node is taken if `free` is left of `capacity`: the largest share of a kind, in thousandths.
fn fullness(capacity: &Resources, free: &Resources) -> u64 {
    let share = |resource| {
        let (all, left) = (u128::from(capacity.get(resource)), u128::from(free.get(resource)));
        let taken = all.saturating_sub(left) * 1000;
        u64::try_from(taken / all.max(1)).unwrap_or(u64::MAX)
    };
    Resource::ALL.into_iter().map(share).max().unwrap_or_default()
}

fn sentence(need: &Need<'_>, obstacles: &BTreeMap<Obstacle, (usize, u64)>) -> String {
    if obstacles.is_empty() {
        return "there is no node: let one join".to_owned();
    }
    let told = obstacles.iter().map(|(obstacle, (count, largest))| {
        let nodes = if *count == 1 { "1 node".to_owned() } else { format!("{count} nodes") };
        match obstacle {
            Obstacle::Absent => format!("{nodes} not there"),
            Obstacle::Closed => format!("{nodes} closed or drained"),
            Obstacle::Label(label) => format!("{nodes} without the label {label}"),
            Obstacle::Excluded => format!("{nodes} with remains of it"),
            Obstacle::Port(port) => format!("{nodes} whose port {port} is taken"),
            Obstacle::Little(resource) => {
                let wanted = Resources::of(need.spec.size).get(*resource);
                format!("{nodes} with too little {resource}: it needs {wanted}, at most {largest} are free")
            }
        }
    });
    format!("no node has room for `{}`: {}", need.spec.name, told.collect::<Vec<_>>().join("; "))
}
