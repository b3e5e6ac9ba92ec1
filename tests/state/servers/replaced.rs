//! Another etcd behind the address of the one that was there: it is told, and nothing goes on as if it were the same.

use std::time::Duration;

use docklet::Error;
use docklet::state::{ClusterStore, EtcdSpec, Notice, Query, Scope, Transaction, Watch};

use super::faults::{ends, hasty};
use super::server::Server;
use crate::contract::{Note, batch, key, note, soon, told};
use crate::stage::cluster;

/// A server that has been written to, and how to reach it.
async fn written() -> (Server, EtcdSpec) {
    let server = Server::start().await;
    let spec = hasty(server.spec(&cluster()));
    let store = ClusterStore::etcd(&spec).await.expect("connect");
    for n in 0..20 {
        store.put(&key("a"), &note(n.to_string())).await.expect("put");
    }
    (server, spec)
}

fn differs<T: std::fmt::Debug>(answer: docklet::Result<T>) {
    assert!(matches!(answer, Err(Error::Differs { .. })), "{answer:?}");
}

async fn ends_with_a_difference(watch: &mut Watch) {
    loop {
        match soon("the watch", watch.next()).await {
            Ok(Notice::Interrupted { .. }) => {}
            answer => break differs(answer),
        }
    }
}

/// A new one without anything in it: of another id, or made in the same way, and so with the same one.
async fn is_told(token: Option<&str>) {
    let (mut server, spec) = written().await;
    let connect = async || ClusterStore::etcd(&spec).await.expect("connect");
    let (reader, writer, changer) = (connect().await, connect().await, connect().await);
    let mut watch = reader.watch(Scope::All).await.expect("watch");
    let watched_alone = connect().await;
    let mut alone = watched_alone.watch(Scope::All).await.expect("watch");
    let lease = reader.lease(Duration::from_secs(8)).await.expect("lease");
    let fresh = reader.get::<Note>(&key("a")).await.expect("get").expect("there");
    assert!(fresh.modified.0 > 20);

    server.stop().await;
    let under_way = tokio::spawn(async move { writer.put(&key("under way"), &note("1")).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    server.replace(token).await;
    let answer = soon("an answer", under_way).await.expect("task");
    assert!(matches!(answer, Err(Error::OutcomeUnknown { .. })), "{answer:?}");

    differs(ends("get", reader.get::<Note>(&key("a"))).await);
    differs(ends("list", reader.list::<Note>(&Scope::All)).await);
    let then = Query { at: Some(fresh.modified), ..Query::new(Scope::All) };
    differs(ends("page", reader.page(then)).await);
    differs(ends("check", reader.commit(Transaction::new().if_unchanged(&fresh))).await);
    differs(ends("put", reader.put(&key("a"), &note("x"))).await);
    ends_with_a_difference(&mut watch).await;
    // Also one that nobody reads beside.
    ends_with_a_difference(&mut alone).await;
    ends_with_a_difference(&mut watched_alone.watch_from(Scope::All, fresh.modified.next())).await;
    soon("the lease to be lost", lease.lost()).await;

    let first = ends("put", changer.put(&key("b"), &note("1"))).await;
    assert!(matches!(first, Err(Error::OutcomeUnknown { .. })), "it was done by another: {first:?}");
    differs(ends("put", changer.put(&key("c"), &note("1"))).await);

    // Who connects anew has what there is. It passes the revisions of before, and is not taken for what was there all the same.
    let new = connect().await;
    for n in 0..30 {
        new.put(&key("new"), &note(n.to_string())).await.expect("put");
    }
    let found = new.list::<Note>(&Scope::All).await.expect("list").entries;
    assert!(found.iter().all(|entry| ["b", "new"].contains(&entry.key.as_str())), "{found:?}");
    differs(ends("get", reader.get::<Note>(&key("new"))).await);
    ends_with_a_difference(&mut watch).await;
    let mut anew = new.watch(Scope::All).await.expect("watch");
    new.put(&key("a"), &note("1")).await.expect("put");
    assert_eq!(told(&batch(&mut anew).await), ["a=1"]);
}

#[tokio::test]
async fn an_etcd_of_another_id_is_told() {
    is_told(Some("another")).await;
}

#[tokio::test]
async fn an_etcd_of_the_same_id_is_told_by_its_revision() {
    is_told(None).await;
}
