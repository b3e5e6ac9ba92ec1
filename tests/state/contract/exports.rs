//! Copies: what was exported is imported as it was, or not at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use docklet::Error;
use docklet::state::{ClusterStore, Key, Scope, Transaction};

use super::{Note, key, note};
use crate::stage::{Scratch, Stage};

async fn told(store: &ClusterStore) -> Vec<(Key, String)> {
    let page = store.list::<Note>(&Scope::All).await.expect("list");
    page.entries.into_iter().map(|entry| (entry.key, entry.value.text)).collect()
}

pub(crate) async fn an_export_comes_back<S: Stage>(stage: S) {
    let (store, scratch) = (stage.store(), Scratch::new());
    for n in 0..250 {
        store.put(&key(format!("many/{n}")), &note(format!("\"{n}\"\n\\ ä"))).await.expect("put");
    }
    for n in 0..3 {
        store.put(&key(format!("large/{n}")), &note("x".repeat(900 << 10))).await.expect("put");
    }
    store.put(&key("a-little-before-the-large"), &note("y".repeat(400 << 10))).await.expect("put");
    store.put(&key("b-large"), &note("x".repeat(900 << 10))).await.expect("put");
    let before = told(&store).await;
    let lease = store.lease(std::time::Duration::from_secs(60)).await.expect("lease");
    let leased = Transaction::new().put_leased(&key("leased"), &note("1"), lease.id()).expect("put");
    let revision = store.commit(leased).await.expect("commit");
    let file = scratch.path().join("export");
    assert_eq!(store.export(&file).await.expect("export"), revision);
    assert_eq!(fs::metadata(&file).expect("file").permissions().mode() & 0o777, 0o600);
    let error = store.import(&file).await.expect_err("it is not empty");
    assert!(matches!(error, Error::Differs { .. }), "{error}");
    let empty = S::begin().await;
    empty.store().import(&file).await.expect("import");
    assert_eq!(told(&empty.store()).await, before);
    let again = scratch.path().join("again");
    empty.store().export(&again).await.expect("export");
    let entries = |path| {
        let text = fs::read_to_string(path).expect("text");
        text.lines().filter(|line| line.starts_with("{\"entry\"")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(entries(&file), entries(&again));
}

pub(crate) async fn a_damaged_export_changes_nothing<S: Stage>(stage: S) {
    let (store, scratch) = (stage.store(), Scratch::new());
    for n in 0..5 {
        store.put(&key(format!("k/{n}")), &note("text")).await.expect("put");
    }
    let file = scratch.path().join("export");
    store.export(&file).await.expect("export");
    let whole = fs::read(&file).expect("read");
    let empty = S::begin().await;
    let bad = scratch.path().join("bad");
    let import = async |bytes: &[u8]| {
        fs::write(&bad, bytes).expect("write");
        let error = empty.store().import(&bad).await.expect_err("damaged");
        assert!(matches!(error, Error::Damaged { .. } | Error::Unsupported { .. }), "{error}");
    };
    for end in (0..whole.len()).step_by(23) {
        import(&whole[..end]).await;
    }
    for place in (0..whole.len()).step_by(37) {
        let mut bytes = whole.clone();
        bytes[place] ^= 4;
        import(&bytes).await;
    }
    import(&[&whole[..], b"\n"].concat()).await;
    import(&vec![b'{'; 5 << 20]).await;
    let newer = r#"{"head":{"version":2,"revision":1,"compressed":true}}"#;
    fs::write(&bad, format!("{newer}\n")).expect("write");
    let error = empty.store().import(&bad).await.expect_err("newer");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
    assert!(told(&empty.store()).await.is_empty());
    fs::write(&bad, &whole).expect("write");
    empty.store().import(&bad).await.expect("the whole one");
}

/// An import that was broken off is taken over by the next one.
pub(crate) async fn an_import_is_all_or_marked<S: Stage>(stage: S) {
    let (store, scratch) = (stage.store(), Scratch::new());
    for n in 0..350 {
        store.put(&key(format!("k/{n:03}")), &note("text")).await.expect("put");
    }
    let before = told(&store).await;
    let file = scratch.path().join("export");
    store.export(&file).await.expect("export");
    let target = S::begin().await;
    let (bad, faults) = target.store().with_faults();
    let mut broken = 0;
    for call in 1.. {
        assert!(call < 200, "it is never whole");
        faults.plan(move |_| None);
        let mut left = call;
        faults.plan(move |_| {
            left -= 1;
            (left == 0).then_some(docklet::state::Fault::RequestLost)
        });
        if bad.import(&file).await.is_ok() {
            break;
        }
        broken += 1;
        faults.heal();
        let entries =
            target.store().page(docklet::state::Query::new(Scope::All)).await.expect("page").entries;
        let marked = entries.iter().any(|entry| entry.key.as_str() == ClusterStore::IMPORT_MARK);
        assert!(marked || entries.is_empty(), "what is not whole says so");
        if marked {
            let error = target.store().export(&scratch.path().join("partial")).await.expect_err("not whole");
            assert!(matches!(error, Error::Busy { .. }), "{error}");
            assert!(!scratch.path().join("partial.partial").exists(), "what was begun of it is gone");
        }
    }
    assert!(broken > 5);
    assert_eq!(told(&target.store()).await, before);
}

/// Where an import leaves its mark nobody else can put anything: a store that has it would pass for one that is not whole.
pub(crate) async fn the_mark_is_the_stores_own<S: Stage>(stage: S) {
    let store = stage.store();
    let mark = key(ClusterStore::IMPORT_MARK);
    let error = store.put(&mark, &note("mine")).await.expect_err("it is the store's own");
    assert!(matches!(&error, Error::Invalid { value, .. } if value == ".import"), "{error}");
    store.put(&mark.join("a").expect("key"), &note("beneath it")).await.expect("put");
    let scratch = Scratch::new();
    store.export(&scratch.path().join("export")).await.expect("export");
}
