//! What the store costs: `cargo bench --bench store`. It needs no root. With `-- embedded`, that engine's alone.
//!
//! The embedded engine's side to compare with is redb alone: one insertion, committed durably, again and again. etcd's, with
//! `--features etcd`, is its client alone, on the same server. Both sides run in turns, and the ratio of their medians is printed. All
//! else is ours alone.

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::path::Path;
use std::time::{Duration, Instant};

use docklet::state::{ClusterStore, EmbeddedSpec, Key, Notice, Record, Scope, Transaction, Watch};
use futures_util::future::join_all;
use redb::{Database, TableDefinition};
use serde::{Deserialize, Serialize};

#[cfg(feature = "etcd")]
#[path = "parts/etcd.rs"]
mod etcd;
#[path = "parts/figures.rs"]
mod figures;

use figures::{percentile, ratio};

const ROUNDS: u32 = 400;
const WRITERS: u32 = 32;
const LISTED: usize = 100_000;
const WATCHES: usize = 1_000;

#[derive(Serialize, Deserialize)]
struct Node {
    text: String,
}

impl Record for Node {
    const KIND: &'static str = "node";
}

fn main() {
    let name = format!("docklet-test-{}-store", std::process::id());
    let directory = Path::new("/var/tmp").join(&name);
    std::fs::create_dir(&directory).expect("directory");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("runtime").block_on(async {
        embedded(&directory).await;
        #[cfg(feature = "etcd")]
        if !std::env::args().any(|argument| argument == "embedded") {
            on_etcd(&directory).await;
        }
    });
    docklet::storage::remove_tree(Path::new("/var/tmp"), Path::new(&name)).expect("remove the directory");
}

fn node() -> Node {
    Node { text: "x".repeat(100) }
}

fn key(text: String) -> Key {
    Key::new(text).expect("key")
}

async fn embedded(directory: &Path) {
    let spec = EmbeddedSpec::new(directory.join("store"), "bench".parse().expect("name"));
    let store = ClusterStore::embedded(&spec).await.expect("store");
    let bare = Bare::new(&directory.join("bare"));
    let alone = puts("embedded", &store, async |round| bare.put(round)).await;
    writers("embedded", &store, alone).await;
    bare.together();
    events("embedded", &store, 1).await;
    events("embedded", &store, WATCHES).await;
    listing("embedded", &store).await;
    drop(store);
    let begin = Instant::now();
    ClusterStore::embedded(&spec).await.expect("store");
    print("embedded: open that again", begin.elapsed());
}

#[cfg(feature = "etcd")]
async fn on_etcd(directory: &Path) {
    let server = etcd::Server::start(&directory.join("etcd"));
    let spec = docklet::state::EtcdSpec::new("bench".parse().expect("name"), [&server.endpoint]);
    let store = ClusterStore::etcd(&spec).await.expect("connect");
    let bare = etcd::Bare::connect(&server).await;
    let value = serde_json::to_vec(&node()).expect("JSON");
    let alone = puts("etcd", &store, async |round| bare.put(round, value.clone()).await).await;
    together(&store, &bare, &value).await;
    writers("etcd", &store, alone).await;
    events("etcd", &store, 1).await;
    events("etcd", &store, WATCHES).await;
    listing("etcd", &store).await;
}

/// A transaction of ten keys, in turns with the client's own.
#[cfg(feature = "etcd")]
async fn together(store: &ClusterStore, bare: &etcd::Bare, value: &[u8]) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let put = |transaction: Transaction, n| {
            transaction.put(&key(format!("together/{n}")), &node()).expect("transaction")
        };
        store.commit((0..10).fold(Transaction::new(), put)).await.expect("commit");
        ours.push(begin.elapsed());
        let begin = Instant::now();
        bare.commit(10, value).await;
        theirs.push(begin.elapsed());
    }
    println!(
        "etcd: transaction of 10 keys {:.3} ms, bare {:.3} ms: {:.2} times",
        percentile(&ours, 50),
        percentile(&theirs, 50),
        ratio(&ours, &theirs)
    );
}

/// redb alone.
struct Bare(Database);

const TABLE: TableDefinition<&str, &[u8]> = TableDefinition::new("table");

impl Bare {
    fn new(path: &Path) -> Self {
        Self(Database::create(path).expect("database"))
    }

    fn put(&self, round: u32) {
        self.commit(&[format!("alone/{round}")]);
    }

