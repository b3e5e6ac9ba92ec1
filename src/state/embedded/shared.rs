//! What the thread that writes shares with all who read and watch.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use redb::{Database, Error as Trouble, ReadTransaction, ReadableDatabase, WriteTransaction};
use tokio::sync::watch;

use super::super::change::Batch;
use super::tail::Tail;

pub(super) struct Shared {
    pub(super) path: PathBuf,
    /// `None` while it is closed. Transactions go on without this lock.
    database: RwLock<Option<Database>>,
    tail: Mutex<Tail>,
    /// The last durable revision.
    told: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(path: PathBuf, database: Database, revision: u64) -> Self {
        let (told, _) = watch::channel(revision);
        Self { path, database: RwLock::new(Some(database)), tail: Mutex::default(), told }
    }

    pub(super) fn begin_read(&self) -> Result<ReadTransaction, Trouble> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        Ok(database.as_ref().ok_or(Trouble::DatabaseClosed)?.begin_read()?)
    }

    pub(super) fn begin_write(&self) -> Result<WriteTransaction, Trouble> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        Ok(database.as_ref().ok_or(Trouble::DatabaseClosed)?.begin_write()?)
    }

    /// Closes the file, also to those who still read: another process may open it.
    pub(super) fn close(&self) {
        let database = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Err(error)) = database.map(Database::close) {
            tracing::warn!(path = %self.path.display(), %error, "the store was not closed cleanly");
        }
    }

    /// Goes on with the file opened again, which holds what it held up to this revision.
    pub(super) fn go_on(&self, database: Database, revision: u64) {
        if *self.told.borrow() != revision {
            // Which commit that was is read from the log.
            *self.tail() = Tail::default();
        }
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
        self.told.send_replace(revision);
    }

    /// Tells those who watch of revisions that are durable.
    pub(super) fn tell(&self, batches: Vec<Batch>) {
        let Some(last) = batches.last().map(|batch| batch.revision.0) else { return };
        {
            let mut tail = self.tail();
            batches.into_iter().for_each(|batch| tail.push(batch));
        }
        self.told.send_replace(last);
    }

    pub(super) fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.told.subscribe()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("path", &self.path).finish_non_exhaustive()
    }
}
