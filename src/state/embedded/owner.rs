//! The thread that writes. What waits for it goes to the disk in one commit (group commit); nobody is answered before.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError, Error as Trouble, WriteTransaction};

use super::super::change::Batch;
use super::super::lease::{self, LeaseId};
use super::super::revision::Revision;
use super::deadlines::Deadlines;
use super::failure::Failure;
use super::ledger::{Ledger, Verdict};
use super::open::{Opened, State};
use super::request::{Fate, Order, Request};
use super::shared::Shared;
use crate::error::Error;

/// The most orders of one commit.
const GROUP_MAX: usize = 256;
/// How long a commit waits for as many orders as the one before it had.
const TOGETHER: Duration = Duration::from_micros(100);
/// No order is added to a commit that has so many bytes to write already.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// How many revisions are forgotten at least at once: fewer would touch the far end of the log in each commit.
const FORGOTTEN_MIN: u64 = 256;
/// Leases are looked at this often at least: waiting stands still while the machine is suspended, their time does not.
const LOOK: Duration = Duration::from_secs(1);

/// Opens the file, again and again.
pub(super) type Source = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

/// How much of what was is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct History {
    pub(super) revisions: u64,
    /// Of keys and values.
    pub(super) bytes: u64,
}

pub(super) struct Owner {
    pub(super) shared: Arc<Shared>,
    source: Source,
    waiting: Receiver<Request>,
    deadlines: Deadlines,
    history: History,
    /// How many orders the last commit had.
    last_group: usize,
    /// Whether a write failed: redb refuses more before the file is opened again.
    broken: bool,
}

impl Owner {
    pub(super) fn new(opened: Opened, waiting: Receiver<Request>, history: History) -> Self {
        let Opened { shared, leases, source } = opened;
        let mut deadlines = Deadlines::default();
        deadlines.reconcile(&leases, lease::now());
        Self { shared, source, waiting, deadlines, history, last_group: 0, broken: false }
    }

    /// Runs until nobody can order anything any more.
    pub(super) fn run(mut self) {
        while let Some(group) = self.gather() {
            let writes = self.keep_leases(group);
            let due = self.deadlines.due(lease::now());
            if self.broken
                && let Err(trouble) = self.reopen()
            {
                let failure = Failure { trouble, is_unknown: false };
                writes.into_iter().for_each(|order| self.tell_failure(order, &failure));
                continue;
            }
            if !writes.is_empty() || !due.is_empty() {
                self.commit(writes, &due);
            }
        }
    }

