//! What transactions and the ends of leases do to the tables, within one write transaction of redb.

use redb::{Error as Trouble, ReadableTable, Table, WriteTransaction};

use super::super::change::{Batch, Change};
use super::super::engine::Outcome;
use super::super::key::Key;
use super::super::lease::LeaseId;
use super::super::revision::Revision;
use super::super::transaction::{Transaction, Write};
use super::table::{
    COMPACTED, ENTRIES, Held, LAST_LEASE, LEASED, LEASES, LOG, NUMBERS, Row, Step, bytes, key, number,
    revision,
};

/// The tables while they are written. It ends before redb's transaction is committed.
pub(super) struct Ledger<'t> {
    entries: Table<'t, &'static str, Row>,
    log: Table<'t, (u64, u32), Step>,
    leases: Table<'t, u64, u64>,
    leased: Table<'t, (u64, &'static str), ()>,
    numbers: Table<'t, &'static str, u64>,
    revision: u64,
    /// How many bytes of keys and values all changes so far have had.
    bytes: u64,
    /// What was done, for those who watch.
    batches: Vec<Batch>,
    /// Whether anything was written that is no revision.
    aside: bool,
}

/// What was decided of a transaction.
pub(super) enum Verdict {
    Decided(Outcome),
    /// It names a lease that is gone: nothing was done.
    LeaseGone(LeaseId),
}

