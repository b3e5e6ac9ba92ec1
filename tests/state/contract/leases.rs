//! Leases: what hangs on one goes with it, not before and not later.

use std::time::Duration;

use docklet::Error;
use docklet::state::{LeaseId, Scope, Transaction};

use super::{Note, batch, beneath, key, note, soon, told};
use crate::stage::Stage;

const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(600);

pub(crate) async fn an_ended_lease_takes_its_keys<S: Stage>(stage: S) {
    let store = stage.store();
    let lease = store.lease(LONG).await.expect("lease");
    assert!(lease.is_held() && lease.time_to_live() >= LONG && lease.remaining() <= lease.time_to_live());
    let mut watch = store.watch(beneath("l")).await.expect("watch");
    let [a, b, kept] = ["l/a", "l/b", "l/kept"].map(key);
    let puts = Transaction::new().put_leased(&a, &note("1"), lease.id()).expect("put");
    let puts = puts.put_leased(&b, &note("1"), lease.id()).expect("put");
    store.commit(puts.put_leased(&kept, &note("1"), lease.id()).expect("put")).await.expect("commit");
    store.put(&kept, &note("2")).await.expect("put");
    let entry = store.get::<Note>(&a).await.expect("get").expect("there");
    assert_eq!(entry.lease, Some(lease.id()));
    assert_eq!(
        store.get::<Note>(&kept).await.expect("get").expect("there").lease,
        None,
        "a put without it detaches"
    );
    let id = lease.id();
    lease.end().await.expect("end");
    let entries = store.list::<Note>(&Scope::All).await.expect("list").entries;
    assert_eq!(entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["l/kept"]);
    batch(&mut watch).await;
    batch(&mut watch).await;
    let mut gone = told(&batch(&mut watch).await);
    gone.sort();
    assert_eq!(gone, ["-l/a", "-l/b"], "in one revision");
    let late = Transaction::new().put_leased(&a, &note("1"), id).expect("put");
    let error = store.commit(late).await.expect_err("the lease is gone");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

pub(crate) async fn a_lease_is_kept_while_it_is_held<S: Stage>(stage: S) {
    let store = stage.store();
    let lease = store.lease(SHORT).await.expect("lease");
    let name = key("a");
    let put = Transaction::new().put_leased(&name, &note("1"), lease.id()).expect("put");
    store.commit(put).await.expect("commit");
    tokio::time::sleep(lease.time_to_live() * 3).await;
    assert!(lease.is_held());
    assert!(store.get::<Note>(&name).await.expect("get").is_some());
    let mut watch = store.watch(Scope::One(name)).await.expect("watch");
    drop(lease);
    assert_eq!(told(&batch(&mut watch).await), ["-a"], "by itself, once nobody keeps it");
}

/// The holder knows it first.
pub(crate) async fn a_lost_lease_is_known_before_it_is_over<S: Stage>(stage: S) {
    let store = stage.store();
    let (bad, faults) = store.with_faults();
    let lease = bad.lease(SHORT).await.expect("lease");
    let name = key("a");
    let put = Transaction::new().put_leased(&name, &note("1"), lease.id()).expect("put");
    store.commit(put).await.expect("commit");
    faults.cut();
    soon("the end of the lease", lease.lost()).await;
    assert!(!lease.is_held() && lease.remaining().is_zero());
    assert!(store.get::<Note>(&name).await.expect("get").is_some(), "nobody else can have it yet");
    let mut watch = store.watch(Scope::One(name)).await.expect("watch");
    faults.heal();
    assert_eq!(told(&batch(&mut watch).await), ["-a"]);
    assert!(!lease.is_held(), "what is lost stays lost");
}

pub(crate) async fn a_lease_outlives_short_trouble<S: Stage>(stage: S) {
    let store = stage.store();
    let (bad, faults) = store.with_faults();
    let lease = bad.lease(Duration::from_secs(6)).await.expect("lease");
    faults.cut();
    tokio::time::sleep(Duration::from_secs(3)).await;
    faults.heal();
    tokio::time::sleep(lease.time_to_live()).await;
    assert!(lease.is_held());
}

pub(crate) async fn odd_leases_are_refused<S: Stage>(stage: S) {
    let store = stage.store();
    for time in [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(100_000)] {
        let error = store.lease(time).await.expect_err("too short or too long");
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
    let put = Transaction::new().put_leased(&key("a"), &note("1"), LeaseId(12_345)).expect("put");
    let error = store.commit(put).await.expect_err("no such lease");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(store.get::<Note>(&key("a")).await.expect("get").is_none());
}
