//! A watch's feed: from memory, and from the log where memory does not go back so far.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use redb::Error as Trouble;
use tokio::sync::watch;

use super::super::change::{Batch, Change};
use super::super::engine::{End, Feed};
use super::super::key::Scope;
use super::engine::read_blocking;
use super::shared::Shared;
use super::table::{self, COMPACTED, LOG, NUMBERS};

/// How many changes are read from the log at once.
const READ_MAX: usize = 256;

pub(super) struct LogFeed {
    shared: Arc<Shared>,
    scope: Scope,
    /// The first revision that is not in `ready`.
    next: u64,
    ready: VecDeque<Arc<Batch>>,
    revisions: watch::Receiver<u64>,
}

impl LogFeed {
    pub(super) fn new(shared: Arc<Shared>, scope: Scope, from: u64) -> Self {
        let revisions = shared.revisions();
        Self { shared, scope, next: from, ready: VecDeque::new(), revisions }
    }

    async fn batch(&mut self) -> Result<Batch, End> {
        loop {
            while let Some(batch) = self.ready.pop_front() {
                if let Some(batch) = part(&batch, &self.scope) {
                    return Ok(batch);
                }
            }
            if *self.revisions.borrow_and_update() < self.next {
                // Its sender is in `shared`.
                let _ = self.revisions.changed().await;
                continue;
            }
            let in_memory = self.shared.tail().since(self.next);
            let found = match in_memory {
                Some(found) => found,
                None => self.read_log().await?,
            };
            if let Some(last) = found.last() {
                self.next = last.revision.0 + 1;
            }
            self.ready.extend(found);
        }
    }

    async fn read_log(&self) -> Result<Vec<Arc<Batch>>, End> {
        let (shared, next) = (Arc::clone(&self.shared), self.next);
        let read = move || -> Result<Option<Vec<Batch>>, Trouble> {
            let transaction = shared.begin_read()?;
            if next < table::number(&transaction.open_table(NUMBERS)?, COMPACTED)? {
                return Ok(None);
            }
            table::batches(&transaction.open_table(LOG)?, next, READ_MAX).map(Some)
        };
        match read_blocking(&self.shared, read).await.map_err(End::Broken)? {
            Some(found) => Ok(found.into_iter().map(Arc::new).collect()),
            None => Err(End::Compacted),
        }
    }
}

impl Feed for LogFeed {
    fn next(&mut self) -> BoxFuture<'_, Result<Batch, End>> {
        self.batch().boxed()
    }
}

/// What `scope` has of a batch.
fn part(batch: &Batch, scope: &Scope) -> Option<Batch> {
    let held: Vec<Change> =
        batch.changes.iter().filter(|change| scope.holds(change.key())).cloned().collect();
    (!held.is_empty()).then_some(Batch { revision: batch.revision, changes: held })
}
