//! What the file holds, as redb's tables (<https://docs.rs/redb>): the entries, what each revision changed, and the leases.

use redb::{Error as Trouble, ReadableTable, TableDefinition};

use super::super::change::{Batch, Change};
use super::super::entry::Entry;
use super::super::key::Key;
use super::super::lease::LeaseId;
use super::super::record::Stored;
use super::super::revision::Revision;

/// What a key holds: the revision that made it, the one that wrote it, its lease (0 for none), and the value.
pub(super) type Row = (u64, u64, u64, &'static [u8]);
/// The same, as it is read.
type BorrowedRow<'a> = (u64, u64, u64, &'a [u8]);
/// One change: the key, what it holds after it, what it held before, and how many bytes of keys and values all changes so far have had.
pub(super) type Step = (&'static str, Option<Row>, Option<Row>, u64);

pub(super) const ENTRIES: TableDefinition<&str, Row> = TableDefinition::new("entries");
/// By revision and place in it. Its last line tells the store's revision.
pub(super) const LOG: TableDefinition<(u64, u32), Step> = TableDefinition::new("log");
/// By id: whole seconds to live.
pub(super) const LEASES: TableDefinition<u64, u64> = TableDefinition::new("leases");
/// The keys of each lease.
pub(super) const LEASED: TableDefinition<(u64, &str), ()> = TableDefinition::new("leased");
/// Numbers about the file, by the names below.
pub(super) const NUMBERS: TableDefinition<&str, u64> = TableDefinition::new("numbers");
/// Names about the file, by the names below.
pub(super) const NAMES: TableDefinition<&str, &str> = TableDefinition::new("names");

/// The version of all this.
pub(super) const FORMAT: &str = "format";
/// What was before this revision is forgotten.
pub(super) const COMPACTED: &str = "compacted";
/// The last lease that was granted: none has an id twice.
pub(super) const LAST_LEASE: &str = "last lease";
/// Whose store it is.
pub(super) const CLUSTER: &str = "cluster";

/// The revision of a store that nothing was written to, as etcd has it.
pub(super) const REVISION_FIRST: u64 = 1;

/// What a key holds, out of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) created: u64,
    pub(super) modified: u64,
    /// 0 for none.
    pub(super) lease: u64,
    pub(super) value: Vec<u8>,
}

impl Held {
    pub(super) fn of((created, modified, lease, value): (u64, u64, u64, &[u8])) -> Self {
        Self { created, modified, lease, value: value.to_vec() }
    }

    pub(super) fn row(&self) -> (u64, u64, u64, &[u8]) {
        (self.created, self.modified, self.lease, &self.value)
    }

    pub(super) fn entry(self, key: Key) -> Entry {
        Entry {
            key,
            value: Stored::from_bytes(self.value),
            created: Revision(self.created),
            modified: Revision(self.modified),
            lease: (self.lease != 0).then_some(LeaseId(self.lease)),
        }
    }
}

/// A key as the file has it.
pub(super) fn key(text: &str) -> Result<Key, Trouble> {
    Key::new(text).map_err(|error| Trouble::Corrupted(error.to_string()))
}

/// The store's revision.
pub(super) fn revision(log: &impl ReadableTable<(u64, u32), Step>) -> Result<u64, Trouble> {
    Ok(log.last()?.map_or(REVISION_FIRST, |(at, _)| at.value().0))
}

/// How many bytes of a key and its values a change has.
pub(super) fn bytes(key: &str, after: Option<BorrowedRow<'_>>, before: Option<BorrowedRow<'_>>) -> u64 {
    let values = [after, before].into_iter().flatten().map(|(.., value)| value.len()).sum::<usize>();
    u64::try_from(key.len() + values).unwrap_or(u64::MAX)
}

/// A number about the file; 0 if it was never written.
pub(super) fn number(numbers: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, Trouble> {
    Ok(numbers.get(name)?.map_or(0, |number| number.value()))
}

/// The revisions from `from` on, about `limit` changes of them.
pub(super) fn batches(
    log: &impl ReadableTable<(u64, u32), Step>,
    from: u64,
    limit: usize,
) -> Result<Vec<Batch>, Trouble> {
    let mut found: Vec<Batch> = Vec::new();
    for (count, line) in log.range((from, 0)..)?.enumerate() {
        let (at, step) = line?;
        let (revision, (text, after, ..)) = (Revision(at.value().0), step.value());
        let key = key(text)?;
        let change = match after {
            Some(row) => Change::Put(Held::of(row).entry(key)),
            None => Change::Deleted(key),
        };
        match found.last_mut() {
            Some(batch) if batch.revision == revision => batch.changes.push(change),
            _ if count >= limit => break,
            _ => found.push(Batch { revision, changes: vec![change] }),
        }
    }
    Ok(found)
}
