//! What a revision changed, as a watch tells it.

use super::entry::Entry;
use super::key::Key;
use super::revision::Revision;

/// One key that a revision changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// The key holds this now.
    Put(Entry),
    /// The key is gone: deleted, or its lease ended.
    Deleted(Key),
}

impl Change {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted(key) => key,
        }
    }
}

/// All that one revision changed, of the keys that are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Batch {
    /// The revision.
    pub revision: Revision,
    /// Each key once, in the order of the transaction's changes.
    pub changes: Vec<Change>,
}
