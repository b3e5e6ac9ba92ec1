//! What a node is told to do.

use std::collections::BTreeMap;

use super::View;
use crate::cluster::records::{ContainerId, ContainerState, Member, NodeId, NodeLost, Wish};
use crate::name::ImageName;

/// What a node is to do about one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Of the decision behind it. A node that knows of a later one leaves it.
    pub fence: u64,
    /// Whether the container was there already by what the node said: if it is not any more, it is [`ContainerState::Missing`].
    pub existed: bool,
    /// What to do.
    pub what: What,
}

/// What is to be true of a container on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It runs. It is made, unless it existed.
    Run,
    /// It does not run.
    Stop,
    /// It does not run, and this image holds what it has written.
    Save(ImageName),
    /// It is gone, with its data.
    Remove,
}

/// What `node` is to do. Of a container that it has and that is not named, it knows nothing: it removes none of these.
#[must_use]
pub fn orders(view: &View, node: &NodeId) -> BTreeMap<ContainerId, Order> {
    let members = view.virtual_clusters.values().flat_map(|cluster| &cluster.members);
    members.filter_map(|(id, member)| Some((id.clone(), order(view, node, id, member)?))).collect()
}

fn order(view: &View, node: &NodeId, id: &ContainerId, member: &Member) -> Option<Order> {
    if let Some(fence) = member.remains.get(node) {
        return Some(Order { fence: *fence, existed: false, what: What::Remove });
    }
    if member.node.as_ref() != Some(node) {
        return None;
    }
    let answer = view.answer(node, id, member.placed);
    // One whose data may be lost is made anew.
    let existed = member.spec.node_lost == NodeLost::Wait
        && answer.is_some_and(|status| status.state != ContainerState::Absent);
    let what = match (member.wish, &member.moving_to, member.spec.node_lost) {
        (Wish::Remove, _, _) | (_, Some(_), NodeLost::Restart) => What::Remove,
        (_, Some(_), NodeLost::Wait) => What::Save(saved_image(id, member.fence)),
        (Wish::Run, None, _) => What::Run,
        (Wish::Stop, None, _) => What::Stop,
    };
    Some(Order { fence: member.fence, existed, what })
}

/// The image that a container is saved to by an order of `fence`.
pub(super) fn saved_image(id: &ContainerId, fence: u64) -> ImageName {
    ImageName::new(format!("moved-{id}-{fence}")).expect("letters, digits and dashes")
}
