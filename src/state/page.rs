//! Reading many entries, a page at a time.

use super::engine::Engine;
use super::entry::Entry;
use super::key::{Key, Scope};
use super::record::{Record, Stored};
use super::revision::Revision;
use crate::error::{Error, Result};

/// How many entries a page has unless another number is asked for.
pub(super) const PAGE_DEFAULT: usize = 1_000;
/// How large the pages of a whole listing grow, in bytes.
const PAGE_BYTES: usize = 1 << 20;

/// Which entries to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Which keys.
    pub scope: Scope,
    /// Only keys behind this one in their order. `None`: from the first.
    pub after: Option<Key>,
    /// The most entries, at least 1. Default: 1,000.
    pub limit: usize,
    /// As of this revision. `None`: as they are now, with all that was committed before the call.
    pub at: Option<Revision>,
}

impl Query {
    /// The first page of `scope` as it is now.
    #[must_use]
    pub fn new(scope: Scope) -> Self {
        Self { scope, after: None, limit: PAGE_DEFAULT, at: None }
    }

    /// The page behind `page`, as things were then. `None` behind the last one.
    #[must_use]
    pub fn behind<T>(&self, page: &Page<T>) -> Option<Self> {
        let last = page.entries.last().filter(|_| page.more)?;
        Some(Self { after: Some(last.key.clone()), at: Some(page.revision), ..self.clone() })
    }
}

/// Entries in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<T = Stored> {
    /// What was found.
    pub entries: Vec<Entry<T>>,
    /// Whether there are more behind the last.
    pub more: bool,
    /// The revision they were read at.
    pub revision: Revision,
}

impl Page {
    /// The page with its values read as `T`.
    ///
    /// # Errors
    /// As [`Stored::decode`], of the first that cannot be read.
    pub fn decode<T: Record>(self) -> Result<Page<T>> {
        let entries = self.entries.into_iter().map(Entry::decode).collect::<Result<_>>()?;
        Ok(Page { entries, more: self.more, revision: self.revision })
    }
}

/// What is told of a query at a revision that was compacted away.
pub(super) fn compacted() -> Error {
    let reason = "it was compacted away: read it as it is now".into();
    Error::Conflict { what: "what the store was at that revision".into(), reason }
}

/// What is told of a query at a revision that no change has yet.
pub(super) fn still_to_come(at: Revision) -> Error {
    Error::invalid("revision", at.to_string(), "is still to come: read the store as it is now")
}

/// All entries of `scope`, and the one revision they were read at.
pub(super) async fn all(engine: &dyn Engine, scope: &Scope) -> Result<(Revision, Vec<Entry>)> {
    'anew: loop {
        let mut query = Query::new(scope.clone());
        let mut entries = Vec::new();
        loop {
            let page = match engine.read(query.clone()).await {
                // Compacted away between two pages.
                Err(Error::Conflict { .. }) if query.at.is_some() => continue 'anew,
                page => page?,
            };
            let bytes: usize = page.entries.iter().map(|entry| entry.value.as_bytes().len()).sum();
            let next = query.behind(&page);
            entries.extend(page.entries);
            query = match next {
                None => return Ok((page.revision, entries)),
                Some(next) => next,
            };
            // etcd 3.4 counts all that is left for each page: small entries take fewer and larger ones.
            if bytes < PAGE_BYTES {
                query.limit *= 2;
            }
        }
    }
}
