//! Watches: every revision once, whole, in order; over interruptions and compactions too.

use docklet::state::{Notice, Scope, Transaction};
use futures_util::future::join_all;

use super::{Note, batch, beneath, key, note, soon, told};
use crate::stage::Stage;

pub(crate) async fn each_revision_is_told_once_and_whole<S: Stage>(stage: S) {
    let store = stage.store();
    let mut watch = store.watch(beneath("w")).await.expect("watch");
    let mut all = store.watch(Scope::All).await.expect("watch");
    let mut one = store.watch(Scope::One(key("w/b"))).await.expect("watch");
    let first = store.put(&key("w/a"), &note("1")).await.expect("put");
    store.put(&key("other"), &note("1")).await.expect("put");
    let both = Transaction::new()
        .put(&key("w/a"), &note("2"))
        .expect("put")
        .put(&key("w/b"), &note("2"))
        .expect("put");
    let second = store.commit(both.delete(&key("other"))).await.expect("commit");
    store.delete(&key("w/b")).await.expect("delete");
    store.delete(&key("w/b")).await.expect("delete");
    let batches = [batch(&mut watch).await, batch(&mut watch).await, batch(&mut watch).await];
    assert_eq!(batches.each_ref().map(told), [vec!["w/a=1"], vec!["w/a=2", "w/b=2"], vec!["-w/b"]]);
    assert_eq!((batches[0].revision, batches[1].revision), (first, second));
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(told(&batch(&mut all).await));
    }
    assert_eq!(seen[1..3], [vec!["other=1"], vec!["w/a=2", "w/b=2", "-other"]]);
    assert_eq!([told(&batch(&mut one).await), told(&batch(&mut one).await)], [["w/b=2"], ["-w/b"]]);
}

pub(crate) async fn a_watch_begins_where_it_is_asked_to<S: Stage>(stage: S) {
    let store = stage.store();
    store.put(&key("a"), &note("1")).await.expect("put");
    let listed = store.list::<Note>(&Scope::All).await.expect("list");
    store.put(&key("a"), &note("2")).await.expect("put");
    store.delete(&key("a")).await.expect("delete");
    let mut behind = store.watch_from(Scope::All, listed.revision.next());
    assert_eq!([told(&batch(&mut behind).await), told(&batch(&mut behind).await)], [["a=2"], ["-a"]]);
    let mut from = store.watch_from(Scope::All, listed.revision);
    assert_eq!(told(&batch(&mut from).await), ["a=1"]);
    // A revision that is still to come is waited for.
    let now = store.revision().await.expect("revision");
    let mut later = store.watch_from(Scope::All, now.next().next());
    store.put(&key("a"), &note("3")).await.expect("put");
    store.put(&key("a"), &note("4")).await.expect("put");
    assert_eq!(told(&batch(&mut later).await), ["a=4"]);
}

pub(crate) async fn behind_a_compaction_everything_is_told_anew<S: Stage>(stage: S) {
    let store = stage.store();
    let first = store.put(&key("w/gone"), &note("1")).await.expect("put");
    store.put(&key("w/a"), &note("1")).await.expect("put");
    store.delete(&key("w/gone")).await.expect("delete");
    let last = store.put(&key("w/b"), &note("1")).await.expect("put");
    store.compact(last).await.expect("compact");
    let mut watch = store.watch_from(beneath("w"), first);
    let relisted = loop {
        match soon("a listing", watch.next()).await.expect("watch") {
            Notice::Relisted { revision, entries } => break (revision, entries),
            Notice::Interrupted { .. } | Notice::Resumed => {}
            other => panic!("unexpected: {other:?}"),
        }
    };
    let keys: Vec<_> = relisted.1.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!((relisted.0, keys), (last, vec!["w/a", "w/b"]));
    store.put(&key("w/c"), &note("1")).await.expect("put");
    assert_eq!(told(&batch(&mut watch).await), ["w/c=1"], "and goes on");
}

/// Many writers, many watches, and each watch sees the same history.
pub(crate) async fn many_watches_see_one_history<S: Stage>(stage: S) {
    const WRITERS: usize = 8;
    const EACH: usize = 25;
    let store = stage.store();
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(store.watch(beneath("h")).await.expect("watch"));
    }
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = stage.another().await;
        writers.push(async move {
            for n in 0..EACH {
                store.put(&key(format!("h/{writer}")), &note(n.to_string())).await.expect("put");
            }
        });
    }
    let readers = watches.iter_mut().map(|watch| async move {
        let mut history = Vec::new();
        while history.len() < WRITERS * EACH {
            let batch = batch(watch).await;
            history.push((batch.revision, told(&batch)));
        }
        history
    });
    let (histories, _) = futures_util::future::join(join_all(readers), join_all(writers)).await;
    assert!(histories[0].is_sorted_by(|a, b| a.0 < b.0), "in order, each once");
    for writer in 0..WRITERS {
        let prefix = format!("h/{writer}=");
        let own: Vec<_> = histories[0].iter().filter_map(|(_, told)| told[0].strip_prefix(&prefix)).collect();
        assert_eq!(own, (0..EACH).map(|n| n.to_string()).collect::<Vec<_>>());
    }
    assert!(histories.iter().all(|history| *history == histories[0]));
}

/// A future that waits for a notice is dropped at any time, and nothing is lost.
pub(crate) async fn a_dropped_wait_loses_nothing<S: Stage>(stage: S) {
    let store = stage.store();
    let mut watch = store.watch(beneath("d")).await.expect("watch");
    let writer = async {
        for n in 0..50 {
            store.put(&key("d/a"), &note(n.to_string())).await.expect("put");
        }
    };
    let reader = async {
        let mut seen = Vec::new();
        while seen.len() < 50 {
            // Ends at the first pending point, or with a notice.
            let notice = tokio::select! {
                biased;
                notice = watch.next() => Some(notice.expect("watch")),
                () = tokio::task::yield_now() => None,
            };
            if let Some(Notice::Changed(batch)) = notice {
                seen.extend(told(&batch));
            }
        }
        seen
    };
    let (seen, ()) = soon("50 changes", futures_util::future::join(reader, writer)).await;
    assert_eq!(seen, (0..50).map(|n| format!("d/a={n}")).collect::<Vec<_>>());
}
