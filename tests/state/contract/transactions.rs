//! Several keys together, or none; and only if the checks hold.

use docklet::Error;
use docklet::state::{Key, Revision, Scope, Transaction};
use futures_util::future::join_all;

use super::{Note, key, note};
use crate::stage::Stage;

pub(crate) async fn all_or_nothing<S: Stage>(stage: S) {
    let store = stage.store();
    let [a, b, c] = ["a", "b", "c"].map(key);
    let changes = Transaction::new().put(&a, &note("1")).expect("put").put(&b, &note("1")).expect("put");
    let revision = store.commit(changes.if_absent(&a).if_absent(&b)).await.expect("commit");
    for name in [&a, &b] {
        assert_eq!(
            store.get::<Note>(name).await.expect("get").expect("there").created,
            revision,
            "one revision"
        );
    }
    let refused = Transaction::new().if_absent(&b).put(&c, &note("2")).expect("put").delete(&a);
    let error = store.commit(refused).await.expect_err("b is there");
    assert!(matches!(&error, Error::Conflict { what, .. } if what == "key `b`"), "{error}");
    assert_eq!(store.revision().await.expect("revision"), revision, "nothing was done");
    let mixed = Transaction::new().if_modified_at(&b, revision).delete(&a).put(&c, &note("3")).expect("put");
    store.commit(mixed).await.expect("commit");
    let keys: Vec<_> = store
        .list::<Note>(&Scope::All)
        .await
        .expect("list")
        .entries
        .into_iter()
        .map(|entry| entry.key)
        .collect();
    assert_eq!(keys, [b, c]);
}

pub(crate) async fn each_check_is_checked<S: Stage>(stage: S) {
    let store = stage.store();
    let [a, gone] = ["a", "gone"].map(key);
    let made = store.put(&a, &note("1")).await.expect("put");
    let written = store.put(&a, &note("2")).await.expect("put");
    let holds = async |check: Transaction| match store.commit(check).await {
        Ok(_) => true,
        Err(Error::Conflict { .. }) => false,
        Err(error) => panic!("{error}"),
    };
    let new = Transaction::new;
    assert!(holds(new()).await);
    assert!(holds(new().if_absent(&gone)).await && !holds(new().if_absent(&a)).await);
    assert!(holds(new().if_modified_at(&a, written)).await && !holds(new().if_modified_at(&a, made)).await);
    assert!(holds(new().if_created_at(&a, made)).await && !holds(new().if_created_at(&a, written)).await);
    assert!(
        !holds(new().if_modified_at(&gone, made)).await && !holds(new().if_created_at(&gone, made)).await
    );
    assert!(!holds(new().if_modified_at(&gone, Revision(0))).await, "absent is asked for by its name");
    assert!(!holds(new().if_absent(&gone).if_absent(&a)).await, "all must hold");
    assert_eq!(store.revision().await.expect("revision"), written, "checks alone change nothing");
}

pub(crate) async fn limits_are_told_before<S: Stage>(stage: S) {
    let store = stage.store();
    let refused = async |transaction: Transaction| match store.commit(transaction).await {
        Err(Error::Invalid { rule, .. }) => rule,
        other => panic!("{other:?}"),
    };
    let [a, b] = ["a", "b"].map(key);
    assert!(refused(Transaction::new().delete(&a).delete(&a)).await.contains("at most once"));
    let many = (0..129).fold(Transaction::new(), |all, n| all.delete(&key(n.to_string())));
    assert!(refused(many).await.contains("128"));
    let large = note("x".repeat(700 << 10));
    let two = Transaction::new().put(&a, &large).expect("put").put(&b, &large).expect("put");
    assert!(refused(two).await.contains("1 MiB"));
    // What is within them is taken.
    let most = (0..128).fold(Transaction::new(), |all, n| {
        all.if_absent(&key(n.to_string())).put(&key(n.to_string()), &note("1")).expect("put")
    });
    store.commit(most).await.expect("128 of each");
}

/// Of many who read and write back what nobody else has written meanwhile, none is lost.
pub(crate) async fn sixteen_count_without_a_loss<S: Stage>(stage: S) {
    const EACH: u64 = 10;
    let name = &key("count");
    let count = |store: docklet::state::ClusterStore| async move {
        for _ in 0..EACH {
            loop {
                let next = match store.get::<Note>(name).await.expect("get") {
                    None => Transaction::new().if_absent(name).put(name, &note("1")),
                    Some(entry) => {
                        let number: u64 = entry.value.text.parse().expect("number");
                        Transaction::new().if_unchanged(&entry).put(name, &note((number + 1).to_string()))
                    }
                };
                match store.commit(next.expect("put")).await {
                    Ok(_) => break,
                    Err(Error::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let mut stores = Vec::new();
    for _ in 0..16 {
        stores.push(stage.another().await);
    }
    join_all(stores.into_iter().map(count)).await;
    let entry = stage.store().get::<Note>(name).await.expect("get").expect("there");
    assert_eq!(entry.value.text, (16 * EACH).to_string());
}

/// One of sixteen makes the key.
pub(crate) async fn one_of_sixteen_is_first<S: Stage>(stage: S) {
    let name: &Key = &key("first");
    let mut stores = Vec::new();
    for _ in 0..16 {
        stores.push(stage.another().await);
    }
    let tries = stores.iter().enumerate().map(|(n, store)| async move {
        let make = Transaction::new().if_absent(name).put(name, &note(n.to_string())).expect("put");
        store.commit(make).await
    });
    let results = join_all(tries).await;
    let won: Vec<_> = (0..16).filter(|&n| results[n].is_ok()).collect();
    assert_eq!(won.len(), 1, "{results:?}");
    let entry = stage.store().get::<Note>(name).await.expect("get").expect("there");
    assert_eq!(entry.value.text, won[0].to_string());
}
