//! The store while its etcd is killed, stopped, compacted or flooded.

use std::time::Duration;

use docklet::Error;
use docklet::state::{ClusterStore, EtcdSpec, LeaseId, Notice, Query, Revision, Scope, Transaction, Watch};

use super::server::Server;
use crate::contract::{Note, batch, beneath, key, note, soon, told};
use crate::stage::{Stage, cluster};

/// What is promised of every call, whatever the server does. The time-out of [`hasty`] is far below it.
const PROMISED: Duration = Duration::from_secs(5);

pub(crate) async fn ends<T>(
    what: &str,
    call: impl Future<Output = docklet::Result<T>>,
) -> docklet::Result<T> {
    tokio::time::timeout(PROMISED, call).await.unwrap_or_else(|_| panic!("hangs: {what}"))
}

pub(crate) fn hasty(spec: EtcdSpec) -> EtcdSpec {
    EtcdSpec { timeout_ms: 1_500, ..spec }
}

async fn begin() -> (Server, EtcdSpec, ClusterStore) {
    let server = Server::start().await;
    let spec = hasty(server.spec(&cluster()));
    let store = ClusterStore::etcd(&spec).await.expect("connect");
    (server, spec, store)
}

pub(crate) async fn interrupted(watch: &mut Watch) {
    let notice = soon("an interruption", watch.next()).await.expect("watch");
    assert!(matches!(notice, Notice::Interrupted { .. }), "{notice:?}");
}

pub(crate) fn unavailable<T: std::fmt::Debug>(answer: docklet::Result<T>) {
    assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
}

/// Nothing is missed or told twice, whatever a server that was killed does meanwhile.
#[tokio::test]
async fn a_watch_goes_on_after_a_restart() {
    let (mut server, spec, store) = begin().await;
    let mut watch = store.watch(Scope::All).await.expect("watch");
    store.put(&key("a"), &note("1")).await.expect("put");
    assert_eq!(told(&batch(&mut watch).await), ["a=1"]);
    server.kill();
    interrupted(&mut watch).await;
    unavailable(ends("get", store.get::<Note>(&key("a"))).await);
    unavailable(ends("put", store.put(&key("a"), &note("never sent"))).await);
    unavailable(ends("connect", ClusterStore::etcd(&spec)).await);
    server.restart().await;
    let other = ClusterStore::etcd(&spec).await.expect("connect");
    other.put(&key("a"), &note("2")).await.expect("put");
    assert_eq!(soon("it to go on", watch.next()).await.expect("watch"), Notice::Resumed);
    assert_eq!(told(&batch(&mut watch).await), ["a=2"]);
    store.delete(&key("a")).await.expect("the first connection works again");
    assert_eq!(told(&batch(&mut watch).await), ["-a"]);
}

#[tokio::test]
async fn a_compaction_while_away_is_told() {
    let (mut server, _, store) = begin().await;
    store.put(&key("gone"), &note("1")).await.expect("put");
    let mut watch = store.watch(Scope::All).await.expect("watch");
    store.put(&key("a"), &note("1")).await.expect("put");
    assert_eq!(told(&batch(&mut watch).await), ["a=1"]);
    server.kill();
    interrupted(&mut watch).await;
    server.restart().await;
    store.delete(&key("gone")).await.expect("delete");
    let last = store.put(&key("b"), &note("1")).await.expect("put");
    store.compact(last).await.expect("compact");
    let (revision, entries) = loop {
        match soon("a listing", watch.next()).await.expect("watch") {
            Notice::Relisted { revision, entries } => break (revision, entries),
            Notice::Resumed | Notice::Interrupted { .. } => {}
            other => panic!("unexpected: {other:?}"),
        }
    };
    let keys: Vec<_> = entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!((revision, keys), (last, vec!["a", "b"]));
}

