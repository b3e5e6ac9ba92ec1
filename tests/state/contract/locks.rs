//! Locks and elections: one holder at a time, in the order of asking; who lost it cannot write any more.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use docklet::Error;
use docklet::state::{ClusterStore, Query, Scope, Transaction};
use futures_util::future::join_all;

use super::{Note, beneath, key, note, soon};
use crate::stage::Stage;

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_secs(2);

/// Waits until so many stand in the queue.
async fn queued(store: &ClusterStore, count: usize) {
    let look = async {
        while store.page(Query::new(beneath("lock"))).await.expect("page").entries.len() < count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("the queue", look).await;
}

pub(crate) async fn one_holds_at_a_time<S: Stage>(stage: S) {
    let inside = AtomicUsize::new(0);
    let name = &key("lock");
    let mut stores = Vec::new();
    for _ in 0..16 {
        stores.push(stage.another().await);
    }
    let work = stores.iter().map(|store| async {
        let lease = store.lease(LONG).await.expect("lease");
        for _ in 0..3 {
            let held = soon("the lock", store.lock(name, &lease)).await.expect("lock");
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "nobody else is inside");
            tokio::task::yield_now().await;
            inside.fetch_sub(1, Ordering::SeqCst);
            held.release().await.expect("release");
        }
        lease.end().await.expect("end");
    });
    join_all(work).await;
    assert!(stage.store().page(Query::new(Scope::All)).await.expect("page").entries.is_empty());
}

/// First come, first served; also of two with one lease. Fences grow.
pub(crate) async fn the_first_in_the_queue_is_the_next<S: Stage>(stage: S) {
    let store = stage.store();
    let name = key("lock");
    let lease = store.lease(LONG).await.expect("lease");
    let first = store.lock(&name, &lease).await.expect("lock");
    let order = std::sync::Mutex::new(Vec::new());
    let wait = async |who: usize| {
        let held = soon("the lock", store.lock(&name, &lease)).await.expect("lock");
        order.lock().expect("order").push((held.fence().revision, who));
        held.release().await.expect("release");
    };
    let control = async {
        queued(&store, 2).await;
        let late = wait(2);
        let release = async {
            queued(&store, 3).await;
            assert!(order.lock().expect("order").is_empty(), "one lease is no key to the lock");
            first.release().await.expect("release");
        };
        futures_util::future::join(late, release).await
    };
    futures_util::future::join(wait(1), control).await;
    let order = order.into_inner().expect("order");
    assert_eq!(order.iter().map(|(_, who)| *who).collect::<Vec<_>>(), [1, 2]);
    assert!(order.is_sorted());
}

/// Giving up waiting gives the place in the queue up.
pub(crate) async fn who_gives_up_is_not_waited_for<S: Stage>(stage: S) {
    let store = stage.store();
    let name = key("lock");
    let lease = store.lease(LONG).await.expect("lease");
    let held = store.lock(&name, &lease).await.expect("lock");
    let waiting = store.lock(&name, &lease);
    tokio::select! {
        _ = waiting => panic!("it is held"),
        () = queued(&store, 2) => {}
    }
    held.release().await.expect("release");
    let next = soon("the lock", store.lock(&name, &lease)).await.expect("lock");
    next.release().await.expect("release");
}

/// Whoever was away too long cannot write after the next one has begun.
pub(crate) async fn a_lost_lock_is_fenced<S: Stage>(stage: S) {
    let store = stage.store();
    let (bad, faults) = store.with_faults();
    let name = key("lock");
    let stalled = bad.lease(SHORT).await.expect("lease");
    let old = bad.lock(&name, &stalled).await.expect("lock");
    let work =
        |fence, text: &str| Transaction::new().if_held(fence).put(&key("work"), &note(text)).expect("put");
    store.commit(work(old.fence(), "old")).await.expect("while it is held");
    faults.cut();
    let lease = store.lease(LONG).await.expect("lease");
    let new = soon("the lock", store.lock(&name, &lease)).await.expect("lock");
    assert!(!old.is_held(), "it was told before");
    assert!(new.fence().revision > old.fence().revision);
    store.commit(work(new.fence(), "new")).await.expect("commit");
    faults.heal();
    let error = bad.commit(work(old.fence(), "late")).await.expect_err("fenced");
    assert!(matches!(error, Error::Conflict { .. }), "{error}");
    assert_eq!(store.get::<Note>(&key("work")).await.expect("get").expect("there").value.text, "new");
    let error = bad.lock(&name, &stalled).await.expect_err("its lease is over");
    assert!(matches!(error, Error::Conflict { .. } | Error::NotFound { .. }), "{error}");
}

