//! Faults on command, for tests of programs that use the store: its answers are lost, late or refused, its watches break off.
//!
//! What is kept is kept by the engine beneath; only the way to it is bad.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::change::Batch;
use super::engine::{End, Engine, Feed, Outcome, Reply};
use super::key::Scope;
use super::lease::LeaseId;
use super::page::{Page, Query};
use super::revision::Revision;
use super::store::ClusterStore;
use super::transaction::Transaction;
use crate::error::{Error, Result};

/// What happens to one call on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It never arrives: nothing is done, and the caller is told so.
    Refused,
    /// It is carried out, and the answer is lost. Changes are [`Error::OutcomeUnknown`] then.
    AnswerLost,
    /// It is lost on the way, and the caller cannot know that. Changes are [`Error::OutcomeUnknown`] then.
    RequestLost,
    /// It waits for this time, then it is carried out.
    Late(Duration),
    /// The caller gets no answer, as with [`RequestLost`](Self::RequestLost); but it only waits somewhere, and is carried out after this
    /// time all the same. What the caller does next comes before it.
    DoneLater(Duration),
}

/// Decides about each call: its number, counted from 1, gives what happens to it.
type Plan = Box<dyn FnMut(u64) -> Option<Fault> + Send>;

/// Commands what goes wrong with a store from [`ClusterStore::with_faults`]. Clones command the same.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

struct Shared {
    calls: Mutex<Calls>,
    line: watch::Sender<Line>,
}

struct Calls {
    count: u64,
    plan: Plan,
}

/// What watches hang on.
#[derive(Debug, Clone, Copy)]
struct Line {
    is_cut: bool,
    /// How often it was broken.
    breaks: u64,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("line", &*self.0.line.borrow()).finish_non_exhaustive()
    }
}

impl Faults {
    fn new() -> Self {
        let calls = Mutex::new(Calls { count: 0, plan: Box::new(|_| None) });
        Self(Arc::new(Shared { calls, line: watch::Sender::new(Line { is_cut: false, breaks: 0 }) }))
    }

    /// From now on `plan` decides about each call: it is given the call's number, counted from 1 since the store was made.
    pub fn plan(&self, plan: impl FnMut(u64) -> Option<Fault> + Send + 'static) {
        self.calls().plan = Box::new(plan);
    }

    /// The next calls meet these faults, one each; then all is well.
    pub fn next(&self, faults: impl IntoIterator<Item = Fault>) {
        let mut faults: VecDeque<_> = faults.into_iter().collect();
        self.plan(move |_| faults.pop_front());
    }

    /// Breaks all open watches off. They can be opened again at once.
    pub fn break_watches(&self) {
        self.0.line.send_modify(|line| line.breaks += 1);
    }

    /// Cuts the line: watches break off, and no call arrives, until [`heal`](Self::heal).
    pub fn cut(&self) {
        self.0.line.send_modify(|line| (line.is_cut, line.breaks) = (true, line.breaks + 1));
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.0.line.send_modify(|line| line.is_cut = false);
        self.plan(|_| None);
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> Option<Fault> {
        if self.0.line.borrow().is_cut {
            return Some(Fault::Refused);
        }
        let calls = &mut *self.calls();
        calls.count += 1;
        (calls.plan)(calls.count)
    }

    /// Lets `call` through as it is decided. `changes` says what it changes, if it does.
    async fn pass<T: Send + 'static>(
        &self,
        changes: Option<String>,
        call: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.fault() {
            None => return call.await,
            Some(Fault::Late(time)) => {
                tokio::time::sleep(time).await;
                return call.await;
            }
            Some(Fault::Refused) => return Err(unavailable("the call was refused on command")),
            Some(Fault::AnswerLost) => drop(call.await),
            Some(Fault::RequestLost) => {}
            Some(Fault::DoneLater(time)) => {
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    drop(call.await);
                });
            }
        }
        let reason = "the answer was lost on command";
        match changes {
            Some(what) => Err(Error::OutcomeUnknown { what, reason: reason.into() }),
            None => Err(unavailable(reason)),
        }
    }
}

fn unavailable(reason: &str) -> Error {
    Error::Unavailable { what: "the store".into(), reason: reason.into() }
}

impl ClusterStore {
    /// The same store behind a way on which faults happen on command. Leases that it grants are kept over that way, too.
    #[must_use]
    pub fn with_faults(&self) -> (Self, Faults) {
        let faults = Faults::new();
        let engine = Arc::new(Faulty { engine: Arc::clone(&self.engine), faults: faults.clone() });
        (Self { engine }, faults)
    }
}

#[derive(Debug)]
struct Faulty {
    engine: Arc<dyn Engine>,
    faults: Faults,
}

impl Engine for Faulty {
    fn read(&self, query: Query) -> Reply<'_, Page> {
        let engine = Arc::clone(&self.engine);
        Box::pin(self.faults.pass(None, async move { engine.read(query).await }))
    }

    fn commit<'a>(&'a self, transaction: &'a Transaction) -> Reply<'a, Outcome> {
        let (engine, transaction) = (Arc::clone(&self.engine), transaction.clone());
        let what = transaction.subject();
        Box::pin(self.faults.pass(Some(what), async move { engine.commit(&transaction).await }))
    }

    fn watch(&self, scope: Scope, from: Revision) -> Reply<'_, Box<dyn Feed>> {
        Box::pin(async move {
            let line = self.faults.0.line.subscribe();
            let opened = line.borrow().breaks;
            let engine = Arc::clone(&self.engine);
            let feed = self.faults.pass(None, async move { engine.watch(scope, from).await }).await?;
            Ok(Box::new(FaultyFeed { feed, line, opened }) as Box<dyn Feed>)
        })
    }

    fn grant(&self, seconds: u64) -> Reply<'_, (LeaseId, Duration)> {
        let engine = Arc::clone(&self.engine);
        Box::pin(self.faults.pass(Some("a new lease".into()), async move { engine.grant(seconds).await }))
    }

    fn keep_alive(&self, lease: LeaseId) -> Reply<'_, Duration> {
        let engine = Arc::clone(&self.engine);
        let what = format!("lease {lease}");
        Box::pin(self.faults.pass(Some(what), async move { engine.keep_alive(lease).await }))
    }

    fn revoke(&self, lease: LeaseId) -> Reply<'_, ()> {
        let engine = Arc::clone(&self.engine);
        let what = format!("lease {lease}");
        Box::pin(self.faults.pass(Some(what), async move { engine.revoke(lease).await }))
    }

    fn compact(&self, revision: Revision) -> Reply<'_, ()> {
        let engine = Arc::clone(&self.engine);
        Box::pin(self.faults.pass(Some("the history".into()), async move { engine.compact(revision).await }))
    }
}

/// A feed that ends when the line breaks.
struct FaultyFeed {
    feed: Box<dyn Feed>,
    line: watch::Receiver<Line>,
    /// How often the line had been broken when it was opened.
    opened: u64,
}

impl Feed for FaultyFeed {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, End>> {
        Box::pin(async move {
            let opened = self.opened;
            tokio::select! {
                biased;
                _ = self.line.wait_for(|line| line.breaks != opened) => {
                    Err(End::Broken(unavailable("the watch was broken off on command")))
                }
                batch = self.feed.next() => batch,
            }
        })
    }
}