/// etcd forgets a deletion at the very revision it compacts at.
#[tokio::test]
async fn a_deletion_at_the_compaction_is_not_lost() {
    let (_server, _, store) = begin().await;
    store.put(&key("a"), &note("1")).await.expect("put");
    let deleted = store.delete(&key("a")).await.expect("delete");
    store.compact(deleted).await.expect("compact");
    let mut watch = store.watch_from(Scope::All, deleted);
    let notice = soon("a listing", watch.next()).await.expect("watch");
    assert_eq!(notice, Notice::Relisted { revision: deleted, entries: Vec::new() });
    let mut watch = store.watch_from(Scope::All, deleted.next());
    store.put(&key("a"), &note("2")).await.expect("put");
    let notice = soon("a change", watch.next()).await.expect("watch");
    assert!(matches!(notice, Notice::Changed(_)), "what is behind the compaction is there: {notice:?}");
}

#[tokio::test]
async fn a_server_that_stands_still_hangs_no_call() {
    let (server, spec, store) = begin().await;
    let first = store.put(&key("a"), &note("1")).await.expect("put");
    let (id, _) = store.grant_lease(Duration::from_secs(60)).await.expect("grant");
    let mut watch = store.watch(Scope::All).await.expect("watch");
    server.stop().await;
    unavailable(ends("get", store.get::<Note>(&key("a"))).await);
    unavailable(ends("list", store.list::<Note>(&Scope::All)).await);
    unavailable(ends("page", store.page(Query { at: Some(first), ..Query::new(Scope::All) })).await);
    unavailable(ends("watch", store.watch(Scope::All)).await);
    unavailable(ends("check", store.commit(Transaction::new().if_absent(&key("b")))).await);
    unavailable(ends("connect", ClusterStore::etcd(&spec)).await);
    let unknown = [
        ends("put", store.put(&key("a"), &note("2"))).await.map(drop),
        ends("lease", store.lease(Duration::from_secs(60))).await.map(drop),
        ends("keep", store.keep_lease(id)).await.map(drop),
        ends("end", store.end_lease(LeaseId(12_345))).await,
        ends("compact", store.compact(first)).await,
    ];
    for answer in unknown {
        assert!(matches!(answer, Err(Error::OutcomeUnknown { .. })), "{answer:?}");
    }
    server.resume();
    let found = soon("an answer", async {
        loop {
            if let Ok(found) = store.get::<Note>(&key("a")).await {
                break found.expect("entry").value.text;
            }
        }
    });
    let found = found.await;
    assert!(found == "1" || found == "2", "{found}");
    store.put(&key("a"), &note("3")).await.expect("put");
    // What was not known to be done may have been: then it is told first.
    while told(&batch(&mut watch).await) != ["a=3"] {}
}

/// The connection of a watch that says nothing is looked after.
#[tokio::test]
async fn a_silent_server_interrupts_its_watches() {
    let (server, _, store) = begin().await;
    let mut watch = store.watch(Scope::All).await.expect("watch");
    store.put(&key("a"), &note("1")).await.expect("put");
    assert_eq!(told(&batch(&mut watch).await), ["a=1"]);
    server.stop().await;
    interrupted(&mut watch).await;
    server.resume();
    let resumed = soon("it to go on", watch.next()).await.expect("watch");
    assert_eq!(resumed, Notice::Resumed);
}

