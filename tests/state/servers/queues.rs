//! Queues on three members of one etcd, of which one or two stand still while somebody waits in it.

use std::time::Duration;

use docklet::Error;
use docklet::state::{ClusterStore, EtcdSpec, Lease, Query, Scope, Transaction};
use futures_util::future::join_all;

use super::faults::ends;
use super::members::Members;
use crate::contract::{key, note, soon};

const LONG: Duration = Duration::from_secs(600);

/// What stands in the queue; what was given up is told by its kind.
async fn kinds(store: &ClusterStore) -> Vec<String> {
    let page = store.page(Query::new(Scope::Beneath(key("lock")))).await.expect("page");
    page.entries.iter().map(|entry| entry.value.kind(&entry.key).expect("kind")).collect()
}

/// Somebody new has the lock at once, though all who were there before keep their leases; and with these everything goes.
async fn is_free(store: &ClusterStore, before: Vec<Lease>) {
    let lease = store.lease(LONG).await.expect("lease");
    let held = soon("the lock", store.lock(&key("lock"), &lease)).await.expect("lock");
    store.commit(Transaction::new().if_held(held.fence())).await.expect("it is held");
    held.release().await.expect("release");
    assert!(before.iter().all(Lease::is_held), "it is not the end of a lease that has cleared the way");
    for lease in before {
        lease.end().await.expect("end");
    }
    assert_eq!(kinds(store).await, [""; 0]);
}

/// A request for a place lies in a member that stands still; whoever asked for it has another place meanwhile, and gives it back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_asked_of_a_frozen_member_holds_nobody_up() {
    let members = Members::start().await;
    let frozen = (members.leader() + 1) % 3;
    let spec = members.spec(frozen);
    let others = EtcdSpec { cluster: spec.cluster.clone(), ..members.spec((frozen + 1) % 3) };
    let others = ClusterStore::etcd(&others).await.expect("connect");
    let mut waiters = Vec::new();
    for _ in 0..8 {
        let store = ClusterStore::etcd(&spec).await.expect("connect");
        let lease = store.lease(LONG).await.expect("lease");
        waiters.push((store, lease));
    }
    members.servers[frozen].stop().await;
    let name = &key("lock");
    let work = waiters.iter().map(|(store, lease)| async {
        let held = soon("the lock", store.lock(name, lease)).await.expect("another member answers");
        store.commit(Transaction::new().if_held(held.fence())).await.expect("it is held");
        held.release().await.expect("release");
    });
    join_all(work).await;
    let cleared = async {
        while kinds(&others).await.iter().filter(|kind| *kind == "given-up place").count() < 8 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the places to be given up", cleared).await;
    members.servers[frozen].resume();
    let own = EtcdSpec { endpoints: spec.endpoints[..1].to_vec(), ..spec };
    let back = async { while ClusterStore::etcd(&own).await.is_err() {} };
    soon("the frozen member to be back", back).await;
    others.put(&key("later"), &note("1")).await.expect("put");
    is_free(&others, waiters.into_iter().map(|(_, lease)| lease).collect()).await;
}

/// A leader whose followers stand still takes the request down, and carries it out when they are back, long after its waiter is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_that_lay_in_the_log_holds_nobody_up() {
    let members = Members::start().await;
    let leader = members.leader();
    let store = ClusterStore::etcd(&members.spec(leader)).await.expect("connect");
    let lease = store.lease(LONG).await.expect("lease");
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    for follower in followers {
        members.servers[follower].stop().await;
    }
    let lock = key("lock");
    let waiting = tokio::time::timeout(Duration::from_millis(700), store.lock(&lock, &lease)).await;
    waiting.expect_err("nobody can have it");
    let put = ends("put", store.put(&key("a"), &note("1"))).await;
    assert!(matches!(put, Err(Error::Unavailable { .. } | Error::OutcomeUnknown { .. })), "{put:?}");
    for follower in followers {
        members.servers[follower].resume();
    }
    let back = async { while store.put(&key("b"), &note("1")).await.is_err() {} };
    soon("most of the members to be back", back).await;
    is_free(&store, vec![lease]).await;
}
