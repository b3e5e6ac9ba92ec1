//! Leases: what hangs on one goes with it, not before and not later.

use std::time::Duration;

use docklet::Error;
use docklet::state::{ClusterStore, Fault, LeaseId, Scope, Transaction};

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
        let errors = [store.lease(time).await.map(drop), store.grant_lease(time).await.map(drop)];
        for error in errors {
            assert!(matches!(error, Err(Error::Invalid { .. })), "too short or too long: {error:?}");
        }
    }
    let put = Transaction::new().put_leased(&key("a"), &note("1"), LeaseId(12_345)).expect("put");
    let error = store.commit(put).await.expect_err("no such lease");
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    assert!(store.get::<Note>(&key("a")).await.expect("get").is_none());
}

/// A key that hangs on the lease.
async fn hang(store: &ClusterStore, name: &str, lease: LeaseId) {
    let put = Transaction::new().put_leased(&key(name), &note("1"), lease).expect("put");
    store.commit(put).await.expect("commit");
}

fn is_gone<T: std::fmt::Debug>(answer: docklet::Result<T>) {
    assert!(matches!(answer, Err(Error::NotFound { .. })), "{answer:?}");
}

/// Its id is all that another needs: it was written down, and read.
pub(crate) async fn a_lease_is_kept_for_another_by_its_id<S: Stage>(stage: S) {
    let (granter, keeper) = (stage.store(), stage.another().await);
    let (id, given) = granter.grant_lease(Duration::from_millis(2_500)).await.expect("grant");
    assert!(given >= Duration::from_secs(3) && given.subsec_nanos() == 0, "rounded up: {given:?}");
    hang(&granter, "l/a", id).await;
    hang(&keeper, "l/b", id).await;
    let mut watch = granter.watch(beneath("l")).await.expect("watch");
    let id: LeaseId = serde_json::from_str(&serde_json::to_string(&id).expect("JSON")).expect("id");
    drop(granter);
    for _ in 0..4 {
        tokio::time::sleep(given / 2).await;
        assert_eq!(keeper.keep_lease(id).await.expect("it is there"), given);
    }
    assert_eq!(keeper.list::<Note>(&Scope::All).await.expect("list").entries.len(), 2);
    // Nobody keeps it any more.
    let mut ended = told(&batch(&mut watch).await);
    ended.sort();
    assert_eq!(ended, ["-l/a", "-l/b"], "in one revision");
    is_gone(keeper.keep_lease(id).await);
    is_gone(keeper.keep_lease(id).await);
    keeper.end_lease(id).await.expect("it is gone already");
}

pub(crate) async fn a_lease_of_another_is_ended_by_its_id<S: Stage>(stage: S) {
    let (granter, other) = (stage.store(), stage.another().await);
    let (id, _) = granter.grant_lease(LONG).await.expect("grant");
    hang(&granter, "a", id).await;
    other.end_lease(id).await.expect("end");
    assert!(granter.get::<Note>(&key("a")).await.expect("get").is_none());
    is_gone(granter.keep_lease(id).await);
    is_gone(granter.keep_lease(LeaseId(12_345)).await);
    granter.end_lease(id).await.expect("twice is fine");
    // Who holds it itself learns it when it asks for more time.
    let held = granter.lease(SHORT).await.expect("lease");
    other.end_lease(held.id()).await.expect("end");
    soon("the end of the lease", held.lost()).await;
}

pub(crate) async fn it_is_told_what_became_of_a_lease<S: Stage>(stage: S) {
    let (bad, faults) = stage.store().with_faults();
    let (id, given) = bad.grant_lease(LONG).await.expect("grant");
    hang(&bad, "a", id).await;
    for fault in [Fault::AnswerLost, Fault::RequestLost] {
        faults.next([fault; 3]);
        let answers = [
            bad.keep_lease(id).await.map(drop),
            bad.grant_lease(LONG).await.map(drop),
            bad.end_lease(LeaseId(12_345)).await,
        ];
        for answer in answers {
            assert!(matches!(answer, Err(Error::OutcomeUnknown { .. })), "{answer:?}");
        }
    }
    faults.next([Fault::Refused; 2]);
    for answer in [bad.keep_lease(id).await.map(drop), bad.end_lease(id).await] {
        assert!(matches!(answer, Err(Error::Unavailable { .. })), "{answer:?}");
    }
    assert_eq!(bad.keep_lease(id).await.expect("it is there"), given);
    faults.next([Fault::AnswerLost]);
    bad.end_lease(id).await.expect_err("its answer is lost");
    is_gone(bad.keep_lease(id).await);
    assert!(bad.get::<Note>(&key("a")).await.expect("get").is_none());
}
