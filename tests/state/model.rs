//! Random programs, and a model of a few lines that must agree with the engine step by step: a map for each revision.

use std::collections::BTreeMap;
use std::time::Duration;

use docklet::Error;
use docklet::state::{Change, Lease, Notice, Query, Revision, Scope, Transaction};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::contract::{Note, key, note, soon};
use crate::stage::Stage;

const KEYS: [&str; 6] = ["a", "a/b", "a/b/c", "ab", "b", "b/a"];
const PROGRAMS: usize = 24;

/// One step. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Commit { checks: Vec<(usize, Guess)>, writes: Vec<(usize, Put)> },
    Grant,
    End(usize),
    List { scope: usize, at: Option<usize>, limit: usize },
    Compact(usize),
}

/// What a check is about: what is so, or some revision that may be wrong.
#[derive(Debug, Clone, Copy)]
enum Guess {
    Absent,
    Modified,
    Created,
    Some(usize),
}

#[derive(Debug, Clone, Copy)]
enum Put {
    Plain,
    Leased(usize),
    Delete,
}

fn step() -> impl Strategy<Value = Step> {
    let guess = prop_oneof![
        Just(Guess::Absent),
        Just(Guess::Modified),
        Just(Guess::Created),
        any::<usize>().prop_map(Guess::Some)
    ];
    let put =
        prop_oneof![3 => Just(Put::Plain), 1 => any::<usize>().prop_map(Put::Leased), 2 => Just(Put::Delete)];
    let commit = (vec((0..KEYS.len(), guess), 0..2), vec((0..KEYS.len(), put), 0..4));
    let list = (0..KEYS.len() + 2, proptest::option::of(any::<usize>()), 1..4_usize);
    prop_oneof![
        8 => commit.prop_map(|(checks, writes)| Step::Commit { checks, writes }),
        1 => Just(Step::Grant),
        1 => any::<usize>().prop_map(Step::End),
        3 => list.prop_map(|(scope, at, limit)| Step::List { scope, at, limit }),
        1 => any::<usize>().prop_map(Step::Compact),
    ]
}

/// What is under a key.
#[derive(Debug, Clone, PartialEq)]
struct Held {
    text: String,
    created: Revision,
    modified: Revision,
    lease: Option<u64>,
}

type State = BTreeMap<&'static str, Held>;

/// The state after each revision that is remembered.
struct Model {
    history: BTreeMap<Revision, State>,
    compacted: Revision,
    /// Every change since the beginning: revision, and each key with its text.
    log: Vec<(Revision, BTreeMap<&'static str, Option<String>>)>,
}

impl Model {
    fn now(&self) -> (Revision, &State) {
        let (revision, state) = self.history.last_key_value().expect("a state");
        (*revision, state)
    }

    fn change(&mut self, revision: Revision, state: State) {
        let before = self.now().1;
        let names = before.keys().chain(state.keys());
        let changed = names.filter(|name| before.get(*name) != state.get(*name));
        let changes = changed.map(|name| (*name, state.get(name).map(|held| held.text.clone()))).collect();
        self.log.push((revision, changes));
        self.history.insert(revision, state);
    }

    /// A revision that is remembered, chosen by a number.
    fn some(&self, number: usize) -> Revision {
        *self.history.keys().nth(number % self.history.len()).expect("one")
    }
}

struct Run<S> {
    stage: S,
    model: Model,
    leases: Vec<Lease>,
    count: usize,
}

impl<S: Stage> Run<S> {
    async fn step(&mut self, step: Step) {
        self.count += 1;
        match step {
            Step::Commit { checks, writes } => self.commit(&checks, &writes).await,
            Step::Grant => {
                let lease = self.stage.store().lease(Duration::from_secs(600)).await.expect("lease");
                self.leases.push(lease);
            }
            Step::End(number) if !self.leases.is_empty() => {
                let lease = self.leases.swap_remove(number % self.leases.len());
                let id = lease.id().0;
                lease.end().await.expect("end");
                let mut state = self.model.now().1.clone();
                state.retain(|_, held| held.lease != Some(id));
                if state.len() < self.model.now().1.len() {
                    let revision = self.stage.store().revision().await.expect("revision");
                    assert!(revision > self.model.now().0);
                    self.model.change(revision, state);
                }
            }
            Step::End(_) => {}
            Step::List { scope, at, limit } => self.list(scope, at, limit).await,
            Step::Compact(number) => {
                let revision = self.model.some(number);
                self.stage.store().compact(revision).await.expect("compact");
                self.model.compacted = self.model.compacted.max(revision);
            }
        }
    }

