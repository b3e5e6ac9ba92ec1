//! Opening, election, decisions, and masters that end in the middle of them.

use std::time::Duration;

use docklet::Error;
use docklet::cluster::decide::{Decision, View, admission};
use docklet::cluster::master::{self, Master, MasterRecord};
use docklet::cluster::records::{ContainerState, Settings, VirtualClusterId};
use docklet::state::{ClusterStore, Fault, Scope};

use super::stage::{Running, SimulatedWorker, Stage, new_id, node, settings, specs, user};

fn record() -> MasterRecord {
    MasterRecord { url: "https://a".to_owned() }
}

/// What creates a virtual cluster called `name` of two. Asked again it finds that it was created.
fn creates(
    name: &'static str,
) -> impl FnMut(&View) -> docklet::Result<(VirtualClusterId, Option<Decision>)> + Clone + Send + 'static {
    move |view| {
        if let Some(found) = view.virtual_clusters.values().find(|found| found.name.as_str() == name) {
            return Ok((found.id.clone(), None));
        }
        let (id, decision) = admission::create(view, &user(), name.parse()?, specs(2), &mut new_id)?;
        Ok((id, Some(decision)))
    }
}

#[tokio::test]
async fn a_store_is_one_cluster() {
    let stage = Stage::empty().await;
    let error = Master::open(stage.store.clone(), record()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
    master::init(&stage.store, &settings()).await.unwrap();
    master::init(&stage.store, &settings()).await.unwrap();
    let other = Settings { name: "other".parse().unwrap(), ..settings() };
    let error = master::init(&stage.store, &other).await.unwrap_err();
    assert!(error.to_string().contains("it holds a cluster already"), "{error}");
    let master = Master::open(stage.store.clone(), record()).await.unwrap();
    assert_eq!(*master.settings(), settings());
}

#[tokio::test]
async fn a_master_that_does_not_lead_says_who_does() {
    let stage = Stage::begin().await;
    let first = Running::begin(&stage.store, "https://a").await;
    first.populate(1).await;
    let second = Running::begin(&stage.store, "https://b").await;
    let error = loop {
        let error = second.master.decide(|_, _| Ok(((), None))).await.unwrap_err();
        if !error.to_string().contains("it does not run") {
            break error;
        }
        tokio::task::yield_now().await;
    };
    assert!(error.to_string().contains("another master leads: ask https://a"), "{error}");
    let twice = first.master.run(std::future::pending()).await.unwrap_err();
    assert!(matches!(twice, Error::Busy { .. }), "{twice}");
    first.end().await;
    second.decide(|_| Ok(((), None))).await.unwrap();
    second.end().await;
}

/// What cannot be read is decided on by nobody.
#[tokio::test]
async fn a_record_that_cannot_be_read_ends_a_master() {
    let stage = Stage::begin().await;
    let mut first = Running::begin(&stage.store, "https://a").await;
    first.populate(1).await;
    let key = docklet::state::Key::new(format!("nodes/{}", node(1))).unwrap();
    stage.store.put(&key, &settings()).await.unwrap();
    let error = Master::open(stage.store.clone(), record()).await.unwrap_err();
    assert!(error.to_string().contains("holds a \"cluster\", not a \"node\""), "{error}");
    let error = first.ended().await.unwrap_err();
    assert!(error.to_string().contains("not a \"node\""), "{error}");
    let error = first.master.decide(|_, _| Ok(((), None))).await.unwrap_err();
    assert!(error.to_string().contains("it does not run: ask another"), "{error}");
}

async fn is_left(store: &ClusterStore, beneath: &str) -> usize {
    store.entries(&Scope::beneath(beneath).unwrap()).await.unwrap().entries.len()
}

/// Creates a virtual cluster of two, lets it run, stops and removes it; wherever the master's way to the store is cut off, another one
/// goes on, and nothing is done twice or left.
async fn with_a_cut(after: u64, answer: Fault) {
    let stage = Stage::begin().await;
    let (unsound, faults) = stage.store.with_faults();
    let first = Running::begin(&unsound, "https://a").await;
    first.populate(2).await;
    let second = Running::begin(&stage.store, "https://b").await;
    let mut workers = Vec::new();
    for number in 1..=2 {
        workers.push(SimulatedWorker::begin(&second.master, node(number)).await.go_on(&second.master));
    }
    first.until("nodes are there", |view| view.presences.len() == 2).await;
    second.until("nodes are there", |view| view.presences.len() == 2).await;
    let mut calls = 0;
    faults.plan(move |_| {
        calls += 1;
        match calls {
            n if n < after => None,
            n if n == after => Some(answer),
            _ => Some(Fault::Refused),
        }
    });
    // The first one may carry it out, or not, or not know.
    let asked = tokio::time::timeout(
        Duration::from_secs(3),
        first.master.decide({
            let mut creates = creates("a");
            move |view, _| creates(view)
        }),
    );
    drop(asked.await);
    let cluster = second.decide(creates("a")).await.unwrap();
    let runs = |view: &View| {
        let states: Vec<_> = view.statuses.values().map(|status| status.state).collect();
        states == [ContainerState::Running; 2]
    };
    second.until("both run, once", runs).await;
    assert_eq!(is_left(&stage.store, "virtual-clusters").await, 1);
    let removed = cluster.clone();
    second.decide(move |view| Ok(((), admission::remove(view, &removed)))).await.unwrap();
    second.until("it is removed", |view| view.virtual_clusters.is_empty()).await;
    second.until("it is forgotten", |view| view.statuses.is_empty()).await;
    assert_eq!(is_left(&stage.store, "virtual-clusters").await, 0);
    assert_eq!(is_left(&stage.store, "statuses").await, 0);
    workers.iter().for_each(tokio::task::JoinHandle::abort);
    first.kill();
    second.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_master_goes_on_wherever_the_first_is_cut_off() {
    let mut cuts = tokio::task::JoinSet::new();
    for after in 1..=12 {
        for answer in [Fault::Refused, Fault::AnswerLost, Fault::RequestLost] {
            cuts.spawn(with_a_cut(after, answer));
        }
    }
    while let Some(cut) = cuts.join_next().await {
        cut.unwrap();
    }
}

/// Sixteen ask at once for what only some can have: each is decided on what the others left.
#[tokio::test]
async fn requests_at_once_are_decided_one_after_another() {
    let stage = Stage::begin().await;
    let master = Running::begin(&stage.store, "https://a").await;
    master.populate(2).await;
    for number in 1..=2 {
        SimulatedWorker::begin(&master.master, node(number)).await;
    }
    master.until("nodes are there", |view| view.presences.len() == 2).await;
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..16 {
        let master = master.master.clone();
        asked.spawn(async move {
            let name = format!("c{number}").parse().unwrap();
            let created = master.decide(move |view, _| {
                let name = docklet::name::VirtualClusterName::clone(&name);
                let (id, decision) = admission::create(view, &user(), name, specs(1), &mut new_id)?;
                Ok((id, Some(decision)))
            });
            created.await
        });
    }
    let ends = asked.join_all().await;
    let granted = ends.iter().filter(|end| end.is_ok()).count();
    assert_eq!(granted, 4, "two nodes have room for two each: {ends:?}");
    for error in ends.into_iter().filter_map(Result::err) {
        assert!(error.to_string().contains("2 nodes with too little cpu"), "{error}");
    }
    master.end().await;
}
