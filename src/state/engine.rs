//! What the store wants of an engine: a few operations on bytes under ordered keys, with etcd's meaning
//! (<https://etcd.io/docs/v3.4/learning/api_guarantees/>). Everything else is built on them, once for all engines.

use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::change::Batch;
use super::key::{Key, Scope};
use super::lease::LeaseId;
use super::page::{Page, Query};
use super::revision::Revision;
use super::transaction::Transaction;
use crate::error::{Error, Result};

pub(super) type Reply<'a, T> = BoxFuture<'a, Result<T>>;

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it was done, durably. The store's revision after it.
    Committed(Revision),
    /// Nothing was done: these keys' checks did not hold.
    Refused(Vec<Key>),
}

/// Why a feed ends.
#[derive(Debug)]
pub(super) enum End {
    /// What comes next was compacted away.
    Compacted,
    /// The engine cannot be reached, or broke the feed off. Another one may go on from the next revision.
    Broken(Error),
}

/// Where data is kept.
///
/// # Errors of all operations
/// [`Error::Unavailable`] if it was certainly not done, [`Error::OutcomeUnknown`] if a change may have been done or may yet be;
/// no operation waits longer than the engine's time-out.
pub(super) trait Engine: fmt::Debug + Send + Sync {
    /// Reads a page. [`Error::Conflict`] if `at` was compacted away, [`Error::Invalid`] if it is still to come.
    fn read(&self, query: Query) -> Reply<'_, Page>;
    /// Carries a valid transaction out. [`Error::NotFound`] if it names a lease that is gone.
    fn commit<'a>(&'a self, transaction: &'a Transaction) -> Reply<'a, Outcome>;
    /// All changes of `scope` from this revision on, also of leases that ended.
    fn watch(&self, scope: Scope, from: Revision) -> Reply<'_, Box<dyn Feed>>;
    /// A new lease, of at least so many seconds. What it is given is told.
    fn grant(&self, seconds: u64) -> Reply<'_, (LeaseId, Duration)>;
    /// Gives a lease its whole time again, and tells it. [`Error::NotFound`] if it is gone.
    fn keep_alive(&self, lease: LeaseId) -> Reply<'_, Duration>;
    /// Ends a lease, with its keys. It may be gone already.
    fn revoke(&self, lease: LeaseId) -> Reply<'_, ()>;
    /// Forgets what was before `revision`. [`Error::Invalid`] if it is still to come.
    fn compact(&self, revision: Revision) -> Reply<'_, ()>;
}

/// Changes as they are committed: each revision once, whole, in order, without a gap.
pub(super) trait Feed: Send {
    /// Waits for the next revision that changed something. Dropping the future loses nothing.
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, End>>;
}
