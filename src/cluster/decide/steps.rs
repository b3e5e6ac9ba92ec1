//! What a worker does next about each of its containers.

use std::collections::BTreeMap;

use super::{Moment, Order, What};
use crate::cluster::records::{ContainerId, ContainerState, Epoch, NodeLost};
use crate::name::ImageName;

/// A container as it is on its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actual {
    /// Stopped, ended or running.
    pub state: ContainerState,
    /// Of the last decision that was carried out on it.
    pub fence: u64,
    /// What becomes of it when the node is lost.
    pub node_lost: NodeLost,
    /// The image that it was last saved to, if it has not run since.
    pub saved: Option<ImageName>,
}

/// What a worker does about one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Makes it, and starts it.
    Launch,
    /// Starts it.
    Start,
    /// Stops it.
    Stop,
    /// Saves what it has written to this image.
    Save(ImageName),
    /// Removes it with its data.
    Remove,
}

/// What a worker does next: one step for each container that is not as ordered. When they are done it looks, and asks again.
///
/// A container without an order stays, but for one that may run elsewhere: that is stopped.
#[must_use]
pub fn steps(
    orders: &BTreeMap<ContainerId, Order>,
    actual: &BTreeMap<ContainerId, Actual>,
) -> BTreeMap<ContainerId, Step> {
    let ordered = orders.iter().filter_map(|(id, order)| Some((id.clone(), step(order, actual.get(id))?)));
    let strays = actual.iter().filter(|(id, stray)| {
        let runs = stray.state == ContainerState::Running;
        runs && stray.node_lost == NodeLost::Restart && !orders.contains_key(*id)
    });
    ordered.chain(strays.map(|(id, _)| (id.clone(), Step::Stop))).collect()
}

fn step(order: &Order, actual: Option<&Actual>) -> Option<Step> {
    let Some(actual) = actual else {
        return (order.what == What::Run && !order.existed).then_some(Step::Launch);
    };
    if order.fence < actual.fence {
        return None;
    }
    match (&order.what, actual.state) {
        (What::Remove, _) => Some(Step::Remove),
        (What::Stop | What::Save(_), ContainerState::Running) => Some(Step::Stop),
        (What::Save(image), _) if actual.saved.as_ref() != Some(image) => Some(Step::Save(image.clone())),
        (What::Run, ContainerState::Stopped) => Some(Step::Start),
        // By policy it stays as it is, until somebody decides anew.
        (What::Run, ContainerState::Ended) if actual.fence < order.fence => Some(Step::Start),
        _ => None,
    }
}

/// What a worker has from its lease: the right to run what could run elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// Of which coming.
    pub epoch: Epoch,
    /// Until when, by [`over_at`](super::over_at).
    pub over_at: Moment,
}

/// Whether a worker may take `step` at `now` that was begun in `begun`: without a lease nothing begins to run.
///
/// What was begun before the node came anew is not done under the new lease: its order may be over.
#[must_use]
pub fn may_run(step: &Step, begun: Epoch, permit: &Permit, now: Moment) -> bool {
    !matches!(step, Step::Launch | Step::Start) || (begun == permit.epoch && now < permit.over_at)
}

/// What the worker reports of a container: `None` if it has nothing to say, since it knows of a later decision than the order's.
#[must_use]
pub fn reported_state(order: &Order, actual: Option<&Actual>) -> Option<ContainerState> {
    match actual {
        Some(actual) if order.fence < actual.fence => None,
        Some(actual) => Some(actual.state),
        None if order.existed && order.what != What::Remove => Some(ContainerState::Missing),
        None => Some(ContainerState::Absent),
    }
}