    async fn commit(&mut self, checks: &[(usize, Guess)], writes: &[(usize, Put)]) {
        let (now, state) = self.model.now();
        let (mut transaction, mut holds) = (Transaction::new(), true);
        for &(index, guess) in checks {
            let (name, held) = (key(KEYS[index]), state.get(KEYS[index]));
            let some = Revision(1 << 40);
            transaction = match guess {
                Guess::Absent => transaction.if_absent(&name),
                Guess::Modified => transaction.if_modified_at(&name, held.map_or(some, |held| held.modified)),
                Guess::Created => transaction.if_created_at(&name, held.map_or(some, |held| held.created)),
                Guess::Some(number) => transaction.if_modified_at(&name, self.model.some(number)),
            };
            holds &= match guess {
                Guess::Absent => held.is_none(),
                Guess::Modified | Guess::Created => held.is_some(),
                Guess::Some(number) => held.is_some_and(|held| held.modified == self.model.some(number)),
            };
        }
        let mut after = state.clone();
        let writes: BTreeMap<usize, Put> = writes.iter().copied().collect();
        for (&index, &put) in &writes {
            let (name, text) = (KEYS[index], format!("{}.{index}", self.count));
            let lease = match put {
                Put::Delete => {
                    transaction = transaction.delete(&key(name));
                    after.remove(name);
                    continue;
                }
                Put::Leased(number) if !self.leases.is_empty() => {
                    Some(self.leases[number % self.leases.len()].id())
                }
                Put::Plain | Put::Leased(_) => None,
            };
            transaction = match lease {
                Some(lease) => transaction.put_leased(&key(name), &note(&text), lease).expect("put"),
                None => transaction.put(&key(name), &note(&text)).expect("put"),
            };
            let created = state.get(name).map_or(Revision(0), |held| held.created);
            after.insert(
                name,
                Held { text, created, modified: Revision(0), lease: lease.map(|lease| lease.0) },
            );
        }
        match self.stage.store().commit(transaction).await {
            Err(Error::Conflict { .. }) => assert!(!holds, "refused, though all checks hold"),
            Err(error) => panic!("{error}"),
            Ok(revision) => {
                assert!(holds, "committed, though a check does not hold");
                if after == *state {
                    return; // Only what was not there was deleted.
                }
                assert!(revision > now);
                for held in after.values_mut() {
                    for empty in [&mut held.created, &mut held.modified] {
                        *empty = if empty.0 == 0 { revision } else { *empty };
                    }
                }
                self.model.change(revision, after);
            }
        }
    }

    async fn list(&self, scope: usize, at: Option<usize>, limit: usize) {
        let scope = match scope {
            0 => Scope::All,
            1 => Scope::Beneath(key("a")),
            index => Scope::One(key(KEYS[index - 2])),
        };
        let at = at.map(|number| self.model.some(number));
        let (mut found, mut query) = (State::new(), Query { limit, at, ..Query::new(scope.clone()) });
        loop {
            let page = match self.stage.store().page(query.clone()).await {
                Err(Error::Conflict { .. }) => {
                    let compacted = self.model.compacted;
                    assert!(at.is_some_and(|at| at < compacted), "{at:?} is not before {compacted}");
                    return;
                }
                page => page.expect("page"),
            };
            assert!(page.entries.len() <= limit && (!page.more || page.entries.len() == limit));
            query.at = Some(page.revision);
            query.after = page.entries.last().map(|entry| entry.key.clone()).or(query.after);
            for entry in page.entries {
                let entry = entry.decode::<Note>().expect("note");
                let name = KEYS.into_iter().find(|name| *name == entry.key.as_str()).expect("a key of ours");
                let (created, modified, lease) =
                    (entry.created, entry.modified, entry.lease.map(|lease| lease.0));
                found.insert(name, Held { text: entry.value.text, created, modified, lease });
            }
            if !page.more {
                break;
            }
        }
        assert!(at.is_none_or(|at| at >= self.model.compacted), "what was compacted is not read");
        let state = at.map_or_else(|| self.model.now().1, |at| &self.model.history[&at]);
        let expected = state.iter().filter(|(name, _)| scope.holds(&key(**name)));
        assert_eq!(found, expected.map(|(name, held)| (*name, held.clone())).collect());
    }

    /// A watch from the first revision that is not compacted tells the log.
    async fn watch(&self) {
        let from = self.model.compacted.next();
        let mut watch = self.stage.store().watch_from(Scope::All, from);
        for (revision, changes) in self.model.log.iter().filter(|(revision, _)| *revision >= from) {
            let batch = loop {
                match soon("a change", watch.next()).await.expect("watch") {
                    Notice::Changed(batch) => break batch,
                    Notice::Interrupted { .. } | Notice::Resumed => {}
                    other => panic!("unexpected: {other:?}"),
                }
            };
            assert_eq!(batch.revision, *revision);
            let told: BTreeMap<_, _> = batch
                .changes
                .iter()
                .map(|change| match change {
                    Change::Put(entry) => {
                        let text = entry.value.decode::<Note>(&entry.key).expect("note").text;
                        (entry.key.as_str(), Some(text))
                    }
                    other => (other.key().as_str(), None),
                })
                .collect();
            assert_eq!(told.len(), batch.changes.len(), "each key once");
            assert_eq!(told, changes.iter().map(|(name, text)| (*name, text.clone())).collect());
        }
    }
}

pub(crate) async fn agrees_with_the_model<S: Stage>(stage: S) {
    drop(stage);
    let mut runner = TestRunner::deterministic();
    for _ in 0..PROGRAMS {
        let program = vec(step(), 1..50).new_tree(&mut runner).expect("a program").current();
        let stage = S::begin().await;
        let revision = stage.store().revision().await.expect("revision");
        let history = BTreeMap::from([(revision, State::new())]);
        let model = Model { history, compacted: Revision(0), log: Vec::new() };
        let mut run = Run { stage, model, leases: Vec::new(), count: 0 };
        for step in program {
            run.step(step).await;
        }
        run.watch().await;
    }
}
