//! A put, a watch, a lock and an election on a store:
//!
//! ```text
//! cargo run --example store                                                       # in a file, no server needed
//! cargo run --example store -- --file /var/lib/lab/store                          # in this file, which stays
//! cargo run --features etcd --example store -- --etcd http://127.0.0.1:2379      # on a server
//! ```
//!
//! Needs no root. What it writes stands beneath `example/`, and is deleted in the end.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a program speaks to the person who runs it")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use docklet::error::Chain;
use docklet::name::ClusterName;
use docklet::state::{Change, ClusterStore, EmbeddedSpec, Key, Notice, Record, Scope, Transaction};
use serde::{Deserialize, Serialize};

const USAGE: &str = "usage: store [--file FILE | --etcd URL]";

/// What is kept. Its kind and version stand beside it in the store.
#[derive(Debug, Serialize, Deserialize)]
struct Node {
    address: String,
}

impl Record for Node {
    const KIND: &'static str = "node";
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("store: {}", Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let cluster = ClusterName::new("example")?;
    match arguments {
        [] => {
            let file = std::env::temp_dir().join(format!("docklet-store-{}", std::process::id()));
            let shown = show(&ClusterStore::embedded(&EmbeddedSpec::new(&file, cluster)).await?).await;
            std::fs::remove_file(file)?;
            Ok(shown?)
        }
        [option, file] if option == "--file" => {
            let spec = EmbeddedSpec::new(PathBuf::from(file), cluster);
            Ok(show(&ClusterStore::embedded(&spec).await?).await?)
        }
        [option, url] if option == "--etcd" => on_etcd(cluster, url).await,
        _ => Err(USAGE.into()),
    }
}

#[cfg(feature = "etcd")]
async fn on_etcd(cluster: ClusterName, url: &str) -> Result<(), Box<dyn std::error::Error>> {
    let spec = docklet::state::EtcdSpec::new(cluster, [url]);
    Ok(show(&ClusterStore::etcd(&spec).await?).await?)
}

#[cfg(not(feature = "etcd"))]
async fn on_etcd(_: ClusterName, _: &str) -> Result<(), Box<dyn std::error::Error>> {
    Err("built without etcd: cargo run --features etcd --example store -- --etcd URL".into())
}

/// The same on every engine.
async fn show(store: &ClusterStore) -> docklet::Result<()> {
    let key = Key::new("example/nodes/n1")?;
    let mut watch = store.watch(Scope::beneath("example/nodes")?).await?;

    // A value, changed only if nobody else has changed it since it was read.
    store.put(&key, &Node { address: "10.0.0.1".into() }).await?;
    if let Some(node) = store.get::<Node>(&key).await? {
        let moved = Node { address: "10.0.0.2".into() };
        let revision = store.commit(Transaction::new().if_unchanged(&node).put(&key, &moved)?).await?;
        println!("put      {key} at revision {revision}");
    }
    for _ in 0..2 {
        if let Notice::Changed(batch) = watch.next().await? {
            for change in batch.changes {
                if let Change::Put(entry) = change {
                    let node = entry.decode::<Node>()?;
                    println!("watch    {} = {:?}", node.key, node.value);
                }
            }
        }
    }

    // What is held hangs on a lease: it ends by itself if this process does.
    let lease = store.lease(Duration::from_secs(10)).await?;
    let held = store.lock(&Key::new("example/lock")?, &lease).await?;
    store.commit(Transaction::new().if_held(held.fence()).delete(&key)).await?;
    println!(
        "lock     held since revision {}: whoever had it before can write no more",
        held.fence().revision
    );
    held.release().await?;

    let office = Key::new("example/leader")?;
    let elected = store.campaign(&office, &Node { address: "10.0.0.3".into() }, &lease).await?;
    if let Some(leader) = store.leader::<Node>(&office).await? {
        println!("election {:?} leads, for {:?} at least", leader.value, lease.remaining());
    }
    elected.release().await?;
    lease.end().await
}
