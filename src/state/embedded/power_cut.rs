//! Power cuts, simulated beneath redb's `StorageBackend`: a disk that keeps what was synced, and of the rest all, nothing, a part, or
//! a part of the last write (`man 2 fdatasync`).

use std::collections::BTreeMap;
use std::io::{Error as IoError, ErrorKind, Result as IoResult};
use std::sync::{Arc, Mutex, mpsc};

use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};
use redb::{Builder, Database, DatabaseError, ReadTransaction, ReadableTable, StorageBackend};
use tokio::sync::oneshot;

use super::super::key::Key;
use super::super::lease::LeaseId;
use super::super::record::Stored;
use super::super::revision::Revision;
use super::super::transaction::{Transaction, Write};
use super::owner::{History, Owner};
use super::request::{Fate, Order};
use super::shared::Shared;
use super::table::{COMPACTED, ENTRIES, Held, LEASED, LEASES, LOG, NUMBERS, number};
use super::{EmbeddedSpec, open};

/// What a disk was told, in order.
#[derive(Debug, Clone)]
enum Told {
    Write(usize, Vec<u8>),
    SetLength(usize),
    Sync,
    /// The caller was: this many groups of orders are done.
    Done(usize),
}

#[derive(Debug, Default)]
struct Disk {
    content: Vec<u8>,
    /// What was synced.
    kept: Vec<u8>,
    told: Vec<Told>,
    /// How many writes and syncs go well before one fails.
    well: Option<usize>,
    fault: Option<ErrorKind>,
}

impl Disk {
    fn tell(&mut self, told: Told) -> IoResult<()> {
        match (&mut self.well, self.fault) {
            (Some(0), Some(fault)) => {
                if matches!(told, Told::Sync) {
                    // What could not be written is forgotten: memory has it, as if it were on the disk, until it is read anew.
                    self.content.clone_from(&self.kept);
                }
                return Err(fault.into());
            }
            (Some(well), _) => *well -= 1,
            _ => {}
        }
        apply(&mut self.content, &told);
        if matches!(told, Told::Sync) {
            self.kept.clone_from(&self.content);
        }
        self.told.push(told);
        Ok(())
    }
}

fn apply(content: &mut Vec<u8>, told: &Told) {
    match told {
        Told::Write(at, data) => {
            let end = at + data.len();
            // What is written behind the end, while the new length is lost, makes the file longer.
            content.resize(content.len().max(end), 0);
            content[*at..end].copy_from_slice(data);
        }
        Told::SetLength(length) => content.resize(*length, 0),
        Told::Sync | Told::Done(_) => {}
    }
}

#[derive(Debug, Clone, Default)]
struct Backend(Arc<Mutex<Disk>>);

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

