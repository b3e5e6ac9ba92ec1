//! What may be wrong with the file, and with who opens it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use docklet::Error;
use docklet::error::Chain;
use docklet::state::{ClusterStore, EmbeddedSpec, Query, Scope, Transaction};

use super::process::{Writer, spec};
use crate::contract::{Note, batch, key, note, told};
use crate::stage::Scratch;

/// The error of opening it, as it is told.
async fn refused(spec: &EmbeddedSpec) -> (Error, String) {
    let error = ClusterStore::embedded(spec).await.expect_err("it is refused");
    let text = Chain(&error).to_string();
    (error, text)
}

#[tokio::test]
async fn one_process_has_it_and_others_are_told_which() {
    let scratch = Scratch::new();
    let path = scratch.path().join("store");
    let mut writer = Writer::begin(&path);
    writer.next().expect("it writes");
    let (error, text) = refused(&spec(&path)).await;
    assert!(matches!(error, Error::Busy { .. }), "{text}");
    assert!(text.contains(&format!("process {} ", writer.id())), "{text}");
    writer.kill();
    let store = ClusterStore::embedded(&spec(&path)).await.expect("it is free now");
    let (error, text) = refused(&spec(&path)).await;
    assert!(matches!(error, Error::Busy { .. }) && text.contains(&std::process::id().to_string()), "{text}");
    store.put(&key("k"), &note("v")).await.expect("the first is not disturbed");
}

#[tokio::test]
async fn only_an_ordinary_file_can_be_one() {
    let scratch = Scratch::new();
    let slash = scratch.path().join("store/");
    for path in [Path::new(""), Path::new("/"), Path::new("/dev/null"), scratch.path(), &slash] {
        let (error, text) = refused(&spec(path)).await;
        assert!(matches!(error, Error::Invalid { .. }), "{}: {text}", path.display());
    }
    assert_eq!(fs::read_dir(scratch.path()).expect("directory").count(), 0, "nothing is made");
}

#[tokio::test]
async fn it_is_free_as_soon_as_the_last_clone_is_gone() {
    let scratch = Scratch::new();
    let spec = spec(&scratch.path().join("store"));
    for round in 1..20_usize {
        let store = ClusterStore::embedded(&spec).await.expect("open");
        let clone = store.clone();
        let (key, value) = (key(format!("k/{round}")), note("v"));
        // A page is still read, and a put under way, when nobody wants them any more.
        for _ in 0..round {
            drop(futures_util::FutureExt::now_or_never(store.put(&key, &value)));
            drop(futures_util::FutureExt::now_or_never(store.page(Query::new(Scope::All))));
        }
        drop(store);
        drop(clone);
    }
    let mode = fs::metadata(&spec.path).expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(fs::read_dir(scratch.path()).expect("directory").count(), 1, "nothing else is made");
}

/// What was kept is kept; a lease has its whole time again, and then ends; a watch goes back to before.
#[tokio::test]
async fn everything_is_there_when_it_is_opened_again() {
    let scratch = Scratch::new();
    let spec = spec(&scratch.path().join("store"));
    let store = ClusterStore::embedded(&spec).await.expect("open");
    let first = store.put(&key("kept"), &note("one")).await.expect("put");
    let lease = store.lease(Duration::from_secs(2)).await.expect("lease");
    let leased =
        Transaction::new().put_leased(&key("leased"), &note("two"), lease.id()).expect("transaction");
    let second = store.commit(leased).await.expect("commit");
    drop(lease);
    drop(store);

    let store = ClusterStore::embedded(&spec).await.expect("open");
    let found = store.list::<Note>(&Scope::All).await.expect("list");
    assert_eq!(found.revision, second);
    let values: Vec<_> =
        found.entries.iter().map(|e| (e.key.as_str(), e.value.text.as_str(), e.created)).collect();
    assert_eq!(values, [("kept", "one", first), ("leased", "two", second)]);
    let mut watch = store.watch_from(Scope::All, first);
    for expected in [["kept=one"], ["leased=two"], ["-leased"]] {
        assert_eq!(told(&batch(&mut watch).await), expected);
    }
    let again = store.lease(Duration::from_secs(2)).await.expect("lease");
    assert!(again.id() > found.entries[1].lease.expect("leased"), "no lease has an id twice");
}

/// Who kept a lease of another process goes on by its id: it has its whole time again, from when the file is opened, and no less if it
/// was away for longer than that.
#[tokio::test]
async fn a_lease_of_another_outlives_the_process_that_has_the_file() {
    let scratch = Scratch::new();
    let spec = spec(&scratch.path().join("store"));
    let store = ClusterStore::embedded(&spec).await.expect("open");
    let (id, given) = store.grant_lease(Duration::from_secs(2)).await.expect("grant");
    let put = Transaction::new().put_leased(&key("leased"), &note("1"), id).expect("put");
    store.commit(put).await.expect("commit");
    drop(store);
    tokio::time::sleep(given + Duration::from_millis(500)).await;

    let store = ClusterStore::embedded(&spec).await.expect("open");
    assert_eq!(store.keep_lease(id).await.expect("it is there"), given);
    let mut watch = store.watch(Scope::All).await.expect("watch");
    assert!(store.get::<Note>(&key("leased")).await.expect("get").is_some());
    assert_eq!(told(&batch(&mut watch).await), ["-leased"], "nobody keeps it now");
    drop(watch);
    drop(store);

    let store = ClusterStore::embedded(&spec).await.expect("open");
    let error = store.keep_lease(id).await.expect_err("what is gone stays gone");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn files_that_are_none_of_ours_are_left_as_they_are() {
    let scratch = Scratch::new();
    let path = scratch.path().join("store");
    let ours = spec(&path);
    let store = ClusterStore::embedded(&ours).await.expect("open");
    store.put(&key("k"), &note("v")).await.expect("put");
    drop(store);
    let whole = fs::read(&path).expect("read");

    let others = EmbeddedSpec { cluster: "another".parse().expect("name"), ..ours.clone() };
    let (error, text) = refused(&others).await;
    assert!(matches!(error, Error::Differs { .. }) && text.contains("other-process"), "{text}");

    let mut middle = whole.clone();
    middle[20_000..].fill(0xa5);
    let bad = [
        Vec::new(),
        b"not a store".to_vec(),
        vec![0; 1 << 20],
        whole[..4_096].to_vec(),
        whole[..whole.len() / 2].to_vec(),
        middle,
    ];
    for (number, content) in bad.iter().enumerate() {
        let path = scratch.path().join(format!("bad-{number}"));
        fs::write(&path, content).expect("write");
        let (error, text) = refused(&spec(&path)).await;
        assert!(matches!(error, Error::Damaged { .. }), "{number}: {text}");
        assert!(text.contains("restore it"), "{text}");
        assert_eq!(fs::read(&path).expect("read").len(), content.len(), "{number}: it was changed");
    }

    let missing = spec(&scratch.path().join("no/such/store"));
    let (error, text) = refused(&missing).await;
    assert!(matches!(error, Error::NotFound { .. }) && text.contains("no/such"), "{text}");
    let dangling = scratch.path().join("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).expect("link");
    let (error, text) = refused(&spec(&dangling)).await;
    assert!(matches!(error, Error::Differs { .. }) && text.contains("link"), "{text}");

    let store = ClusterStore::embedded(&ours).await.expect("it is as it was");
    assert!(store.get::<Note>(&key("k")).await.expect("get").is_some());
}
