//! Changes of several keys that happen together or not at all, as in etcd's `Txn`.

use super::entry::Entry;
use super::key::Key;
use super::lease::LeaseId;
use super::lock::Fence;
use super::record::{BYTES_MAX, Record, Stored};
use super::revision::Revision;
use super::store::ClusterStore;
use crate::error::{Error, Result};

/// The most checks, and the most changes, of a transaction (etcd's `--max-txn-ops`).
const OPERATIONS_MAX: usize = 128;

/// Changes that are made only if all checks hold, and then all at once, under one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "it does nothing until it is committed"]
pub struct Transaction {
    pub(super) checks: Vec<Check>,
    pub(super) writes: Vec<Write>,
}

/// What must hold of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) key: Key,
    pub(super) condition: Condition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    Absent,
    CreatedAt(Revision),
    ModifiedAt(Revision),
}

impl Condition {
    /// Whether it holds of what the store has under the key: when it was made, and when it was written.
    pub(super) fn holds(self, found: Option<(Revision, Revision)>) -> bool {
        match self {
            Self::Absent => found.is_none(),
            Self::CreatedAt(revision) => found.is_some_and(|(created, _)| created == revision),
            Self::ModifiedAt(revision) => found.is_some_and(|(_, modified)| modified == revision),
        }
    }
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Write {
    Put { key: Key, value: Stored, lease: Option<LeaseId> },
    Delete { key: Key },
}

impl Write {
    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Put { key, value, .. } => key.as_str().len() + value.as_bytes().len(),
            Self::Delete { key } => key.as_str().len(),
        }
    }
}

impl Transaction {
    /// One without checks and changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if there is no such key.
    pub fn if_absent(self, key: &Key) -> Self {
        self.check(key, Condition::Absent)
    }

    /// Only if the key holds what it held when `entry` was read.
    pub fn if_unchanged<T>(self, entry: &Entry<T>) -> Self {
        self.if_modified_at(&entry.key, entry.modified)
    }

    /// Only if the key was last written by the change with this revision.
    pub fn if_modified_at(self, key: &Key, revision: Revision) -> Self {
        self.check(key, Condition::ModifiedAt(revision))
    }

    /// Only if the key was made by the change with this revision, and has been there ever since; what it holds may have changed.
    pub fn if_created_at(self, key: &Key, revision: Revision) -> Self {
        self.check(key, Condition::CreatedAt(revision))
    }

    /// Only if what `fence` proves is still held.
    pub fn if_held(self, fence: &Fence) -> Self {
        self.if_created_at(&fence.key, fence.revision)
    }

    /// Lets the key hold `record`. A lease that the key had is no longer its own.
    ///
    /// # Errors
    /// As [`Stored::of`]; [`Error::Invalid`] for [`ClusterStore::IMPORT_MARK`], which is the store's own.
    pub fn put<T: Record>(self, key: &Key, record: &T) -> Result<Self> {
        self.put_with(key, record, None)
    }

    /// Lets the key hold `record` for as long as `lease` lives.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn put_leased<T: Record>(self, key: &Key, record: &T, lease: LeaseId) -> Result<Self> {
        self.put_with(key, record, Some(lease))
    }

    fn put_with<T: Record>(self, key: &Key, record: &T, lease: Option<LeaseId>) -> Result<Self> {
        if key.as_str() == ClusterStore::IMPORT_MARK {
            let rule = "is where the store notes that an import is under way: use another key";
            return Err(Error::invalid("key", key.as_str(), rule));
        }
        Ok(self.write(Write::Put { key: key.clone(), value: Stored::of(record)?, lease }))
    }

    /// Deletes the key. It may be gone already.
    pub fn delete(self, key: &Key) -> Self {
        self.write(Write::Delete { key: key.clone() })
    }

    fn check(mut self, key: &Key, condition: Condition) -> Self {
        self.checks.push(Check { key: key.clone(), condition });
        self
    }

    pub(super) fn write(mut self, write: Write) -> Self {
        self.writes.push(write);
        self
    }

    /// The limits that both engines have.
    pub(super) fn validate(&self) -> Result<()> {
        let refused = |value: String, rule: &str| Err(Error::invalid("transaction", value, rule));
        for (what, count) in [("checks", self.checks.len()), ("changes", self.writes.len())] {
            if count > OPERATIONS_MAX {
                return refused(
                    format!("{count} {what}"),
                    "has at most 128 checks and 128 changes: use several",
                );
            }
        }
        let mut keys: Vec<_> = self.writes.iter().map(Write::key).collect();
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            return refused(twice[0].to_string(), "changes each key at most once");
        }
        let size = self.size();
        if size > BYTES_MAX + BYTES_MAX / 8 {
            return refused(format!("{size} bytes"), "has at most 1 MiB of values: use several");
        }
        Ok(())
    }

    /// How many bytes it writes.
    pub(super) fn size(&self) -> usize {
        self.writes.iter().map(Write::size).sum()
    }

    /// What it is about, for errors: the first keys it names.
    pub(super) fn subject(&self) -> String {
        let keys: Vec<_> =
            self.writes.iter().map(Write::key).chain(self.checks.iter().map(|c| &c.key)).collect();
        match keys.as_slice() {
            [] => "a transaction without changes".into(),
            [key] => format!("key `{key}`"),
            [key, rest @ ..] => format!("key `{key}` and {} more", rest.len()),
        }
    }
}
