//! The thread that writes. What waits for it goes to the disk in one commit (group commit); nobody is answered before.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use redb::Error as Trouble;

use super::super::change::Batch;
use super::super::lease::{self, LeaseId};
use super::super::revision::Revision;
use super::deadlines::Deadlines;
use super::failure::Failure;
use super::ledger::{Ledger, Verdict};
use super::request::{Fate, Order, Request};
use super::shared::Shared;
use crate::error::Error;

/// The most orders of one commit.
const GROUP_MAX: usize = 256;
/// No order is added to a commit that has so many bytes to write already.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// How many revisions are forgotten at least at once: fewer would touch the far end of the log in each commit.
const FORGOTTEN_MIN: u64 = 256;
/// Leases are looked at this often at least: waiting stands still while the machine is suspended, their time does not.
const LOOK: Duration = Duration::from_secs(1);

pub(super) struct Owner {
    shared: Arc<Shared>,
    waiting: Receiver<Request>,
    deadlines: Deadlines,
    history_max: u64,
    /// Whether the last commit failed: ends of leases are not tried again at once.
    failed: bool,
}

impl Owner {
    pub(super) fn new(
        shared: Arc<Shared>,
        waiting: Receiver<Request>,
        leases: Vec<(u64, Duration)>,
        history_max: u64,
    ) -> Self {
        let (mut deadlines, now) = (Deadlines::default(), lease::now());
        for (id, time_to_live) in leases {
            deadlines.insert(id, time_to_live, now);
        }
        Self { shared, waiting, deadlines, history_max, failed: false }
    }

    /// Runs until nobody can order anything any more.
    pub(super) fn run(mut self) {
        while let Some(group) = self.gather() {
            let writes = self.keep_leases(group);
            let due = self.deadlines.due(lease::now());
            if !writes.is_empty() || !due.is_empty() {
                self.commit(writes, &due);
            }
        }
        self.shared.close();
    }

    /// The orders that wait. `None` if there will be no more; none if a lease may have ended meanwhile.
    fn gather(&self) -> Option<Vec<Request>> {
        let first = match self.deadlines.next(lease::now()) {
            None => self.waiting.recv().ok()?,
            Some(left) => match self.waiting.recv_timeout(if self.failed { LOOK } else { left.min(LOOK) }) {
                Ok(request) => request,
                Err(RecvTimeoutError::Timeout) => return Some(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        let mut bytes = first.size();
        let mut group = vec![first];
        while group.len() < GROUP_MAX && bytes < GROUP_BYTES_MAX {
            let Ok(request) = self.waiting.try_recv() else { break };
            bytes += request.size();
            group.push(request);
        }
        Some(group)
    }

    /// Answers what needs no disk: leases' time is in memory. Returns the rest.
    fn keep_leases(&mut self, group: Vec<Request>) -> Vec<Order> {
        let now = lease::now();
        let mut rest = Vec::new();
        for Request { order, _place } in group {
            match order {
                Order::KeepAlive(id, answer) => {
                    let kept = self.deadlines.renew(id.0, now);
                    let _ = answer.send(kept.ok_or_else(|| lease_gone(id)));
                }
                order => rest.push(order),
            }
        }
        rest
    }

    fn commit(&mut self, orders: Vec<Order>, due: &[u64]) {
        let written = self.write(&orders, due);
        self.failed = written.is_err();
        match written {
            Ok(Written { fates, batches, compacted }) => {
                self.shared.tail().compact(compacted);
                self.shared.tell(batches);
                let now = lease::now();
                due.iter().for_each(|id| self.deadlines.remove(*id));
                for (order, fate) in orders.into_iter().zip(fates) {
                    match (&order, &fate) {
                        (_, Fate::Granted(id, time_to_live)) => {
                            self.deadlines.insert(id.0, *time_to_live, now);
                        }
                        (Order::Revoke(id, _), _) => self.deadlines.remove(id.0),
                        _ => {}
                    }
                    order.answer(fate);
                }
            }
            Err(failure) => {
                let path = self.shared.path.display();
                tracing::error!(%path, error = %failure.trouble, "the store was not written");
                for order in orders {
                    let error = failure.told(&self.shared.path, order.subject());
                    order.fail(error);
                }
            }
        }
    }

    /// Does all orders in one transaction of redb, durably.
    fn write(&self, orders: &[Order], due: &[u64]) -> Result<Written, Failure> {
        let transaction = self.shared.begin_write().map_err(Failure::before)?;
        let mut ledger = Ledger::open(&transaction).map_err(Failure::before)?;
        let first = ledger.revision();
        let mut fates = Vec::new();
        for order in orders {
            fates.push(carry_out(&mut ledger, order).map_err(Failure::before)?);
        }
        for lease in due {
            ledger.end(*lease).map_err(Failure::before)?;
        }
        let added = ledger.revision() - first;
        let compacted = self.forget(&mut ledger, added).map_err(Failure::before)?;
        if ledger.changed() {
            let batches = ledger.into_batches();
            transaction.commit().map_err(|error| Failure::within(error.into()))?;
            Ok(Written { fates, batches, compacted })
        } else {
            Ok(Written { fates, batches: Vec::new(), compacted })
        }
    }

    /// Forgets a part of what is older than the history is to be: so much that it never grows, and never so much that a commit waits
    /// for it. From which revision on there is history.
    fn forget(&self, ledger: &mut Ledger<'_>, added: u64) -> Result<u64, Trouble> {
        let compacted = ledger.compacted()?;
        let due = ledger.revision().saturating_sub(self.history_max).saturating_sub(compacted);
        if due < FORGOTTEN_MIN {
            return Ok(compacted);
        }
        let revision = compacted + due.min(FORGOTTEN_MIN.max(2 * added));
        ledger.compact(revision)?;
        Ok(revision)
    }
}

/// What a commit did.
struct Written {
    /// Of each order.
    fates: Vec<Fate>,
    batches: Vec<Batch>,
    compacted: u64,
}

fn carry_out(ledger: &mut Ledger<'_>, order: &Order) -> Result<Fate, Trouble> {
    Ok(match order {
        Order::Commit(transaction, _) => match ledger.carry_out(transaction)? {
            Verdict::Decided(outcome) => Fate::Decided(outcome),
            Verdict::LeaseGone(id) => Fate::Refused(lease_gone(id)),
        },
        Order::Grant(time_to_live, _) => {
            let seconds = time_to_live.as_secs() + u64::from(time_to_live.subsec_nanos() > 0);
            Fate::Granted(LeaseId(ledger.grant(seconds)?), Duration::from_secs(seconds))
        }
        // Answered already.
        Order::KeepAlive(..) => Fate::Done,
        Order::Revoke(id, _) => {
            ledger.end(id.0)?;
            Fate::Done
        }
        Order::Compact(Revision(revision), _) => {
            let now = ledger.revision();
            if *revision > now {
                let rule = format!("is still to come: the store is at revision {now}");
                return Ok(Fate::Refused(Error::invalid("revision", revision.to_string(), rule)));
            }
            if *revision > ledger.compacted()? {
                ledger.compact(*revision)?;
            }
            Fate::Done
        }
    })
}

fn lease_gone(id: LeaseId) -> Error {
    Error::NotFound { what: format!("lease {id}, which may have ended,") }
}
