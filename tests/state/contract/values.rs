//! One key at a time: what is put is there, typed, and told of precisely where it is not what was asked for.

use docklet::Error;
use docklet::state::{Key, Record, Scope, Transaction};
use serde::{Deserialize, Serialize};

use super::{Note, key, note};
use crate::stage::Stage;

pub(crate) async fn a_put_is_read_back<S: Stage>(stage: S) {
    let store = stage.store();
    let name = key("nodes/n1");
    assert_eq!(store.get::<Note>(&name).await.expect("get"), None);
    let first = store.put(&name, &note("one")).await.expect("put");
    let second = store.put(&name, &note("two")).await.expect("put");
    assert!(second > first);
    let entry = store.get::<Note>(&name).await.expect("get").expect("there");
    assert_eq!((entry.value.text.as_str(), &entry.key), ("two", &name));
    assert_eq!((entry.created, entry.modified, entry.lease), (first, second, None));
    assert_eq!(store.revision().await.expect("revision"), second);
    // Another handle sees what was put before it asked.
    let other = stage.another().await;
    assert_eq!(other.get::<Note>(&name).await.expect("get"), Some(entry));
}

pub(crate) async fn deleting_twice_is_fine<S: Stage>(stage: S) {
    let store = stage.store();
    let name = key("a");
    let made = store.put(&name, &note("one")).await.expect("put");
    let gone = store.delete(&name).await.expect("delete");
    assert!(gone > made);
    assert_eq!(store.get::<Note>(&name).await.expect("get"), None);
    assert_eq!(store.delete(&name).await.expect("delete"), gone, "what changes nothing has no revision");
    let anew = store.put(&name, &note("two")).await.expect("put");
    let entry = store.get::<Note>(&name).await.expect("get").expect("there");
    assert_eq!((entry.created, entry.modified), (anew, anew), "it is another one");
}

pub(crate) async fn values_know_their_kind_and_version<S: Stage>(stage: S) {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Other {
        text: String,
    }
    impl Record for Other {
        const KIND: &'static str = "other";
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Newer {
        words: Vec<String>,
    }
    impl Record for Newer {
        const KIND: &'static str = "note";
        const VERSION: u32 = 2;

        fn upgrade(version: u32, value: serde_json::Value) -> Result<Self, serde_json::Error> {
            if version == 1 {
                let old: Note = serde_json::from_value(value)?;
                return Ok(Self { words: old.text.split(' ').map(str::to_owned).collect() });
            }
            serde_json::from_value(value)
        }
    }
    let store = stage.store();
    let name = key("a");
    store.put(&name, &note("one two")).await.expect("put");
    let error = store.get::<Other>(&name).await.expect_err("another kind");
    assert!(matches!(error, Error::Differs { .. }), "{error}");
    let newer = store.get::<Newer>(&name).await.expect("get").expect("there").value;
    assert_eq!(newer.words, ["one", "two"], "the older version is understood");
    store.put(&name, &newer).await.expect("put");
    assert_eq!(store.get::<Newer>(&name).await.expect("get").expect("there").value, newer);
    let error = store.get::<Note>(&name).await.expect_err("newer");
    assert!(matches!(&error, Error::Unsupported { needs, .. } if needs.contains("newer")), "{error}");
}

pub(crate) async fn large_values_and_odd_keys<S: Stage>(stage: S) {
    let store = stage.store();
    let large = note("x".repeat((1 << 20) - 100));
    let name = key("large");
    store.put(&name, &large).await.expect("put");
    assert_eq!(store.get::<Note>(&name).await.expect("get").expect("there").value, large);
    let error = store.put(&name, &note("x".repeat(1 << 20))).await.expect_err("too large");
    assert!(matches!(error, Error::Invalid { .. }), "{error}");
    assert_eq!(store.get::<Note>(&name).await.expect("get").expect("there").value, large, "nothing was done");
    for text in ["a b", "ä/ö", "..a/b..", "a'\"\\$(x)%00", "\u{10ffff}", &"k".repeat(512)] {
        let name = key(text);
        store.put(&name, &note(text)).await.expect("put");
        assert_eq!(store.get::<Note>(&name).await.expect("get").expect("there").value.text, text);
    }
}

/// What a listing returns goes back into every call as it is.
pub(crate) async fn listed_keys_are_keys<S: Stage>(stage: S) {
    let store = stage.store();
    store.put(&key("a/b"), &note("one")).await.expect("put");
    let listed = store.list::<Note>(&Scope::All).await.expect("list");
    let name: Key = listed.entries[0].key.clone();
    store.put(&name, &note("two")).await.expect("put");
    assert_eq!(store.get::<Note>(&name).await.expect("get").expect("there").value.text, "two");
    let all = store.list::<Note>(&Scope::All).await.expect("list");
    assert_eq!(all.entries.len(), 1, "it is the same key, not one beneath it");
    store.commit(Transaction::new().if_unchanged(&all.entries[0]).delete(&name)).await.expect("delete");
    assert!(store.list::<Note>(&Scope::All).await.expect("list").entries.is_empty());
}
