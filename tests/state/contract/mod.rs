//! What every engine promises. A test is written once, here, and runs for each of them.

pub(crate) mod exports;
pub(crate) mod leases;
pub(crate) mod locks;
pub(crate) mod pages;
pub(crate) mod transactions;
pub(crate) mod values;
pub(crate) mod watches;

use std::time::Duration;

use docklet::state::{Batch, Change, Key, Notice, Record, Scope, Watch};
use serde::{Deserialize, Serialize};

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What the tests keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    pub(crate) text: String,
}

impl Record for Note {
    const KIND: &'static str = "note";
}

pub(crate) fn note(text: impl Into<String>) -> Note {
    Note { text: text.into() }
}

pub(crate) fn key(text: impl Into<String>) -> Key {
    Key::new(text).expect("key")
}

pub(crate) fn beneath(text: &str) -> Scope {
    Scope::beneath(text).expect("scope")
}

/// Ends a test that hangs, with what it waited for.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited for: {what}"))
}

/// The next batch; interruptions are passed over.
pub(crate) async fn batch(watch: &mut Watch) -> Batch {
    loop {
        match soon("a change", watch.next()).await.expect("watch") {
            Notice::Changed(batch) => return batch,
            Notice::Interrupted { .. } | Notice::Resumed => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
}

/// A batch, told shortly: `a=text` and `-a`.
pub(crate) fn told(batch: &Batch) -> Vec<String> {
    let tell = |change: &Change| match change {
        Change::Put(entry) => {
            let note: Note = entry.value.decode(&entry.key).expect("note");
            format!("{}={}", entry.key, note.text)
        }
        Change::Deleted(key) => format!("-{key}"),
        other => panic!("unexpected: {other:?}"),
    };
    batch.changes.iter().map(tell).collect()
}
