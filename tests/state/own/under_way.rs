//! What goes on at the same time: orders that nobody waits for any more, and forgetting, while others read and watch.

use std::collections::BTreeMap;
use std::pin::pin;

use docklet::Error;
use docklet::state::{Change, ClusterStore, EmbeddedSpec, Notice, Query, Revision, Scope};
use futures_util::poll;

use crate::contract::{Note, key, note, soon};
use crate::stage::{Scratch, cluster};

/// A put that is dropped while it waits is done or not done, and nothing else suffers.
#[tokio::test]
async fn an_order_dropped_at_any_point_is_done_whole_or_not_at_all() {
    let scratch = Scratch::new();
    let spec = EmbeddedSpec::new(scratch.path().join("store"), cluster());
    let store = ClusterStore::embedded(&spec).await.expect("open");
    let mut last = String::new();
    for round in 0..60_u32 {
        let value = note(round.to_string());
        {
            let (put, dropped) = (key("k"), key("other"));
            let mut put = pin!(store.put(&put, &value));
            let mut other = pin!(store.put(&dropped, &value));
            for _ in 0..round % 4 {
                if poll!(&mut put).is_ready() || poll!(&mut other).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        // It waits behind what was ordered before.
        store.put(&key("end"), &value).await.expect("put");
        let found = store.get::<Note>(&key("k")).await.expect("get");
        let found = found.map_or(String::new(), |entry| entry.value.text);
        assert!(found == last || found == value.text, "round {round}: {found}");
        assert!(round % 4 != 0 || found == last, "round {round}: it was never begun");
        last = found;
    }
    assert_ne!(last, "");
}

/// Applies what is told to what is known.
fn learn(known: &mut BTreeMap<String, String>, notice: Notice) -> Option<Revision> {
    let text = |entry: &docklet::state::Entry| entry.value.decode::<Note>(&entry.key).expect("note").text;
    match notice {
        Notice::Changed(batch) => {
            for change in batch.changes {
                match change {
                    Change::Put(entry) => known.insert(entry.key.to_string(), text(&entry)),
                    Change::Deleted(key) => known.remove(key.as_str()),
                    other => panic!("unexpected: {other:?}"),
                };
            }
            Some(batch.revision)
        }
        Notice::Relisted { revision, entries } => {
            *known = entries.iter().map(|entry| (entry.key.to_string(), text(entry))).collect();
            Some(revision)
        }
        _ => None,
    }
}

/// The history is kept short by itself, while pages of older revisions are read and slow watches look on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgetting_disturbs_neither_pages_nor_watches() {
    let scratch = Scratch::new();
    let spec = EmbeddedSpec { history_max: 20, ..EmbeddedSpec::new(scratch.path().join("store"), cluster()) };
    let store = ClusterStore::embedded(&spec).await.expect("open");
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for count in 0..100 {
                    let key = key(format!("k/{writer}/{}", count % 3));
                    match count % 7 {
                        6 => store.delete(&key).await.expect("delete"),
                        _ => store.put(&key, &note(count.to_string())).await.expect("put"),
                    };
                }
            })
        })
        .collect();
    let reader = tokio::spawn({
        let store = store.clone();
        async move {
            let mut behind = 0;
            for _ in 0..100 {
                let first = store.page(Query { limit: 5, ..Query::new(Scope::All) }).await.expect("page");
                let Some(last) = first.entries.last() else { continue };
                tokio::task::yield_now().await;
                let rest = Query {
                    after: Some(last.key.clone()),
                    at: Some(first.revision),
                    ..Query::new(Scope::All)
                };
                match store.page(rest).await {
                    Ok(page) => assert!(page.entries.iter().all(|entry| entry.modified <= first.revision)),
                    Err(Error::Conflict { .. }) => behind += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            behind
        }
    });
    let mut watch = store.watch_from(Scope::All, Revision(1));
    let (mut known, mut seen) = (BTreeMap::new(), Revision(1));
    for writer in writers {
        writer.await.expect("writer");
        // A slow one: it looks up only now and then.
        if seen >= store.revision().await.expect("revision") {
            continue;
        }
        seen = learn(&mut known, soon("a notice", watch.next()).await.expect("watch")).unwrap_or(seen);
    }
    reader.await.expect("reader");
    let last = store.revision().await.expect("revision");
    while seen < last {
        let told = learn(&mut known, soon("a notice", watch.next()).await.expect("watch"));
        assert!(told.is_none_or(|told| told > seen));
        seen = told.unwrap_or(seen);
    }
    let listed = store.list::<Note>(&Scope::All).await.expect("list");
    let listed: BTreeMap<_, _> =
        listed.entries.into_iter().map(|entry| (entry.key.to_string(), entry.value.text)).collect();
    assert_eq!(known, listed);
    let early = store.page(Query { at: Some(Revision(2)), ..Query::new(Scope::All) }).await;
    assert!(matches!(early, Err(Error::Conflict { .. })), "the history was not kept short");
}

/// Large values over and over do not let the file grow without a bound, though there are few revisions.
#[tokio::test]
async fn the_history_is_bounded_in_bytes() {
    const MOST: u64 = 1 << 20;
    let scratch = Scratch::new();
    let path = scratch.path().join("store");
    let spec = EmbeddedSpec { history_bytes_max: MOST, ..EmbeddedSpec::new(&path, cluster()) };
    let store = ClusterStore::embedded(&spec).await.expect("open");
    let mut sizes = Vec::new();
    for round in 0..10 {
        for count in 0..40 {
            let text = format!("{round} {count} {}", "x".repeat(50 << 10));
            store.put(&key("large"), &note(text)).await.expect("put");
        }
        sizes.push(std::fs::metadata(&path).expect("metadata").len());
    }
    assert_eq!(sizes[9], sizes[3], "it has stopped growing: {sizes:?}");
    // What is older than the history is told as it is behind a compaction, and what is not is there.
    let early = store.page(Query { at: Some(Revision(2)), ..Query::new(Scope::All) }).await;
    assert!(matches!(early, Err(Error::Conflict { .. })), "{early:?}");
    let notice = soon("a notice", store.watch_from(Scope::All, Revision(2)).next()).await.expect("watch");
    assert!(matches!(notice, Notice::Relisted { .. }), "it was compacted away");
    let now = store.revision().await.expect("revision");
    let recent = Query { at: Some(Revision(now.0 - 3)), ..Query::new(Scope::All) };
    assert_eq!(store.page(recent).await.expect("page").entries.len(), 1);
}
