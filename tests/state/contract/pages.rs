//! Listings: ordered, within their scope, a page at a time and all of one revision.

use docklet::Error;
use docklet::state::{Query, Revision, Scope};

use super::{Note, beneath, key, note};
use crate::stage::Stage;

pub(crate) async fn scopes_end_at_their_edges<S: Stage>(stage: S) {
    let store = stage.store();
    for name in ["a", "a/b", "a/b/c", "a0", "ab", "ab/c", "b"] {
        store.put(&key(name), &note(name)).await.expect("put");
    }
    let list = async |scope: Scope| {
        let page = store.list::<Note>(&scope).await.expect("list");
        page.entries.into_iter().map(|entry| entry.key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(list(Scope::All).await, ["a", "a/b", "a/b/c", "a0", "ab", "ab/c", "b"]);
    assert_eq!(list(beneath("a")).await, ["a/b", "a/b/c"]);
    assert_eq!(list(Scope::One(key("a"))).await, ["a"]);
    assert!(list(beneath("b")).await.is_empty());
}

pub(crate) async fn pages_are_of_one_revision<S: Stage>(stage: S) {
    let store = stage.store();
    for n in 0..25 {
        store.put(&key(format!("k/{n:02}")), &note("old")).await.expect("put");
    }
    let first = store.page(Query { limit: 10, ..Query::new(beneath("k")) }).await.expect("page");
    assert!(first.more && first.entries.len() == 10);
    // Behind the first page, everything changes.
    store.put(&key("k/11"), &note("new")).await.expect("put");
    store.put(&key("k/11"), &note("newer")).await.expect("put");
    store.delete(&key("k/12")).await.expect("delete");
    store.put(&key("k/125"), &note("made")).await.expect("put");
    store.delete(&key("k/125")).await.expect("delete");
    store.put(&key("k/24a"), &note("made")).await.expect("put");
    let mut entries = first.entries.clone();
    let mut query = Query { limit: 10, at: Some(first.revision), ..Query::new(beneath("k")) };
    loop {
        query.after = entries.last().map(|entry| entry.key.clone());
        let page = store.page(query.clone()).await.expect("page");
        assert_eq!(page.revision, first.revision);
        entries.extend(page.entries);
        if !page.more {
            break;
        }
    }
    let told: Vec<_> = entries
        .into_iter()
        .map(|entry| entry.decode::<Note>().expect("note"))
        .map(|entry| format!("{}={}", entry.key, entry.value.text))
        .collect();
    let expected: Vec<_> = (0..25).map(|n| format!("k/{n:02}=old")).collect();
    assert_eq!(told, expected, "as it was at the first page");
    let now = store.list::<Note>(&beneath("k")).await.expect("list");
    assert_eq!(now.entries.len(), 25);
    assert!(now.entries.iter().any(|entry| entry.value.text == "newer"));
}

pub(crate) async fn the_last_page_says_so<S: Stage>(stage: S) {
    let store = stage.store();
    for n in 0..4 {
        store.put(&key(format!("k/{n}")), &note("")).await.expect("put");
    }
    let page = async |limit: usize| {
        let page = store.page(Query { limit, ..Query::new(beneath("k")) }).await.expect("page");
        (page.entries.len(), page.more)
    };
    assert_eq!((page(3).await, page(4).await, page(5).await), ((3, true), (4, false), (4, false)));
    let error = store.page(Query { limit: 0, ..Query::new(Scope::All) }).await.expect_err("no page");
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}

pub(crate) async fn what_was_compacted_is_told<S: Stage>(stage: S) {
    let store = stage.store();
    let old = store.put(&key("a"), &note("1")).await.expect("put");
    let new = store.put(&key("a"), &note("2")).await.expect("put");
    let read = async |at: Revision| store.page(Query { at: Some(at), ..Query::new(Scope::All) }).await;
    let entry = read(old).await.expect("page").entries.remove(0).decode::<Note>().expect("note");
    assert_eq!(entry.value.text, "1");
    store.compact(new).await.expect("compact");
    store.compact(new).await.expect("twice");
    store.compact(old).await.expect("what is compacted already");
    let error = read(old).await.expect_err("forgotten");
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    let error = read(Revision(new.0 + 1_000_000)).await.expect_err("to come");
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    let entry = read(new).await.expect("page").entries.remove(0).decode::<Note>().expect("note");
    assert_eq!(entry.value.text, "2", "what is now stays");
    let error = store.compact(Revision(new.0 + 1_000_000)).await.expect_err("to come");
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
}