#[tokio::test]
async fn a_lease_is_kept_over_a_restart() {
    let (mut server, _, store) = begin().await;
    let lease = store.lease(Duration::from_secs(15)).await.expect("lease");
    let put = Transaction::new().put_leased(&key("a"), &note("1"), lease.id()).expect("put");
    store.commit(put).await.expect("commit");
    server.kill();
    server.restart().await;
    let before = lease.remaining();
    let kept = async {
        while lease.remaining() <= before {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the lease to be kept", kept).await;
    assert!(lease.is_held());
    assert!(store.get::<Note>(&key("a")).await.expect("get").is_some());
}

/// How many connections there are to the server.
fn connections(server: &Server) -> usize {
    let (_, port) = server.endpoint().rsplit_once(':').expect("port");
    let port = format!(":{:04X}", port.parse::<u16>().expect("port"));
    let established = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(2).is_some_and(|remote| remote.ends_with(&port)) && fields.get(3) == Some(&"01")
    };
    std::fs::read_to_string("/proc/self/net/tcp").expect("tcp").lines().filter(established).count()
}

#[tokio::test]
async fn a_thousand_watches_share_a_connection() {
    let (server, _, store) = begin().await;
    let from = store.revision().await.expect("revision").next();
    // One is the server's own, of its gateway.
    let before = connections(&server);
    let mut watches: Vec<_> =
        (0..1_000).map(|n| store.watch_from(Scope::One(key(format!("k/{n}"))), from)).collect();
    for n in 0..1_000 {
        store.put(&key(format!("k/{n}")), &note(n.to_string())).await.expect("put");
    }
    let all = futures_util::future::join_all(watches.iter_mut().map(batch)).await;
    for (n, batch) in all.iter().enumerate() {
        assert_eq!(told(batch), [format!("k/{n}={n}")]);
    }
    assert_eq!(connections(&server), before);
    // Each one lives: all of them wait for this one.
    for n in [0, 999] {
        store.put(&key(format!("k/{n}")), &note("more")).await.expect("put");
        assert_eq!(told(&batch(&mut watches[n]).await), [format!("k/{n}=more")]);
    }
}

/// A watch that nobody asks neither grows nor holds up the others.
#[tokio::test]
async fn a_slow_reader_misses_nothing_and_hinders_nobody() {
    let (_server, _, store) = begin().await;
    let mut slow = store.watch(Scope::All).await.expect("watch");
    store.put(&key("a"), &note("first")).await.expect("put");
    assert_eq!(told(&batch(&mut slow).await), ["a=first"]);
    let mut quick = store.watch(Scope::All).await.expect("watch");
    let text = "x".repeat(500_000);
    for n in 0..40 {
        store.put(&key("a"), &note(format!("{n}{text}"))).await.expect("put");
        assert_eq!(told(&batch(&mut quick).await), [format!("a={n}{text}")]);
    }
    for n in 0..40 {
        assert_eq!(told(&batch(&mut slow).await), [format!("a={n}{text}")]);
    }
}

/// etcd sends them in parts of 1.5 MiB.
#[tokio::test]
async fn large_revisions_come_whole() {
    let (_server, _, store) = begin().await;
    let from = store.revision().await.expect("revision").next();
    let text = "x".repeat(200_000);
    for _ in 0..12 {
        let put = (0..5).try_fold(Transaction::new(), |txn, n| txn.put(&key(format!("k/{n}")), &note(&text)));
        store.commit(put.expect("put")).await.expect("commit");
    }
    let mut watch = store.watch_from(beneath("k"), from);
    for n in 0..12 {
        let batch = batch(&mut watch).await;
        assert_eq!((batch.revision, batch.changes.len()), (Revision(from.0 + n), 5));
    }
}

#[tokio::test]
async fn a_page_may_be_larger_than_an_answer() {
    let (_server, _, store) = begin().await;
    let text = "x".repeat(900_000);
    for n in 0..30 {
        store.put(&key(format!("k/{n:02}")), &note(&text)).await.expect("put");
    }
    let page = store.list::<Note>(&Scope::All).await.expect("list");
    let keys: Vec<_> = page.entries.iter().map(|entry| entry.key.to_string()).collect();
    assert_eq!(keys, (0..30).map(|n| format!("k/{n:02}")).collect::<Vec<_>>());
}

/// What another program wrote among the keys is named, and stops only whoever reads it.
#[tokio::test]
async fn a_foreign_key_is_told() {
    let stage = super::server::Etcd::begin().await;
    let store = stage.store();
    let mut watch = store.watch(Scope::All).await.expect("watch");
    let name = stage.cluster();
    stage.server.etcdctl(&["put", &format!("/docklet/{name}/keys//odd"), "x"]);
    stage.server.etcdctl(&["put", &format!("/docklet/{name}x/keys/k"), "of another cluster"]);
    store.put(&key("a"), &note("1")).await.expect("put");
    let error = store.list::<Note>(&Scope::All).await.expect_err("odd");
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(told(&batch(&mut watch).await), ["a=1"]);
    stage.server.etcdctl(&["del", &format!("/docklet/{name}/keys//odd")]);
    assert_eq!(store.list::<Note>(&Scope::All).await.expect("list").entries.len(), 1);
}

/// A store of a newer form is not touched.
#[tokio::test]
async fn another_form_is_refused() {
    let (server, spec, _store) = begin().await;
    server.etcdctl(&["put", &format!("/docklet/{}/format", spec.cluster), "2"]);
    let error = ClusterStore::etcd(&spec).await.expect_err("newer");
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}
