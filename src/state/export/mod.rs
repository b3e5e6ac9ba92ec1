//! All entries of a store in a file, and back: for copies, and to move from one engine to the other.
//!
//! The file is JSON, one document a line: a head, an entry each, and an end with a digest of all before it. It holds what the store
//! holds, so it is for its owner alone (`0600`). History and entries with a lease are left out.

mod file;

use std::path::Path;

use serde::{Deserialize, Serialize};

use self::file::{BATCH_ENTRIES, Reader, Writer};
use super::key::{Key, Scope};
use super::page::Query;
use super::record::{Record, Stored};
use super::revision::Revision;
use super::store::ClusterStore;
use super::transaction::{Transaction, Write};
use crate::error::{Error, Result};

/// That an import is under way, under [`ClusterStore::IMPORT_MARK`]. Another attempt takes it over.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    sha256: String,
}

impl Record for Mark {
    const KIND: &'static str = "import";
}

/// Runs what waits for a disk where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl ClusterStore {
    /// The key that stands in a store from the beginning of an [`import`](Self::import) to its end. A store that has it is not whole:
    /// import again. Nobody else [puts](Transaction::put) anything there.
    pub const IMPORT_MARK: &str = ".import";

    /// Writes all entries, as they are at one revision, to the file `path`, which appears, or is replaced, when it is whole and on the
    /// disk. Entries that hang on a lease are left out, and so is the history. The revision.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Os`]; [`Error::Conflict`] if the revision is compacted away meanwhile.
    pub async fn export(&self, path: &Path) -> Result<Revision> {
        let mut query = Query::new(Scope::All);
        let mut writer = None;
        loop {
            let page = self.page(query.clone()).await?;
            let (revision, next) = (page.revision, query.behind(&page));
            let more = next.is_some();
            let path = path.to_owned();
            let begun = writer.take();
            let written = blocking(move || {
                let mut writer = begun.map_or_else(|| Writer::create(&path, revision), Ok)?;
                for entry in page.entries.iter().filter(|entry| entry.lease.is_none()) {
                    writer.entry(entry)?;
                }
                if more { Ok(Some(writer)) } else { writer.finish().map(|()| None) }
            });
            writer = written.await?;
            match next {
                None => return Ok(revision),
                Some(next) => query = next,
            }
        }
    }

    /// Puts the entries of an exported file into this store, which must be empty. The file is checked before the first one is put. A store
    /// with an import that was not finished is emptied first, of what others have put there meanwhile, too. The store's revision after it.
    ///
    /// # Errors
    /// - [`Error::Differs`] if the store is not empty.
    /// - [`Error::Damaged`] if the file is not whole, [`Error::Unsupported`] if it is of a newer form.
    /// - [`Error::Conflict`] if another import begins meanwhile, or somebody uses the store.
    /// - [`Error::Os`], [`Error::Unavailable`], [`Error::OutcomeUnknown`]: import again.
    pub async fn import(&self, path: &Path) -> Result<Revision> {
        let source = path.to_owned();
        let (sha256, mut reader) = blocking(move || Reader::open(&source)?.verify()).await?;
        let key = Key::new(Self::IMPORT_MARK)?;
        let mark = self.begin_import(&key, Mark { sha256: sha256.clone() }).await?;
        loop {
            let verified = sha256.clone();
            let (batch, rest) =
                blocking(move || reader.batch(&verified).map(|batch| (batch, reader))).await?;
            if batch.is_empty() {
                return self.commit(Transaction::new().if_modified_at(&key, mark).delete(&key)).await;
            }
            let puts = Transaction::new().if_modified_at(&key, mark);
            self.commit(batch.into_iter().fold(puts, Transaction::write)).await?;
            reader = rest;
        }
    }

    /// Marks an empty store, or takes over one that is marked and empties it. The mark's revision.
    async fn begin_import(&self, key: &Key, mark: Mark) -> Result<Revision> {
        let former = self.get::<Mark>(key).await?;
        if former.is_none() {
            self.must_hold_only(key).await?;
        }
        let take = match &former {
            Some(former) => Transaction::new().if_unchanged(former),
            None => Transaction::new().if_absent(key),
        };
        let put = Write::Put { key: key.clone(), value: Stored::of(&mark)?, lease: None };
        let mark = self.commit(take.write(put)).await?;
        if former.is_some() {
            self.empty_but(key, mark).await?;
        } else if let Err(error) = self.must_hold_only(key).await {
            // Somebody was faster than the mark.
            self.commit(Transaction::new().if_modified_at(key, mark).delete(key)).await?;
            return Err(error);
        }
        Ok(mark)
    }

    async fn must_hold_only(&self, key: &Key) -> Result<()> {
        let page = self.page(Query { limit: 2, ..Query::new(Scope::All) }).await?;
        match page.entries.iter().find(|entry| entry.key != *key) {
            None => Ok(()),
            Some(entry) => Err(Error::Differs {
                what: "the store".into(),
                difference: format!("it holds key `{}`: import into an empty one", entry.key),
            }),
        }
    }

    /// Deletes everything else, as long as the mark is as it was made at `mark`.
    async fn empty_but(&self, key: &Key, mark: Revision) -> Result<()> {
        loop {
            let page = self.page(Query { limit: BATCH_ENTRIES, ..Query::new(Scope::All) }).await?;
            let others: Vec<_> = page.entries.into_iter().filter(|entry| entry.key != *key).collect();
            if others.is_empty() {
                return Ok(());
            }
            let deletes = Transaction::new().if_modified_at(key, mark);
            self.commit(others.iter().fold(deletes, |changes, entry| changes.delete(&entry.key))).await?;
        }
    }
}
