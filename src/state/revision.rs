//! The store's count of changes, as etcd has it: <https://etcd.io/docs/v3.4/learning/data_model/>.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number that grows with each change of the store, 1 or more from the beginning. Every transaction that changes something has one of its
/// own, greater than all before; there may be gaps. Revisions of different stores have nothing to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