impl StorageBackend for Backend {
    fn len(&self) -> IoResult<u64> {
        Ok(self.0.lock().unwrap().content.len().try_into().unwrap())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> IoResult<()> {
        let disk = self.0.lock().unwrap();
        let found = disk.content.get(size(offset)..size(offset) + out.len());
        out.copy_from_slice(found.ok_or_else(|| IoError::from(ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> IoResult<()> {
        self.0.lock().unwrap().tell(Told::SetLength(size(len)))
    }

    fn sync_data(&self) -> IoResult<()> {
        self.0.lock().unwrap().tell(Told::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> IoResult<()> {
        self.0.lock().unwrap().tell(Told::Write(size(offset), data.to_vec()))
    }
}

/// A line of the log: where it stands, the key, what it holds after and before.
type Line = ((u64, u32), String, Option<Held>, Option<Held>);

/// All that a file holds.
#[derive(Debug, Clone, PartialEq, Default)]
struct Dump {
    entries: BTreeMap<String, Held>,
    log: Vec<Line>,
    leases: BTreeMap<u64, u64>,
    leased: Vec<(u64, String)>,
    compacted: u64,
}

impl Dump {
    fn of(transaction: &ReadTransaction) -> Self {
        let mut dump = Self::default();
        for line in transaction.open_table(ENTRIES).unwrap().iter().unwrap() {
            let (key, row) = line.unwrap();
            dump.entries.insert(key.value().into(), Held::of(row.value()));
        }
        for line in transaction.open_table(LOG).unwrap().iter().unwrap() {
            let (at, step) = line.unwrap();
            let (key, after, before, _) = step.value();
            dump.log.push((at.value(), key.into(), after.map(Held::of), before.map(Held::of)));
        }
        for line in transaction.open_table(LEASES).unwrap().iter().unwrap() {
            let (id, seconds) = line.unwrap();
            dump.leases.insert(id.value(), seconds.value());
        }
        for line in transaction.open_table(LEASED).unwrap().iter().unwrap() {
            let (at, _) = line.unwrap();
            let (lease, key) = at.value();
            dump.leased.push((lease, key.into()));
        }
        dump.compacted = number(&transaction.open_table(NUMBERS).unwrap(), COMPACTED).unwrap();
        dump
    }

    /// What the tables say of each other holds.
    fn assert_sound(&self) {
        let hanging = self.entries.iter().filter(|(_, held)| held.lease != 0);
        let mut hanging: Vec<_> = hanging.map(|(key, held)| (held.lease, key.clone())).collect();
        hanging.sort();
        assert_eq!(hanging, self.leased);
        assert!(hanging.iter().all(|(lease, _)| self.leases.contains_key(lease)));
        let revision = self.log.last().map_or(1, |line| line.0.0);
        assert!(self.entries.values().all(|held| held.modified <= revision && held.created <= held.modified));
        let mut last: BTreeMap<&String, &Option<Held>> = BTreeMap::new();
        for (_, key, after, before) in &self.log {
            if let Some(known) = last.insert(key, after) {
                assert_eq!(known, before, "the log has a gap at {key}");
            }
        }
        for (key, after) in last {
            assert_eq!(self.entries.get(key), after.as_ref(), "the log and the entries of {key}");
        }
    }
}

fn spec() -> EmbeddedSpec {
    EmbeddedSpec::new("/simulated", "c1".parse().unwrap())
}

fn database(backend: &Backend) -> Result<Database, DatabaseError> {
    Builder::new().set_cache_size(1 << 20).create_with_backend(backend.clone())
}

/// Makes a store, as one is made before it has a name.
fn new_store() -> Backend {
    let backend = Backend::default();
    let database = database(&backend).unwrap();
    open::prepare(&database, &spec()).unwrap();
    database.close().unwrap();
    backend
}

fn open_on(backend: Backend) -> Owner {
    let opened = open::begin(&spec(), Box::new(move || database(&backend))).unwrap();
    Owner::new(opened, mpsc::channel().1, History { revisions: 10_000, bytes: 1 << 20 })
}

fn dump(shared: &Shared) -> Dump {
    Dump::of(&shared.begin_read().unwrap())
}

fn order(chance: &mut TestRng, revision: u64) -> Order {
    let key = |chance: &mut TestRng| Key::new(format!("key/{}", chance.random_range(0..8))).unwrap();
    let lease = LeaseId(chance.random_range(1..6));
    match chance.random_range(0..20) {
        0..2 => Order::Grant(60, oneshot::channel().0),
        2 => Order::Revoke(lease, oneshot::channel().0),
        3 => Order::Compact(Revision(chance.random_range(1..=revision)), oneshot::channel().0),
        _ => {
            let mut writes: BTreeMap<Key, Write> = BTreeMap::new();
            for _ in 0..chance.random_range(1..5) {
                let key = key(chance);
                let length = [10, 300, 5_000, 40_000][chance.random_range(0..4)];
                let value = Stored::from_bytes(vec![chance.random(); length]);
                let write = match chance.random_range(0..6) {
                    0 => Write::Delete { key: key.clone() },
                    1 => Write::Put { key: key.clone(), value, lease: Some(lease) },
                    _ => Write::Put { key: key.clone(), value, lease: None },
                };
                writes.insert(key, write);
            }
            let transaction = writes.into_values().fold(Transaction::new(), Transaction::write);
            Order::Commit(transaction, oneshot::channel().0)
        }
    }
}

/// Runs groups of orders. What the disk was told, and what the file held after each.
fn run(seed: [u8; 32], groups: usize) -> (Vec<Told>, Vec<Dump>) {
    let mut chance = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let backend = new_store();
    let mut owner = open_on(backend.clone());
    let mut dumps = Vec::new();
    let mut revision = 1;
    for count in 0..=groups {
        if count > 0 {
            let orders: Vec<_> =
                (0..chance.random_range(1..4)).map(|_| order(&mut chance, revision)).collect();
            let written = owner.write(&orders, &[]).unwrap();
            assert!(
                written
                    .fates
                    .iter()
                    .all(|fate| !matches!(fate, Fate::Refused(error) if error.errno().is_some()))
            );
            revision = written.batches.last().map_or(revision, |batch| batch.revision.0);
        }
        backend.0.lock().unwrap().told.push(Told::Done(count));
        dumps.push(dump(&owner.shared));
        dumps[count].assert_sound();
    }
    let told = backend.0.lock().unwrap().told.clone();
    (told, dumps)
}

/// What the disk keeps of what was not synced.
#[derive(Debug, Clone, Copy)]
enum Kept {
    Nothing,
    All,
    Some,
    /// All, and a part of the last.
    Torn,
}

/// The disk after a power cut that came before `told[cut]`.
fn after_cut(told: &[Told], cut: usize, kept: Kept, chance: &mut TestRng) -> Vec<u8> {
    let synced = told[..cut].iter().rposition(|told| matches!(told, Told::Sync)).map_or(0, |at| at + 1);
    let mut content = Vec::new();
    told[..synced].iter().for_each(|told| apply(&mut content, told));
    let loose = &told[synced..cut];
    let last = loose.iter().rposition(|told| matches!(told, Told::Write(..)));
    for (index, told) in loose.iter().enumerate() {
        match (kept, told) {
            (Kept::Nothing, _) => {}
            (Kept::Some, _) if chance.random() => {}
            (Kept::Torn, Told::Write(at, data)) if Some(index) == last => {
                let length = chance.random_range(0..data.len());
                apply(&mut content, &Told::Write(*at, data[..length].to_vec()));
            }
            (_, told) => apply(&mut content, told),
        }
    }
    content
}

/// At every write and every sync, what was acknowledged is there afterwards, what was not is there whole or not at all, and the store
/// goes on.
#[test]
fn a_power_cut_at_any_write_loses_nothing_acknowledged() {
    let seed = [7; 32];
    let (told, dumps) = run(seed, 30);
    let mut chance = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut done = 0;
    let mut cuts = 0;
    // Before, it has no name yet.
    let made = told.iter().position(|told| matches!(told, Told::Done(0))).unwrap();
    for cut in made..=told.len() {
        if let Some(Told::Done(count)) = cut.checked_sub(1).map(|last| &told[last]) {
            done = *count;
        }
        for kept in [Kept::Nothing, Kept::All, Kept::Some, Kept::Torn] {
            let content = after_cut(&told, cut, kept, &mut chance);
            let disk = Disk { content, ..Disk::default() };
            let mut owner = open_on(Backend(Arc::new(Mutex::new(disk))));
            let found = dump(&owner.shared);
            found.assert_sound();
            let possible = &dumps[done..dumps.len().min(done + 2)];
            assert!(possible.contains(&found), "cut {cut} ({:?}), {kept:?} kept", told.get(cut));
            let orders = [order(&mut chance, 1)];
            owner.write(&orders, &[]).unwrap();
            dump(&owner.shared).assert_sound();
            cuts += 1;
        }
    }
    assert!(cuts > 500, "{cuts} cuts");
}

/// A disk that is full, or fails: nothing that was acknowledged is lost, and who was told that nothing was done is told the truth.
#[test]
fn a_write_that_fails_leaves_a_sound_store() {
    let mut chance = TestRng::from_seed(RngAlgorithm::ChaCha, &[9; 32]);
    let mut unknown = 0;
    let mut refused = 0;
    for (fault, well) in (0..30).flat_map(|well| [(ErrorKind::StorageFull, well), (ErrorKind::Other, well)]) {
        let backend = new_store();
        let mut owner = open_on(backend.clone());
        let mut before = dump(&owner.shared);
        for round in 0..12 {
            if round == 5 {
                let mut disk = backend.0.lock().unwrap();
                disk.kept = disk.content.clone();
                (disk.well, disk.fault) = (Some(well), Some(fault));
            }
            if round == 9 {
                backend.0.lock().unwrap().well = None;
            }
            if owner.is_broken() && owner.reopen().is_err() {
                assert!(round < 9, "the disk is well again");
                continue;
            }
            let revision = before.log.last().map_or(1, |line| line.0.0);
            let orders = [order(&mut chance, revision), order(&mut chance, revision)];
            let told = owner.write(&orders, &[]);
            let was_unknown = told.as_ref().is_err_and(|failure| failure.is_unknown);
            if owner.is_broken() && owner.reopen().is_err() {
                // Only later can be read what was done.
                assert!(told.is_err());
                unknown += usize::from(was_unknown);
                continue;
            }
            let found = dump(&owner.shared);
            found.assert_sound();
            match told {
                Ok(written) => {
                    let last = written.batches.last().map_or(revision, |batch| batch.revision.0);
                    assert_eq!(found.log.last().map_or(1, |line| line.0.0), last);
                }
                Err(failure) if failure.is_unknown => unknown += 1,
                Err(_) => {
                    assert_eq!(found, before, "it was told that nothing was done");
                    refused += 1;
                }
            }
            before = found;
        }
        assert!(!owner.is_broken());
    }
    assert!(refused + unknown > 20, "{refused} refused, {unknown} unknown");
}
