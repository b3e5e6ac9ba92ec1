//! The cluster's decisions, as pure functions over its [records](super::records).
//!
//! # Who decides what
//!
//! One master leads. It alone decides what is to be where: users' requests ([`admission`]) and what follows from what there is ([`due`]).
//! Both give [`Decision`]s over a [`View`] of all records; each is one transaction, which holds only if the master still leads, and if the
//! [`View`] was right about what the decision hangs on. A worker is told the [`orders`] for its node, and goes by [`steps`].
//!
//! # Why nothing runs twice
//!
//! A container is at one node by its record. It gets another node only if the old one has confirmed that it is gone there or stopped
//! for good, if an administrator has removed the old node, or if the node is lost and the container may be restarted ([`NodeLost::Restart`](super::records::NodeLost::Restart)).
//!
//! A node is lost when its lease has been over for [`Timing::fence`](super::records::Timing::fence), as the leading master saw it. The worker counts its lease from before it asked for it,
//! and less [`Timing::margin`](super::records::Timing::margin): on its node each container that may be restarted elsewhere is dead by then, killed by the worker or by the
//! fencer beside it. That the node has not come back meanwhile is a check of the transaction: its [`Epoch`](super::records::Epoch) is the same, and there is
//! no [`Presence`](super::records::Presence).
//!
//! A worker that comes anew gets another epoch. What it had begun to start before is not started under the new lease ([`may_run`]): the
//! container may have got another node between the two.
//!
//! Each order has the fence of the decision behind it. It grows with each decision on where a container is to be, and a node carries out
//! none that is older than what it knows. What is confirmed is confirmed for a fence, and reports are numbered within an epoch: one that
//! comes late confirms nothing.

pub mod admission;
mod due;
mod lease;
mod network;
mod orders;
mod placement;
mod steps;
#[cfg(test)]
mod tests;
mod usage;
mod view;

pub use due::due;
pub use lease::{Absences, Moment, over_at};
pub use orders::{Order, What, orders};
pub use placement::{Need, place};
pub use steps::{Actual, Permit, Step, may_run, reported_state, steps};
pub use usage::Usage;
pub use view::{Decision, View, Write};
