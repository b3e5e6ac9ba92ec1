//! Leases: keys that go by themselves when whoever made them is gone, as in etcd
//! (<https://etcd.io/docs/v3.4/learning/api/#lease-api>). The time is `CLOCK_BOOTTIME`'s, which a suspended machine does not stop.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::engine::Engine;
use super::store::ClusterStore;
use crate::error::{Error, Result};

/// The shortest lease: an etcd with its usual election time-out grants no shorter one.
const TIME_MIN: Duration = Duration::from_secs(2);
/// The longest lease.
const TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a holder that gets no answer asks again.
const RETRY: Duration = Duration::from_millis(100);

/// The identity of a lease: a number that may be written in a record, and is as good in any other process that has the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A lease that this process holds: a task of the runtime asks for its whole time again and again, as long as a clone lives.
///
/// Dropping the last one ends that, and the lease ends by itself within its time; [`end`](Self::end) ends it at once.
///
/// # When it is lost
///
/// The time is counted from before each request to keep it, less an eighth for clocks that do not run alike. A holder whose requests
/// are not answered, or who was stopped or suspended, so knows that the lease is lost **before** the store can give what hangs on it to
/// another. Once lost it stays lost.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: ClusterStore,
    id: LeaseId,
    time_to_live: Duration,
    /// Until when it is held. `None` once it is lost or ended, and for good.
    deadline: watch::Sender<Option<Duration>>,
    keeper: AbortHandle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// What is told of a lease that is not there.
pub(super) fn gone(id: LeaseId) -> Error {
    Error::NotFound { what: format!("lease {id}, which may have ended,") }
}

/// The time since boot.
pub(super) fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Until when a lease that was asked for at `asked` is held for certain.
fn deadline(asked: Duration, time_to_live: Duration) -> Duration {
    asked + time_to_live - time_to_live / 8
}

impl ClusterStore {
    /// A lease that this process keeps until it is dropped, lost or ended. The time is as of [`grant_lease`](Self::grant_lease).
    ///
    /// Call it within a tokio runtime: a task of it keeps the lease.
    ///
    /// # Errors
    /// As [`grant_lease`](Self::grant_lease).
    pub async fn lease(&self, time_to_live: Duration) -> Result<Lease> {
        let asked = now();
        let (id, time_to_live) = self.grant_lease(time_to_live).await?;
        let deadline = watch::Sender::new(Some(deadline(asked, time_to_live)));
        // The task holds the engine for single requests only: a store is closed with the last handle to it.
        let keeper = keep(Arc::downgrade(&self.engine), id, time_to_live, deadline.clone());
        let keeper = tokio::spawn(keeper).abort_handle();
        Ok(Lease(Arc::new(Inner { store: self.clone(), id, time_to_live, deadline, keeper })))
    }

    /// A lease that nobody keeps yet, for another who only shows now and then that it is there: whoever hears of it calls
    /// [`keep_lease`](Self::keep_lease). For what this process holds itself there is [`lease`](Self::lease).
    ///
    /// `time_to_live` is 2 seconds to 1 day, rounded up to whole seconds. The time that it is given is returned with it: at least what was
    /// asked for. It counts from a moment during the call. With its end its keys are deleted, under one revision
    /// ([`Transaction::put_leased`](super::Transaction::put_leased)).
    ///
    /// The store ends no lease early, and may end it late: etcd gives all of them their whole time again when it has a new leader, the
    /// embedded engine when the file is opened.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another time, [`Error::Unavailable`]. After [`Error::OutcomeUnknown`] there may be a lease that nobody knows
    /// of: it has no keys, and ends by itself.
    pub async fn grant_lease(&self, time_to_live: Duration) -> Result<(LeaseId, Duration)> {
        if !(TIME_MIN..=TIME_MAX).contains(&time_to_live) {
            let rule = "must be 2 seconds to 1 day";
            return Err(Error::invalid("time to live", format!("{time_to_live:?}"), rule));
        }
        let seconds = time_to_live.as_secs() + u64::from(time_to_live.subsec_nanos() > 0);
        self.engine.grant(seconds).await
    }

    /// Gives a lease its whole time again, and tells it, in whole seconds. Anybody may, by any handle to the store, whoever granted it.
    ///
    /// The time counts from a moment during the call: who is to act before it is over counts from before the call, and not to its very
    /// end, as [`Lease`] does.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the lease is gone, and its keys with it. It does not come back: grant another one.
    /// - [`Error::Unavailable`] if it has no more time than it had.
    /// - [`Error::OutcomeUnknown`] if it may have its whole time again, or may yet get it. Keeping it once more is harmless.
    pub async fn keep_lease(&self, id: LeaseId) -> Result<Duration> {
        self.engine.keep_alive(id).await
    }

    /// Ends a lease, and deletes its keys with it, under one revision. It may be gone already.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and [`Error::OutcomeUnknown`]: if nobody keeps it, it ends by itself within its time.
    pub async fn end_lease(&self, id: LeaseId) -> Result<()> {
        self.engine.revoke(id).await
    }
}

impl Lease {
    /// Its identity, for [`Transaction::put_leased`](super::Transaction::put_leased).
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.0.id
    }

    /// The time that it was given, in whole seconds: at least what was asked for.
    #[must_use]
    pub fn time_to_live(&self) -> Duration {
        self.0.time_to_live
    }

    /// How long it is held at least, if nobody asks for more. Zero once it is lost.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.0.deadline.borrow().map_or(Duration::ZERO, |deadline| deadline.saturating_sub(now()))
    }

    /// Whether it is held for certain at this moment.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Waits until it is lost.
    pub async fn lost(&self) {
        let mut deadline = self.0.deadline.subscribe();
        while self.is_held() {
            // Timers of the runtime stand still while the machine is suspended: look again at least once in a second.
            let wait = self.remaining().min(Duration::from_secs(1));
            let _ = tokio::time::timeout(wait, deadline.wait_for(Option::is_none)).await;
        }
    }

    /// Ends it, and deletes its keys with it. It may be lost already. Its clones are lost with it.
    ///
    /// # Errors
    /// [`Error::Unavailable`] and [`Error::OutcomeUnknown`]: it ends by itself within its time.
    pub async fn end(self) -> Result<()> {
        self.0.keeper.abort();
        self.0.deadline.send_replace(None);
        self.0.store.end_lease(self.0.id).await
    }
}

/// Keeps a lease until it is lost, and tells until when it is held.
async fn keep(
    engine: Weak<dyn Engine>,
    id: LeaseId,
    time_to_live: Duration,
    told: watch::Sender<Option<Duration>>,
) {
    let mut pause = time_to_live / 3;
    loop {
        tokio::time::sleep(pause).await;
        let Some(until) = *told.borrow() else { return };
        let Some(engine) = engine.upgrade() else { break };
        let store = ClusterStore { engine };
        let asked = now();
        let Ok(kept) = tokio::time::timeout(until.saturating_sub(asked), store.keep_lease(id)).await else {
            break;
        };
        // An answer that comes too late, or behind a suspended machine, does not bring back what is lost.
        if now() >= until {
            break;
        }
        match kept {
            Ok(given) => {
                pause = given / 3;
                let later = deadline(asked, given);
                // Who has ended it meanwhile has the last word.
                told.send_if_modified(|until| until.as_mut().map(|until| *until = later).is_some());
            }
            Err(Error::NotFound { .. }) => break,
            Err(error) => {
                tracing::debug!(lease = %id, %error, "a lease was not kept, trying again");
                pause = RETRY;
            }
        }
    }
    tracing::warn!(lease = %id, "a lease is lost");
    told.send_replace(None);
}
