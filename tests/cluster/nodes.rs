//! What nodes are told and what they say: leases, orders, reports.

use std::collections::BTreeMap;
use std::time::Duration;

use docklet::Error;
use docklet::cluster::decide::{What, admission};
use docklet::cluster::records::{ContainerState, ContainerStatus, Epoch, Report, Schedule};

use super::stage::{Running, SimulatedWorker, Stage, TIMING, new_id, node, specs, user};

/// A master with two nodes that are there.
async fn two_nodes(stage: &Stage) -> (Running, Vec<SimulatedWorker>) {
    let master = Running::begin(&stage.store, "https://a").await;
    master.populate(2).await;
    let mut workers = Vec::new();
    for number in 1..=2 {
        workers.push(SimulatedWorker::begin(&master.master, node(number)).await);
    }
    master.until("nodes are there", |view| view.presences.len() == 2).await;
    (master, workers)
}

async fn create(master: &Running, count: usize) -> docklet::cluster::records::VirtualClusterId {
    let created = master.decide(move |view| {
        let name = "a".parse()?;
        let (id, decision) = admission::create(view, &user(), name, specs(count), &mut new_id)?;
        Ok((id, Some(decision)))
    });
    created.await.unwrap()
}

#[tokio::test]
async fn a_stranger_does_not_come() {
    let stage = Stage::begin().await;
    let (master, _) = two_nodes(&stage).await;
    let error = master.master.register(&node(9)).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    master.end().await;
}

#[tokio::test]
async fn new_orders_are_told_at_once_and_only_if_they_differ() {
    let stage = Stage::begin().await;
    let (master, workers) = two_nodes(&stage).await;
    let known = master.master.orders(&workers[0].id).await.unwrap();
    assert!(known.orders.is_empty());
    let (waits, id) = (master.master.clone(), workers[0].id.clone());
    let told = tokio::spawn(async move { waits.orders_after(&id, &known).await });
    let cluster = create(&master, 2).await;
    let told = told.await.unwrap().unwrap();
    assert_eq!(told.orders.values().map(|order| &order.what).collect::<Vec<_>>(), [&What::Run]);
    // The other node's drain is nothing to this one, whose container stays.
    master
        .decide(|view| Ok(((), Some(admission::set_schedule(view, &node(2), Schedule::Closed)?))))
        .await
        .unwrap();
    let wait = master.master.orders_after(&workers[0].id, &told);
    assert!(tokio::time::timeout(Duration::from_millis(200), wait).await.is_err());
    assert!(master.master.look(|view| view.virtual_clusters.contains_key(&cluster)));
    master.end().await;
}

#[tokio::test]
async fn what_is_out_of_date_is_not_taken_for_news() {
    let stage = Stage::begin().await;
    let (master, workers) = two_nodes(&stage).await;
    create(&master, 2).await;
    let at = workers[0].id.clone();
    let orders = master.master.orders(&at).await.unwrap().orders;
    let id = orders.keys().next().unwrap().clone();
    let says = |epoch, number, state| {
        let report = Report { epoch: Epoch(epoch), number };
        let status = ContainerStatus { report, fence: 1, state, saved: None, reason: None };
        BTreeMap::from([(id.clone(), status)])
    };
    let known = || master.master.look(|view| view.statuses[&(at.clone(), id.clone())].state);
    master.master.report(&at, &says(1, 2, ContainerState::Running)).await.unwrap();
    master.until("it runs", |view| !view.statuses.is_empty()).await;
    master.master.report(&at, &says(1, 1, ContainerState::Absent)).await.unwrap();
    master.master.report(&at, &says(1, 2, ContainerState::Absent)).await.unwrap();
    // An order behind it shows that it was seen.
    master.master.orders(&at).await.unwrap();
    assert_eq!(known(), ContainerState::Running);
    let again = master.master.register(&at).await.unwrap();
    assert_eq!(again.epoch, Epoch(2));
    let late = master.master.report(&at, &says(1, 3, ContainerState::Absent)).await.unwrap_err();
    assert!(matches!(late, Error::Conflict { .. }), "{late}");
    master.master.report(&at, &says(2, 1, ContainerState::Stopped)).await.unwrap();
    master.master.orders(&at).await.unwrap();
    assert_eq!(known(), ContainerState::Stopped);
    master.end().await;
}

/// The lease of a node ends, and its containers are started on the other one, after the fence time and not before.
#[tokio::test]
async fn a_lost_node_is_replaced() {
    let stage = Stage::begin().await;
    let (master, mut workers) = two_nodes(&stage).await;
    create(&master, 2).await;
    let mut last = workers.pop().unwrap();
    let mut first = workers.pop().unwrap();
    first.work(&master.master).await;
    last.work(&master.master).await;
    let kept = std::time::Instant::now();
    let mut states = BTreeMap::new();
    for _ in 0..500 {
        states = last.work(&master.master).await;
        if states.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(states.values().filter(|state| **state == ContainerState::Running).count(), 2);
    // Never before the lease was over and the time to kill what ran there had passed.
    assert!(kept.elapsed() + Duration::from_millis(100) >= TIMING.lease + TIMING.fence);
    let gone = master.master.keep(first.lease.lease).await.unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
    // It comes anew, and removes what it had.
    first.lease = master.master.register(&first.id).await.unwrap();
    let states = first.work(&master.master).await;
    assert_eq!(states.into_values().collect::<Vec<_>>(), [ContainerState::Absent]);
    master
        .until("nothing is left", |view| {
            view.virtual_clusters
                .values()
                .all(|cluster| cluster.members.values().all(|m| m.remains.is_empty()))
        })
        .await;
    master.end().await;
}
