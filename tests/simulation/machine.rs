//! A simulated machine: its containers, its worker and its fencer, and a clock that does not run like others.

use std::collections::BTreeMap;
use std::time::Duration;

use docklet::cluster::decide::{Actual, Moment, Order, Permit, Step, reported_state, steps};
use docklet::cluster::records::{
    ContainerId, ContainerState, ContainerStatus, Epoch, NodeId, NodeLost, Report,
};

pub(crate) struct Machine {
    pub(crate) id: NodeId,
    /// What its clock shows of a thousand milliseconds that pass.
    pub(crate) rate: u32,
    /// Whether masters are reached.
    pub(crate) connected: bool,
    pub(crate) containers: BTreeMap<ContainerId, Actual>,
    /// What allows to run here what could run elsewhere. It outlives the worker, not the machine.
    pub(crate) permit: Permit,
    /// `None`: its process does not run.
    pub(crate) worker: Option<Worker>,
    /// Whether it is gone for good.
    pub(crate) dead: bool,
    /// Counts the machine's starts: what was under way before is not carried on.
    pub(crate) boots: u64,
}

/// A step that is being carried out, with what it was begun for.
#[derive(Clone)]
pub(crate) struct Begun {
    pub(crate) step: Step,
    pub(crate) order: Option<Order>,
    pub(crate) epoch: Epoch,
    pub(crate) node_lost: NodeLost,
}

/// No right at all.
pub(crate) const NONE: Permit = Permit { epoch: Epoch(0), over_at: Moment(Duration::ZERO) };

#[derive(Default)]
pub(crate) struct Worker {
    /// Counts the processes, so that no answer to an earlier one is taken.
    pub(crate) process: u64,
    pub(crate) stopped: bool,
    pub(crate) epoch: Option<Epoch>,
    pub(crate) orders: BTreeMap<ContainerId, Order>,
    /// The store's revision that the orders are of.
    pub(crate) revision: u64,
    /// What is being carried out.
    pub(crate) busy: BTreeMap<ContainerId, Begun>,
    pub(crate) reports: u64,
}

impl Machine {
    pub(crate) fn new(id: NodeId, rate: u32) -> Self {
        let (containers, permit) = (BTreeMap::new(), NONE);
        Self {
            id,
            rate,
            connected: true,
            containers,
            permit,
            worker: Some(Worker::default()),
            dead: false,
            boots: 0,
        }
    }

    /// What its clock shows at `now`.
    pub(crate) fn clock(&self, now: Duration) -> Moment {
        Moment(now * self.rate / 1000)
    }

    /// When its clock will show `moment`.
    pub(crate) fn when(&self, moment: Moment) -> Duration {
        moment.0 * 1000 / self.rate + Duration::from_millis(1)
    }

    /// Its worker, if it is there and not stopped.
    pub(crate) fn active(&mut self) -> Option<&mut Worker> {
        self.worker.as_mut().filter(|worker| !worker.stopped)
    }

    /// Kills what may run elsewhere, if the lease is over. Those that ran.
    pub(crate) fn fence(&mut self, now: Duration) {
        if self.clock(now) < self.permit.over_at {
            return;
        }
        for container in self.containers.values_mut() {
            if container.node_lost == NodeLost::Restart && container.state == ContainerState::Running {
                container.state = ContainerState::Stopped;
            }
        }
    }

    /// What the worker begins now; `policy` says what becomes of a container when its node is lost.
    pub(crate) fn begin(
        &mut self,
        policy: impl Fn(&ContainerId) -> NodeLost,
    ) -> BTreeMap<ContainerId, Begun> {
        let containers = &self.containers;
        let Some(worker) = self.worker.as_mut().filter(|worker| !worker.stopped) else {
            return BTreeMap::new();
        };
        let Some(epoch) = worker.epoch else { return BTreeMap::new() };
        let mut steps = steps(&worker.orders, containers);
        steps.retain(|id, _| !worker.busy.contains_key(id));
        let begun = steps.into_iter().map(|(id, step)| {
            let order = worker.orders.get(&id).cloned();
            let node_lost = policy(&id);
            (id, Begun { step, order, epoch, node_lost })
        });
        let begun: BTreeMap<_, _> = begun.collect();
        worker.busy.extend(begun.clone());
        begun
    }

    /// A step that was begun has its effect on what there is by now.
    pub(crate) fn carry_out(&mut self, id: &ContainerId, begun: &Begun) {
        let Begun { step, node_lost, .. } = begun;
        let fence = begun.order.as_ref().map(|order| order.fence);
        match step {
            Step::Launch => {
                let fence = fence.expect("it was ordered");
                let state = ContainerState::Running;
                let made = Actual { state, fence, node_lost: *node_lost, saved: None };
                self.containers.insert(id.clone(), made);
            }
            Step::Remove => drop(self.containers.remove(id)),
            Step::Start | Step::Stop | Step::Save(_) => {
                let Some(container) = self.containers.get_mut(id) else { return };
                container.fence = fence.map_or(container.fence, |fence| fence.max(container.fence));
                match step {
                    Step::Start => {
                        container.state = ContainerState::Running;
                        container.saved = None;
                    }
                    Step::Save(image) => container.saved = Some(image.clone()),
                    _ => container.state = ContainerState::Stopped,
                }
            }
        }
    }

    /// What the worker says of all its containers.
    pub(crate) fn statuses(&mut self) -> Vec<(ContainerId, ContainerStatus)> {
        let containers = &self.containers;
        let Some(worker) = self.worker.as_mut().filter(|worker| !worker.stopped) else { return Vec::new() };
        let Some(epoch) = worker.epoch else { return Vec::new() };
        worker.reports += 1;
        let report = Report { epoch, number: worker.reports };
        let idle = worker.orders.iter().filter(|(id, _)| !worker.busy.contains_key(*id));
        let said = idle.filter_map(|(id, order)| {
            let actual = containers.get(id);
            let state = reported_state(order, actual)?;
            let saved = actual.and_then(|actual| actual.saved.clone());
            Some((id.clone(), ContainerStatus { report, fence: order.fence, state, saved, reason: None }))
        });
        said.collect()
    }
}
