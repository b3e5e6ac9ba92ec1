//! The store of one cluster, whichever engine keeps it.

use std::sync::Arc;

use super::engine::{Engine, Outcome};
use super::entry::Entry;
use super::key::{Key, Scope};
use super::page::{self, Page, Query};
use super::record::Record;
use super::revision::Revision;
use super::transaction::Transaction;
use super::watch::Watch;
use crate::error::{Error, Result};

/// How many keys of a failed check an error names.
const NAMED_MAX: usize = 3;

/// What the machines of a cluster agree on: ordered keys with typed values, of one cluster. Clones share it.
///
/// All calls can fail with [`Error::Denied`], where etcd does not let this user do it, and with [`Error::Damaged`].
#[derive(Debug, Clone)]
pub struct ClusterStore {
    pub(super) engine: Arc<dyn Engine>,
}

impl ClusterStore {
    /// The store's revision now: of the last change of anything.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn revision(&self) -> Result<Revision> {
        let nothing = Query { limit: 1, ..Query::new(Scope::All) };
        Ok(self.engine.read(nothing).await?.revision)
    }

    /// What `key` holds. `None` if there is no such key.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; and as [`Stored::decode`](super::Stored::decode).
    pub async fn get<T: Record>(&self, key: &Key) -> Result<Option<Entry<T>>> {
        let query = Query { limit: 1, ..Query::new(Scope::One(key.clone())) };
        self.engine.read(query).await?.entries.pop().map(Entry::decode).transpose()
    }

    /// A page of entries of any kind, not read as a type yet.
    ///
    /// # Errors
    /// - [`Error::Invalid`] if the limit is 0.
    /// - [`Error::Conflict`] if the revision was compacted away.
    /// - [`Error::Unavailable`].
    pub async fn page(&self, query: Query) -> Result<Page> {
        if query.limit == 0 {
            return Err(Error::invalid("page limit", "0", "must be at least 1"));
        }
        self.engine.read(query).await
    }

    /// All entries of `scope` at one revision, as one page however many there are.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; and as [`Stored::decode`](super::Stored::decode).
    pub async fn list<T: Record>(&self, scope: &Scope) -> Result<Page<T>> {
        self.entries(scope).await?.decode()
    }

    /// All entries of `scope` of any kind at one revision, as one page however many there are, not read as a type yet.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn entries(&self, scope: &Scope) -> Result<Page> {
        let (revision, entries) = page::all(&*self.engine, scope).await?;
        Ok(Page { entries, more: false, revision })
    }

    /// Lets `key` hold `record`, whatever it held. The revision of the change.
    ///
    /// # Errors
    /// As [`commit`](Self::commit), but for [`Error::Conflict`].
    pub async fn put<T: Record>(&self, key: &Key, record: &T) -> Result<Revision> {
        self.commit(Transaction::new().put(key, record)?).await
    }

    /// Deletes `key`. It may be gone already. The store's revision after it.
    ///
    /// # Errors
    /// As [`commit`](Self::commit), but for [`Error::Conflict`].
    pub async fn delete(&self, key: &Key) -> Result<Revision> {
        self.commit(Transaction::new().delete(key)).await
    }

    /// Carries `transaction` out: all of it, durably, before this returns, or nothing. The store's revision after it.
    ///
    /// # Errors
    /// - [`Error::Conflict`] if a check does not hold: nothing was done. Read again, and decide anew.
    /// - [`Error::Invalid`] if it breaks a limit of transactions.
    /// - [`Error::NotFound`] if it names a lease that is gone.
    /// - [`Error::Unavailable`] if it was not done for certain; [`Error::NoSpace`] if that is for want of room.
    /// - [`Error::OutcomeUnknown`] if it may have been done, or may yet be.
    pub async fn commit(&self, transaction: Transaction) -> Result<Revision> {
        transaction.validate()?;
        match self.engine.commit(&transaction).await? {
            Outcome::Committed(revision) => Ok(revision),
            Outcome::Refused(keys) => Err(conflict(&keys)),
        }
    }

    /// The changes of `scope` from now on.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn watch(&self, scope: Scope) -> Result<Watch> {
        let from = self.revision().await?.next();
        Ok(self.watch_from(scope, from))
    }

    /// The changes of `scope` from revision `from` on: behind a [`list`](Self::list), from the page's revision's
    /// [`next`](Revision::next).
    #[must_use]
    pub fn watch_from(&self, scope: Scope, from: Revision) -> Watch {
        Watch::new(Arc::clone(&self.engine), scope, from)
    }

    /// Forgets what the store was before `revision`: pages of that time and watches from it are no longer possible.
    /// Repeating it is fine.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `revision` is still to come; [`Error::Unavailable`], [`Error::OutcomeUnknown`].
    pub async fn compact(&self, revision: Revision) -> Result<()> {
        self.engine.compact(revision).await
    }
}

fn conflict(keys: &[Key]) -> Error {
    let named: Vec<_> = keys.iter().take(NAMED_MAX).map(|key| format!("`{key}`")).collect();
    let more = keys.len().saturating_sub(NAMED_MAX);
    let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
    Error::Conflict {
        what: format!("key {}{rest}", named.join(", ")),
        reason: "a check of the transaction does not hold: read it again, and decide anew".into(),
    }
}