pub(crate) async fn a_leader_is_known_to_all<S: Stage>(stage: S) {
    let store = stage.store();
    let office = key("leader");
    assert!(store.leader::<Note>(&office).await.expect("leader").is_none());
    let [one, two] = [store.lease(LONG).await.expect("lease"), store.lease(LONG).await.expect("lease")];
    let first = store.campaign(&office, &note("one"), &one).await.expect("campaign");
    let other = stage.another().await;
    let leader = other.leader::<Note>(&office).await.expect("leader").expect("there");
    assert_eq!((leader.value.text.as_str(), leader.created), ("one", first.fence().revision));
    first.proclaim(&note("one, at work")).await.expect("proclaim");
    assert_eq!(
        other.leader::<Note>(&office).await.expect("leader").expect("there").value.text,
        "one, at work"
    );
    let second = note("two");
    let next = store.campaign(&office, &second, &two);
    let end = async {
        while store.page(Query::new(beneath("leader"))).await.expect("page").entries.len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        one.end().await.expect("end");
    };
    let (second, ()) = soon("the next leader", futures_util::future::join(next, end)).await;
    let second = second.expect("campaign");
    assert_eq!(other.leader::<Note>(&office).await.expect("leader").expect("there").value.text, "two");
    let error = first.proclaim(&note("one")).await.expect_err("not any more");
    assert!(matches!(error, Error::Conflict { .. } | Error::NotFound { .. }), "{error}");
    second.release().await.expect("release");
    assert!(other.leader::<Note>(&office).await.expect("leader").is_none());
}

/// Other data, and other queues, are in nobody's way; and whoever ended the lease of a lock has lost it.
pub(crate) async fn only_places_are_waited_for<S: Stage>(stage: S) {
    let store = stage.store();
    let lease = store.lease(LONG).await.expect("lease");
    store.put(&key("a/n1"), &note("data")).await.expect("put");
    store.put(&key("a/0123456789abcdef"), &note("data")).await.expect("put");
    let inner = store.campaign(&key("a/b"), &note("inner"), &lease).await.expect("campaign");
    let outer = soon("the lock", store.lock(&key("a"), &lease)).await.expect("lock");
    assert_eq!(store.leader::<Note>(&key("a/b")).await.expect("leader").expect("there").value.text, "inner");
    lease.clone().end().await.expect("end");
    assert!(!inner.is_held() && !outer.is_held() && !lease.is_held());
    soon("what was ended is lost", outer.lost()).await;
}

/// An answer that is lost on the way does not leave a lock that nobody knows of.
pub(crate) async fn a_lost_answer_does_not_lose_the_lock<S: Stage>(stage: S) {
    use docklet::state::Fault;
    let store = stage.store();
    let name = key("lock");
    for fault in [Fault::AnswerLost, Fault::RequestLost] {
        let (bad, faults) = store.with_faults();
        let lease = bad.lease(LONG).await.expect("lease");
        faults.next([fault]);
        let held = soon("the lock", bad.lock(&name, &lease)).await.expect("lock");
        store.commit(Transaction::new().if_held(held.fence())).await.expect("held");
        held.release().await.expect("release");
        assert_eq!(places(&store, &name).await, 0);
    }
}

/// A place that is made only when nobody waits in it any more is in nobody's way, however long its lease lives.
pub(crate) async fn a_place_that_comes_too_late_holds_nobody_up<S: Stage>(stage: S) {
    use docklet::state::Fault;
    const LATER: Duration = Duration::from_millis(300);
    let store = stage.store();
    let name = key("lock");
    let (bad, faults) = store.with_faults();
    let lease = bad.lease(LONG).await.expect("lease");
    // Both of its attempts; the waiter is told that it is not known.
    faults.next([Fault::DoneLater(LATER); 2]);
    let error = bad.lock(&name, &lease).await.expect_err("no answer");
    assert!(matches!(error, Error::OutcomeUnknown { .. }), "{error}");
    // The second attempt has an answer: what was meant to be the first place comes when the lock is held, or was given back.
    for pause in [Duration::ZERO, LATER * 2] {
        faults.next([Fault::DoneLater(LATER)]);
        let held = soon("the lock", bad.lock(&name, &lease)).await.expect("lock");
        tokio::time::sleep(pause).await;
        held.release().await.expect("release");
    }
    // A waiter who gives up while the store cannot be reached.
    let first = store.lease(LONG).await.expect("lease");
    let held = soon("the lock", store.lock(&name, &first)).await.expect("lock");
    tokio::select! {
        _ = bad.lock(&name, &lease) => panic!("it is held"),
        () = async {
            while places(&store, &name).await < 2 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            faults.cut();
        } => {}
    }
    tokio::time::sleep(LATER).await;
    faults.heal();
    held.release().await.expect("release");
    tokio::time::sleep(LATER * 2).await;
    let mine = store.lease(LONG).await.expect("lease");
    let held = soon("the lock", store.lock(&name, &mine)).await.expect("lock");
    assert!(lease.is_held(), "it is not the end of the lease that has cleared the way");
    held.release().await.expect("release");
    assert_eq!(places(&store, &name).await, 0);
    assert!(store.leader::<Note>(&name).await.expect("leader").is_none());
    lease.end().await.expect("end");
    let left = store.page(Query::new(beneath("lock"))).await.expect("page").entries;
    assert!(left.is_empty(), "nothing is left once the lease has ended: {left:?}");
}

/// How many stand in the queue.
async fn places(store: &ClusterStore, name: &docklet::state::Key) -> usize {
    let page = store.page(Query::new(Scope::Beneath(name.clone()))).await.expect("page");
    let stands = |entry: &&docklet::state::Entry| entry.value.kind(&entry.key).expect("kind") == "lock";
    page.entries.iter().filter(stands).count()
}