    fn commit(&self, keys: &[String]) {
        let value = serde_json::to_vec(&node()).expect("JSON");
        let transaction = self.0.begin_write().expect("begin");
        {
            let mut table = transaction.open_table(TABLE).expect("table");
            for key in keys {
                table.insert(key.as_str(), value.as_slice()).expect("insert");
            }
        }
        transaction.commit().expect("commit");
    }

    /// What so many writers could have at best: their puts are in one transaction, and nobody waits for another.
    fn together(&self) {
        let begin = Instant::now();
        for round in 0..ROUNDS {
            let keys: Vec<_> = (0..WRITERS).map(|writer| format!("many/{writer}/{}", round % 50)).collect();
            self.commit(&keys);
        }
        let each = begin.elapsed().as_secs_f64() / f64::from(WRITERS * ROUNDS);
        println!("bare: {WRITERS} puts in one transaction, again and again: {:.0} puts/s", 1.0 / each);
    }
}

/// One put after the other, in turns with the other side. The median of ours in seconds.
async fn puts(engine: &str, store: &ClusterStore, other: impl AsyncFn(u32)) -> f64 {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let begin = Instant::now();
        store.put(&key(format!("alone/{round}")), &node()).await.expect("put");
        ours.push(begin.elapsed());
        let begin = Instant::now();
        other(round).await;
        theirs.push(begin.elapsed());
    }
    println!(
        "{engine}: put {:.3} ms (p99 {:.3}), bare {:.3} ms: {:.2} times",
        percentile(&ours, 50),
        percentile(&ours, 99),
        percentile(&theirs, 50),
        ratio(&ours, &theirs)
    );
    percentile(&ours, 50) / 1e3
}

/// Many at once, against `alone`, the seconds that one takes.
async fn writers(engine: &str, store: &ClusterStore, alone: f64) {
    let begin = Instant::now();
    let tasks = (0..WRITERS).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                store.put(&key(format!("many/{writer}/{}", round % 50)), &node()).await.expect("put");
            }
        })
    });
    join_all(tasks.collect::<Vec<_>>()).await.into_iter().for_each(|task| task.expect("writer"));
    let each = begin.elapsed().as_secs_f64() / f64::from(WRITERS * ROUNDS);
    println!(
        "{engine}: {WRITERS} writers {:.0} puts/s, alone {:.0}: {:.1} times",
        1.0 / each,
        1.0 / alone,
        alone / each
    );
}

/// From when a put was asked for to when watches have told of it.
async fn events(engine: &str, store: &ClusterStore, count: usize) {
    let mut watches = Vec::new();
    for _ in 0..count {
        watches.push(store.watch(Scope::beneath("watched").expect("scope")).await.expect("watch"));
    }
    let mut times = Vec::new();
    for round in 0..100 {
        let following: Vec<_> = watches.into_iter().map(|watch| tokio::spawn(follow(watch))).collect();
        tokio::task::yield_now().await;
        let asked = Instant::now();
        store.put(&key(format!("watched/{round}")), &node()).await.expect("put");
        watches = Vec::new();
        for (watch, told) in join_all(following).await.into_iter().map(|task| task.expect("watch")) {
            times.push(told - asked);
            watches.push(watch);
        }
    }
    println!(
        "{engine}: {count} watches told {:.3} ms after the put was asked for (p99 {:.3})",
        percentile(&times, 50),
        percentile(&times, 99)
    );
}

async fn follow(mut watch: Watch) -> (Watch, Instant) {
    let notice = watch.next().await.expect("watch");
    let told = Instant::now();
    assert!(matches!(notice, Notice::Changed(_)));
    (watch, told)
}

async fn listing(engine: &str, store: &ClusterStore) {
    let orders = (0..LISTED / 100).map(|hundred| async move {
        let put = |transaction: Transaction, number| {
            transaction.put(&key(format!("listed/{hundred:04}/{number:02}")), &node()).expect("transaction")
        };
        store.commit((0..100).fold(Transaction::new(), put)).await.expect("commit");
    });
    join_all(orders).await;
    let scope = Scope::beneath("listed").expect("scope");
    let begin = Instant::now();
    let listed = store.list::<Node>(&scope).await.expect("list");
    print(&format!("{engine}: {LISTED} keys listed in pages"), begin.elapsed());
    assert_eq!(listed.entries.len(), LISTED);
}

fn print(what: &str, time: Duration) {
    println!("{what} {:.1} ms", time.as_secs_f64() * 1e3);
}
