//! SIGKILL at any moment: what was told to be durable is there, and nothing is half there.

use std::time::Duration;

use docklet::state::{Batch, ClusterStore, Notice, Revision, Scope};
use proptest::prelude::RngExt;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::process::{Writer, spec};
use crate::contract::{Note, key, soon, told};
use crate::stage::Scratch;

/// How often it is killed.
const ROUNDS: usize = 100;

async fn number(store: &ClusterStore, name: &str) -> u64 {
    let found = store.get::<Note>(&key(name)).await.expect("get");
    found.map_or(0, |entry| entry.value.text.parse().expect("number"))
}

/// All batches that the store's log has.
async fn history(store: &ClusterStore) -> Vec<Batch> {
    let last = store.revision().await.expect("revision");
    let mut watch = store.watch_from(Scope::All, Revision(1));
    let mut batches: Vec<Batch> = Vec::new();
    while batches.last().map_or(Revision(1), |batch| batch.revision) < last {
        match soon("the history", watch.next()).await.expect("watch") {
            Notice::Changed(batch) => batches.push(batch),
            other => panic!("unexpected: {other:?}"),
        }
    }
    batches
}

#[tokio::test]
async fn nothing_that_was_told_is_lost_when_its_process_is_killed() {
    let scratch = Scratch::new();
    let mut chance = TestRng::from_seed(RngAlgorithm::ChaCha, &[3; 32]);
    let mut all_told = 0;
    for round in 0..ROUNDS {
        // Every fourth time it is killed about when it makes the file; else while it writes to what others have left.
        let path = scratch.path().join(if round % 4 == 0 { format!("new-{round}") } else { "store".into() });
        let mut writer = Writer::begin(&path);
        let mut last = 0;
        if round % 4 != 0 {
            last = writer.next().expect("a first number");
        }
        std::thread::sleep(Duration::from_micros(chance.random_range(0..30_000)));
        writer.kill();
        while let Some(number) = writer.next() {
            last = number;
            all_told += 1;
        }
        let store = ClusterStore::embedded(&spec(&path)).await.expect("open");
        let (a, b) = (number(&store, "a").await, number(&store, "b").await);
        assert_eq!(a, b, "round {round}");
        assert!(
            a == last || a == last + 1 || (last == 0 && a <= 1),
            "round {round}: {a} is there, {last} was told"
        );
        let batches = history(&store).await;
        for (count, batch) in (1..).zip(&batches) {
            assert_eq!(batch.revision.0, count + 1, "a revision is missing");
            let value = format!("={count}");
            assert!(batch.changes.len() == 3 && told(batch).iter().all(|told| told.ends_with(&value)));
        }
        assert_eq!(u64::try_from(batches.len()).expect("few"), a);
    }
    assert!(all_told > 0, "it was never killed while it wrote");
}
