//! One key with its value, as read from the store at one revision.

use super::key::Key;
use super::lease::LeaseId;
use super::record::{Record, Stored};
use super::revision::Revision;
use crate::error::Result;

/// A key and what it holds. What comes of a listing or a watch is not read as a type yet: [`decode`](Entry::decode) does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry<T = Stored> {
    /// The key.
    pub key: Key,
    /// What it holds.
    pub value: T,
    /// The revision that made the key. A key that was deleted and made again has another.
    pub created: Revision,
    /// The revision that wrote the value.
    pub modified: Revision,
    /// The lease with whose end the key goes.
    pub lease: Option<LeaseId>,
}

impl Entry {
    /// The entry with its value read as `T`.
    ///
    /// # Errors
    /// As [`Stored::decode`].
    pub fn decode<T: Record>(self) -> Result<Entry<T>> {
        let value = self.value.decode(&self.key)?;
        Ok(Entry { key: self.key, value, created: self.created, modified: self.modified, lease: self.lease })
    }
}