impl<'t> Ledger<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, Trouble> {
        let log = transaction.open_table(LOG)?;
        let revision = revision(&log)?;
        let bytes = log.last()?.map_or(0, |(_, step)| step.value().3);
        Ok(Self {
            entries: transaction.open_table(ENTRIES)?,
            log,
            leases: transaction.open_table(LEASES)?,
            leased: transaction.open_table(LEASED)?,
            numbers: transaction.open_table(NUMBERS)?,
            revision,
            bytes,
            batches: Vec::new(),
            aside: false,
        })
    }

    /// Whether there is anything to commit.
    pub(super) fn is_changed(&self) -> bool {
        self.aside || !self.batches.is_empty()
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn into_batches(self) -> Vec<Batch> {
        self.batches
    }

    /// Does all of `transaction` or nothing. A failure of the file leaves a part: then nothing of redb's transaction may be committed.
    pub(super) fn carry_out(&mut self, transaction: &Transaction) -> Result<Verdict, Trouble> {
        let mut refused: Vec<Key> = Vec::new();
        for check in &transaction.checks {
            let found = self.entries.get(check.key.as_str())?.map(|row| {
                let (created, modified, ..) = row.value();
                (Revision(created), Revision(modified))
            });
            if !check.condition.holds(found) && !refused.contains(&check.key) {
                refused.push(check.key.clone());
            }
        }
        if !refused.is_empty() {
            return Ok(Verdict::Decided(Outcome::Refused(refused)));
        }
        for write in &transaction.writes {
            if let Write::Put { lease: Some(lease), .. } = write
                && self.leases.get(lease.0)?.is_none()
            {
                return Ok(Verdict::LeaseGone(*lease));
            }
        }
        let next = self.revision + 1;
        let mut changes = Vec::new();
        for write in &transaction.writes {
            let place = changes.len();
            match write {
                Write::Put { key, value, lease } => {
                    let lease = lease.map_or(0, |lease| lease.0);
                    changes.push(self.put(key, value.as_bytes(), lease, next, place)?);
                }
                Write::Delete { key } => changes.extend(self.delete(key, next, place)?),
            }
        }
        self.close_revision(changes);
        Ok(Verdict::Decided(Outcome::Committed(Revision(self.revision))))
    }

    /// Grants a lease of so many seconds.
    pub(super) fn grant(&mut self, seconds: u64) -> Result<u64, Trouble> {
        let id = number(&self.numbers, LAST_LEASE)? + 1;
        self.numbers.insert(LAST_LEASE, id)?;
        self.leases.insert(id, seconds)?;
        self.aside = true;
        Ok(id)
    }

    /// Ends a lease, and deletes its keys under one revision. It may have ended already.
    pub(super) fn end(&mut self, lease: u64) -> Result<(), Trouble> {
        if self.leases.remove(lease)?.is_none() {
            return Ok(());
        }
        self.aside = true;
        let mut keys = Vec::new();
        for line in self.leased.range((lease, "")..)? {
            let (at, _) = line?;
            let (id, text) = at.value();
            if id != lease {
                break;
            }
            keys.push(key(text)?);
        }
        let next = self.revision + 1;
        let mut changes = Vec::new();
        for key in keys {
            let place = changes.len();
            changes.extend(self.delete(&key, next, place)?);
        }
        self.close_revision(changes);
        Ok(())
    }

    pub(super) fn compacted(&self) -> Result<u64, Trouble> {
        number(&self.numbers, COMPACTED)
    }

    /// How many bytes of keys and values the log holds behind its first line.
    pub(super) fn log_bytes(&self) -> Result<u64, Trouble> {
        Ok(self.log.first()?.map_or(0, |(_, step)| self.bytes.saturating_sub(step.value().3)))
    }

    /// The first revision behind which the log holds at most so many bytes; no later than `last`.
    pub(super) fn before_bytes(&self, most: u64, last: u64) -> Result<u64, Trouble> {
        for line in self.log.range((0, 0)..(last, 0))? {
            let (at, step) = line?;
            if self.bytes.saturating_sub(step.value().3) <= most {
                return Ok(at.value().0);
            }
        }
        Ok(last)
    }

    /// Forgets what was before `revision`, which is not still to come.
    pub(super) fn compact(&mut self, revision: u64) -> Result<(), Trouble> {
        self.log.retain_in((0, 0)..(revision, 0), |_, _| false)?;
        self.numbers.insert(COMPACTED, revision)?;
        self.aside = true;
        Ok(())
    }

    fn close_revision(&mut self, changes: Vec<Change>) {
        if !changes.is_empty() {
            self.revision += 1;
            self.batches.push(Batch { revision: Revision(self.revision), changes });
        }
    }

    fn put(&mut self, key: &Key, value: &[u8], lease: u64, at: u64, place: usize) -> Result<Change, Trouble> {
        let before = self.held(key)?;
        let created = before.as_ref().map_or(at, |before| before.created);
        let after = Held { created, modified: at, lease, value: value.to_vec() };
        let former = before.as_ref().map_or(0, |before| before.lease);
        if former != lease {
            if former != 0 {
                self.leased.remove((former, key.as_str()))?;
            }
            if lease != 0 {
                self.leased.insert((lease, key.as_str()), ())?;
            }
        }
        self.entries.insert(key.as_str(), after.row())?;
        self.write_down(key, Some(&after), before.as_ref(), at, place)?;
        Ok(Change::Put(after.entry(key.clone())))
    }

    fn delete(&mut self, key: &Key, at: u64, place: usize) -> Result<Option<Change>, Trouble> {
        let Some(before) = self.held(key)? else { return Ok(None) };
        if before.lease != 0 {
            self.leased.remove((before.lease, key.as_str()))?;
        }
        self.entries.remove(key.as_str())?;
        self.write_down(key, None, Some(&before), at, place)?;
        Ok(Some(Change::Deleted(key.clone())))
    }

    fn held(&self, key: &Key) -> Result<Option<Held>, Trouble> {
        Ok(self.entries.get(key.as_str())?.map(|row| Held::of(row.value())))
    }

    fn write_down(
        &mut self,
        key: &Key,
        after: Option<&Held>,
        before: Option<&Held>,
        at: u64,
        place: usize,
    ) -> Result<(), Trouble> {
        let place = u32::try_from(place).map_err(|_| Trouble::ValueTooLarge(place))?;
        let (after, before) = (after.map(Held::row), before.map(Held::row));
        self.bytes += bytes(key.as_str(), after, before);
        self.log.insert((at, place), (key.as_str(), after, before, self.bytes))?;
        Ok(())
    }
}
