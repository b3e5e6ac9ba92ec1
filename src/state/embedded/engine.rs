//! The engine's front: questions are answered from redb's snapshots, orders go to the thread that writes.

use std::fmt;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::FutureExt;
use redb::Error as Trouble;
use tokio::sync::{Semaphore, oneshot};

use super::super::engine::{Engine, Feed, Outcome, Reply};
use super::super::key::Scope;
use super::super::lease::LeaseId;
use super::super::page::{Page, Query, compacted, still_to_come};
use super::super::revision::Revision;
use super::super::store::ClusterStore;
use super::super::transaction::Transaction;
use super::feed::LogFeed;
use super::owner::{History, Owner};
use super::page::{self, Found};
use super::request::{Answer, Order, Request};
use super::shared::Shared;
use super::{EmbeddedSpec, failure, open};
use crate::error::{Error, Result};

/// How many orders may wait for the thread that writes.
const WAITING_MAX: usize = 1_024;
/// How long an order may take: a disk that answers later is broken.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Up to how many entries are read at once on the caller's thread: a few microseconds, if they are in memory.
const READ_AT_ONCE_MAX: usize = 4;

pub(super) struct Embedded {
    shared: Arc<Shared>,
    places: Arc<Semaphore>,
    /// `None` while it is dropped.
    orders: Option<mpsc::Sender<Request>>,
    owner: Option<JoinHandle<()>>,
}

impl ClusterStore {
    /// The store of one machine, in a file that this process has until the last clone, watch and lease of it is dropped.
    ///
    /// A lease that was there before has its whole time again. Call it within a tokio runtime, as everything else of the store.
    ///
    /// # Errors
    /// - [`Error::NotFound`] if the directory is missing.
    /// - [`Error::Busy`] with the process that has it open.
    /// - [`Error::Differs`] if it is the store of another cluster, or the file of another program.
    /// - [`Error::Unsupported`] if a newer version of this library made it.
    /// - [`Error::Damaged`] if it is no store, or not whole.
    /// - [`Error::Os`] and [`Error::Unavailable`] if the file cannot be used.
    pub async fn embedded(spec: &EmbeddedSpec) -> Result<Self> {
        let spec = spec.clone();
        let path = spec.path.clone();
        let engine = match tokio::task::spawn_blocking(move || Embedded::open(&spec)).await {
            Ok(engine) => engine?,
            Err(panic) => return Err(failure::panicked(&path, &panic)),
        };
        Ok(Self { engine: Arc::new(engine) })
    }
}

impl Embedded {
    fn open(spec: &EmbeddedSpec) -> Result<Self> {
        let opened = open::open(spec)?;
        let (orders, waiting) = mpsc::channel();
        let shared = Arc::clone(&opened.shared);
        let history = History { revisions: spec.history_max, bytes: spec.history_bytes_max };
        let owner = Owner::new(opened, waiting, history);
        let thread = std::thread::Builder::new().name("docklet-store".into());
        let owner = thread.spawn(move || owner.run()).map_err(|e| Error::os("clone", "a thread", e))?;
        let places = Arc::new(Semaphore::new(WAITING_MAX));
        Ok(Self { shared, places, orders: Some(orders), owner: Some(owner) })
    }

    /// Has an order carried out. `what` is what it is about.
    async fn order<T>(&self, what: &str, order: impl FnOnce(Answer<T>) -> Order) -> Result<T> {
        let unknown = |reason: &str| Error::OutcomeUnknown { what: what.into(), reason: reason.into() };
        let mut sent = false;
        let exchange = async {
            let place = Arc::clone(&self.places).acquire_owned().await;
            let (answer, answered) = oneshot::channel();
            if let (Ok(place), Some(orders)) = (place, &self.orders) {
                sent = orders.send(Request { order: order(answer), _place: place }).is_ok();
            }
            answered.await
        };
        match tokio::time::timeout(TIME_MAX, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) if sent => Err(unknown("the thread that writes the store has ended: open it again")),
            Err(_) if sent => Err(unknown("the disk does not answer")),
            Ok(Err(_)) => Err(failure::of(&self.shared.path, Trouble::DatabaseClosed)),
            Err(_) => Err(failure::unavailable(&self.shared.path, "too many wait for the disk")),
        }
    }
}

impl Drop for Embedded {
    /// Waits until what was ordered is done and the file is closed, which takes no longer than a commit: it can be opened again at once.
    fn drop(&mut self) {
        self.orders = None;
        if self.owner.take().is_some_and(|owner| owner.join().is_err()) {
            self.shared.close();
        }
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

/// Reads the file where that may take long.
pub(super) async fn read_blocking<T: Send + 'static>(
    shared: &Shared,
    read: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read.map_err(|trouble| failure::of(&shared.path, trouble)),
        Err(panic) => Err(failure::panicked(&shared.path, &panic)),
    }
}

impl Engine for Embedded {
    fn read(&self, query: Query) -> Reply<'_, Page> {
        async move {
            let at = query.at;
            let short = at.is_none() && query.limit <= READ_AT_ONCE_MAX;
            let shared = Arc::clone(&self.shared);
            let read = move || page::read(&shared.begin_read()?, &query);
            let found = if short {
                read().map_err(|trouble| failure::of(&self.shared.path, trouble))
            } else {
                read_blocking(&self.shared, read).await
            };
            match found? {
                Found::Page(page) => Ok(page),
                Found::Compacted => Err(compacted()),
                Found::StillToCome => Err(still_to_come(at.unwrap_or(Revision(0)))),
            }
        }
        .boxed()
    }

    fn commit<'a>(&'a self, transaction: &'a Transaction) -> Reply<'a, Outcome> {
        async move {
            let what = transaction.subject();
            self.order(&what, |answer| Order::Commit(transaction.clone(), answer)).await
        }
        .boxed()
    }

    fn watch(&self, scope: Scope, from: Revision) -> Reply<'_, Box<dyn Feed>> {
        let feed: Box<dyn Feed> = Box::new(LogFeed::new(Arc::clone(&self.shared), scope, from.0));
        async move { Ok(feed) }.boxed()
    }

    fn grant(&self, seconds: u64) -> Reply<'_, (LeaseId, Duration)> {
        async move { self.order("a new lease", |answer| Order::Grant(seconds, answer)).await }.boxed()
    }

    fn keep_alive(&self, lease: LeaseId) -> Reply<'_, Duration> {
        async move {
            let what = format!("lease {lease}");
            self.order(&what, |answer| Order::KeepAlive(lease, answer)).await
        }
        .boxed()
    }

    fn revoke(&self, lease: LeaseId) -> Reply<'_, ()> {
        async move {
            let what = format!("lease {lease}");
            self.order(&what, |answer| Order::Revoke(lease, answer)).await
        }
        .boxed()
    }

    fn compact(&self, revision: Revision) -> Reply<'_, ()> {
        async move { self.order("the history", |answer| Order::Compact(revision, answer)).await }.boxed()
    }
}
