//! Concurrent clients, random operations, faults: and one order that explains what all of them saw.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use docklet::Error;
use docklet::state::{Change, ClusterStore, Fault, Notice, Query, Revision, Scope, Transaction};
use futures_util::future::join_all;
use proptest::prelude::{Rng, RngExt};
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::contract::{Note, beneath, key, note, soon};
use crate::history::{Call, Log, Saw, Wanted, check};
use crate::stage::Stage;

/// Fewer keys, more trouble.
const KEYS: u64 = 5;
const CLIENTS: u64 = 8;

/// How many operations a run has: a sample, unless `DOCKLET_STATE_OPERATIONS` says otherwise.
pub(crate) fn operations() -> u64 {
    let asked = std::env::var("DOCKLET_STATE_OPERATIONS").ok();
    asked.map_or(4_000, |text| text.parse().expect("DOCKLET_STATE_OPERATIONS is a number"))
}

/// What the clients share.
pub(crate) struct Course {
    clock: AtomicU64,
    left: AtomicU64,
}

impl Course {
    /// Waits until so many more operations were begun. False once there are no more.
    pub(crate) async fn goes_on(&self, count: u64) -> bool {
        let end = self.left.load(Ordering::SeqCst).saturating_sub(count);
        loop {
            match self.left.load(Ordering::SeqCst) {
                0 => return false,
                left if left <= end => return true,
                _ => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

struct Client<'a> {
    number: u64,
    store: ClusterStore,
    random: TestRng,
    course: &'a Course,
    /// What it saw last: key → revision of the write.
    known: BTreeMap<String, u64>,
    calls: Vec<Call>,
}

impl Client<'_> {
    fn below(&mut self, end: u64) -> u64 {
        self.random.random_range(0..end)
    }

    fn tick(&self) -> u64 {
        self.course.clock.fetch_add(1, Ordering::SeqCst)
    }

    async fn run(mut self) -> Vec<Call> {
        let mut count = 0;
        while self
            .course
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok()
        {
            count += 1;
            if self.below(3) == 0 { self.read().await } else { self.write(count).await }
        }
        self.calls
    }

    async fn read(&mut self) {
        let begin = self.tick();
        let page = self.store.page(Query::new(beneath("k"))).await;
        let end = self.tick();
        let page = match page {
            Ok(page) => page.decode::<Note>().expect("notes"),
            Err(Error::Unavailable { .. }) => return,
            Err(error) => panic!("{error}"),
        };
        let of = |entry: &docklet::state::Entry<Note>| (entry.key.to_string(), entry.modified.0);
        self.known = page.entries.iter().map(of).collect();
        let found = page.entries.into_iter().map(|entry| (entry.key.to_string(), entry.value.text)).collect();
        self.calls.push(Call { begin, end, saw: Saw::Read { revision: page.revision.0, found } });
    }

    async fn write(&mut self, count: u64) {
        let mut wanted = Wanted::default();
        for _ in 0..self.below(3) {
            let name = format!("k/{}", self.below(KEYS));
            let at = self.known.get(&name).copied();
            if wanted.checks.iter().all(|(other, _)| *other != name) {
                wanted.checks.push((name, at));
            }
        }
        for _ in 0..=self.below(2) {
            let text = (self.below(4) > 0).then(|| format!("{}.{count}", self.number));
            wanted.writes.insert(format!("k/{}", self.below(KEYS)), text);
        }
        let checks = wanted.checks.iter().fold(Transaction::new(), |all, (name, at)| match at {
            None => all.if_absent(&key(name)),
            Some(at) => all.if_modified_at(&key(name), Revision(*at)),
        });
        let all = wanted.writes.iter().fold(checks, |all, (name, text)| match text {
            None => all.delete(&key(name)),
            Some(text) => all.put(&key(name), &note(text)).expect("put"),
        });
        let begin = self.tick();
        let result = self.store.commit(all).await;
        let end = self.tick();
        let saw = match result {
            Ok(revision) => Saw::Committed { revision: revision.0, wanted },
            Err(Error::Conflict { .. }) => Saw::Refused { wanted },
            Err(Error::OutcomeUnknown { .. }) => Saw::Unknown { wanted },
            Err(Error::Unavailable { .. }) => Saw::NotDone,
            Err(error) => panic!("{error}"),
        };
        self.calls.push(Call { begin, end, saw });
    }
}

/// Everything that is told of the keys from `from` on, until the mark is deleted.
async fn follow(store: ClusterStore, from: Revision) -> Log {
    let mut watch = store.watch_from(Scope::All, from);
    let mut log = Log::new();
    loop {
        let batch = match soon("a change", watch.next()).await.expect("watch") {
            Notice::Changed(batch) => batch,
            Notice::Interrupted { .. } | Notice::Resumed => continue,
            other => panic!("unexpected: {other:?}"),
        };
        let mut changes = BTreeMap::new();
        for change in &batch.changes {
            let text = match change {
                Change::Put(entry) => Some(entry.value.decode::<Note>(&entry.key).expect("note").text),
                Change::Deleted(name) if name.as_str() == "end" => return log,
                Change::Deleted(_) => None,
                other => panic!("unexpected: {other:?}"),
            };
            if change.key().as_str() != "end" {
                changes.insert(change.key().to_string(), text);
            }
        }
        if !changes.is_empty() {
            assert!(log.insert(batch.revision.0, changes).is_none(), "{} is told twice", batch.revision);
        }
    }
}

/// Runs the clients, each on a handle of `another` through a way of its own that is bad, and beside them `meanwhile`, which may do
/// harm until the course is over; then checks.
pub(crate) async fn run(another: impl AsyncFn() -> ClusterStore, meanwhile: impl AsyncFnOnce(&Course)) {
    let store = another().await;
    let from = store.revision().await.expect("revision").next();
    let course = Course { clock: AtomicU64::new(0), left: AtomicU64::new(operations()) };
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let seed = [u8::try_from(number).expect("few"); 32];
        let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let (store, faults) = another().await.with_faults();
        let mut chance = random.clone();
        faults.plan(move |_| match chance.random_range(0..100) {
            0 => Some(Fault::Refused),
            1 => Some(Fault::AnswerLost),
            2 => Some(Fault::RequestLost),
            3 => Some(Fault::DoneLater(Duration::from_millis(chance.random_range(0..50)))),
            4..7 => Some(Fault::Late(Duration::from_micros(chance.random_range(0..3_000)))),
            _ => None,
        });
        let _ = random.next_u64();
        let known = BTreeMap::new();
        clients.push(Client { number, store, random, course: &course, known, calls: Vec::new() });
    }
    let work = async {
        let (calls, ()) =
            futures_util::future::join(join_all(clients.into_iter().map(Client::run)), meanwhile(&course))
                .await;
        // What may yet be done is done before the end is told, or never.
        loop {
            match store.put(&key("end"), &note("")).await.and(store.delete(&key("end")).await) {
                Ok(_) => return calls.concat(),
                Err(Error::Unavailable { .. } | Error::OutcomeUnknown { .. }) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    let (calls, log) = futures_util::future::join(work, follow(another().await, from)).await;
    let count = |is: fn(&Saw) -> bool| calls.iter().filter(|call| is(&call.saw)).count();
    assert!(count(|saw| matches!(saw, Saw::Refused { .. })) > 0, "clients got into each other's way");
    assert!(count(|saw| matches!(saw, Saw::Unknown { .. })) > 0, "answers were lost");
    check(&calls, &log)
        .unwrap_or_else(|reason| panic!("{} calls, {} revisions: {reason}", calls.len(), log.len()));
}

pub(crate) async fn one_order_explains_everything<S: Stage>(stage: S) {
    run(async || stage.another().await, async |_| {}).await;
}
