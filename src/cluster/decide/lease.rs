//! Until when a node may run what could run elsewhere, and from when on that may be started elsewhere.

use std::collections::BTreeMap;
use std::ops::{Add, Sub};
use std::time::Duration;

use super::View;
use crate::cluster::records::{Epoch, NodeId, Timing};

/// A point of time on one machine's clock: what has passed since that clock began. It means nothing on another machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(time))
    }
}

/// When a node's lease is over by its own clock, if it was kept by a request that was sent at `sent`, and holds for `lease` by the
/// answer.
#[must_use]
pub fn over_at(timing: &Timing, sent: Moment, lease: Duration) -> Moment {
    sent + lease.saturating_sub(timing.margin)
}

/// Since when the leading master sees each node absent. It begins with nothing when a master begins to lead.
#[derive(Debug, Clone, Default)]
pub struct Absences(BTreeMap<NodeId, (Epoch, Moment)>);

impl Absences {
    /// Takes note of who is absent in `view`, at `now`.
    pub fn note(&mut self, view: &View, now: Moment) {
        self.0.retain(|node, (epoch, _)| {
            !view.presences.contains_key(node) && view.epochs.get(node) == Some(epoch)
        });
        for (node, epoch) in &view.epochs {
            if !view.presences.contains_key(node) {
                self.0.entry(node.clone()).or_insert((*epoch, now));
            }
        }
    }

    /// The epoch after which `node` went, if it has been seen absent for so long that nothing of it runs that could run elsewhere.
    #[must_use]
    pub fn fenced(&self, node: &NodeId, now: Moment, timing: &Timing) -> Option<Epoch> {
        let (epoch, since) = self.0.get(node)?;
        (now >= *since + timing.fence).then_some(*epoch)
    }

    /// When the next node will have been absent for long enough.
    #[must_use]
    pub fn next(&self, now: Moment, timing: &Timing) -> Option<Moment> {
        self.0.values().map(|(_, since)| *since + timing.fence).filter(|at| *at > now).min()
    }
}