    /// The orders that wait. `None` if there will be no more; none if a lease may have ended meanwhile.
    fn gather(&mut self) -> Option<Vec<Request>> {
        let wait = if self.broken { Some(LOOK) } else { self.deadlines.next(lease::now()) };
        let first = match wait {
            None => self.waiting.recv().ok()?,
            Some(wait) => match self.waiting.recv_timeout(wait.min(LOOK)) {
                Ok(request) => request,
                Err(RecvTimeoutError::Timeout) => return Some(Vec::new()),
                Err(RecvTimeoutError::Disconnected) => return None,
            },
        };
        let mut bytes = first.order.size();
        let mut group = vec![first];
        // Those who were answered together come again together, a little apart.
        let together = Instant::now() + TOGETHER;
        while group.len() < GROUP_MAX && bytes < GROUP_BYTES_MAX {
            let rest = together.saturating_duration_since(Instant::now());
            let next = if group.len() < self.last_group && !rest.is_zero() {
                self.waiting.recv_timeout(rest).ok()
            } else {
                self.waiting.try_recv().ok()
            };
            let Some(request) = next else { break };
            bytes += request.order.size();
            group.push(request);
        }
        self.last_group = group.len();
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
                    let _ = answer.send(kept.ok_or_else(|| lease::gone(id)));
                }
                order => rest.push(order),
            }
        }
        rest
    }

    fn commit(&mut self, orders: Vec<Order>, due: &[u64]) {
        match self.write(&orders, due) {
            Ok(Written { fates, batches, compacted }) => {
                self.shared.tail().compact(compacted);
                self.shared.tell(batches);
                due.iter().for_each(|id| self.deadlines.remove(*id));
                for (order, fate) in orders.into_iter().zip(fates) {
                    match (&order, &fate) {
                        (_, Fate::Granted(id, time_to_live)) => {
                            self.deadlines.insert(id.0, *time_to_live, lease::now());
                        }
                        (Order::Revoke(id, _), _) => self.deadlines.remove(id.0),
                        _ => {}
                    }
                    order.answer(fate);
                }
            }
            Err(failure) => orders.into_iter().for_each(|order| self.tell_failure(order, &failure)),
        }
    }

    fn tell_failure(&self, order: Order, failure: &Failure) {
        let error = failure.told(&self.shared.path, order.subject(), order.size());
        order.fail(error);
    }

    /// Does all orders in one transaction of redb, durably.
    pub(super) fn write(&mut self, orders: &[Order], due: &[u64]) -> Result<Written, Failure> {
        let (trouble, written) = match self.try_write(orders, due) {
            Ok((written, Ok(()))) => return Ok(written),
            Ok((written, Err(trouble))) => (trouble, Some(written)),
            Err(trouble) => (trouble, None),
        };
        let path = self.shared.path.display();
        tracing::error!(%path, error = %trouble, "writing the store failed: it is opened again");
        self.broken = true;
        let reopened = self.reopen();
        let Some(written) = written else { return Err(Failure { trouble, is_unknown: false }) };
        // All of a commit is there or nothing, and the last revision tells which. One that is there was written, but the disk has
        // not said that it keeps it: that is no more than unknown.
        let is_gone =
            matches!((reopened, written.batches.last()), (Ok(now), Some(last)) if now < last.revision.0);
        Err(Failure { trouble, is_unknown: !is_gone })
    }

    /// The inner result is the commit's: it may have been done all the same. An outer failure did nothing.
    fn try_write(&self, orders: &[Order], due: &[u64]) -> Result<(Written, Result<(), Trouble>), Trouble> {
        let transaction = self.shared.begin_write()?;
        let (written, is_changed) = self.apply(&transaction, orders, due)?;
        let committed = if is_changed { transaction.commit().map_err(Trouble::from) } else { Ok(()) };
        Ok((written, committed))
    }

    /// With it comes whether there is anything to commit.
    fn apply(
        &self,
        transaction: &WriteTransaction,
        orders: &[Order],
        due: &[u64],
    ) -> Result<(Written, bool), Trouble> {
        let mut ledger = Ledger::open(transaction)?;
        let first = ledger.revision();
        let fates = orders.iter().map(|order| carry_out(&mut ledger, order)).collect::<Result<_, _>>()?;
        due.iter().try_for_each(|lease| ledger.end(*lease))?;
        let added = ledger.revision() - first;
        let compacted = self.forget(&mut ledger, added)?;
        let is_changed = ledger.is_changed();
        Ok((Written { fates, batches: ledger.into_batches(), compacted }, is_changed))
    }

    #[cfg(test)]
    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Opens the file again, and takes what it holds for what is. The store's revision.
    pub(super) fn reopen(&mut self) -> Result<u64, Trouble> {
        self.shared.close();
        let database = (self.source)()?;
        let State { revision, leases } = State::of(&database)?;
        self.shared.go_on(database, revision);
        self.deadlines.reconcile(&leases, lease::now());
        self.broken = false;
        Ok(revision)
    }

    /// Forgets a part of what is older than the history is to be: so much that it never grows, and never so much that a commit waits
    /// for it. From which revision on there is history.
    fn forget(&self, ledger: &mut Ledger<'_>, added: u64) -> Result<u64, Trouble> {
        let compacted = ledger.compacted()?;
        let most = FORGOTTEN_MIN.max(2 * added);
        let mut revision = compacted;
        let due = ledger.revision().saturating_sub(self.history.revisions).saturating_sub(compacted);
        if due >= FORGOTTEN_MIN {
            revision = compacted + due.min(most);
        }
        let bytes = self.history.bytes;
        if ledger.log_bytes()? > bytes {
            // Some more than that, so that it is not touched in each commit.
            let last = ledger.revision().min(compacted + most.max(FORGOTTEN_MIN * 4));
            revision = revision.max(ledger.before_bytes(bytes - bytes / 16, last)?);
        }
        if revision > compacted {
            ledger.compact(revision)?;
        }
        Ok(revision)
    }
}

/// Whatever ends the thread, the file is closed before its lock is given back.
impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// What a commit did.
pub(super) struct Written {
    /// Of each order.
    pub(super) fates: Vec<Fate>,
    pub(super) batches: Vec<Batch>,
    compacted: u64,
}

fn carry_out(ledger: &mut Ledger<'_>, order: &Order) -> Result<Fate, Trouble> {
    Ok(match order {
        Order::Commit(transaction, _) => match ledger.carry_out(transaction)? {
            Verdict::Decided(outcome) => Fate::Decided(outcome),
            Verdict::LeaseGone(id) => Fate::Refused(lease::gone(id)),
        },
        Order::Grant(seconds, _) => {
            Fate::Granted(LeaseId(ledger.grant(*seconds)?), Duration::from_secs(*seconds))
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
