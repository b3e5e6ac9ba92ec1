//! An embedded store on a disk that is really full: what was told stays, what was not done is told, and it goes on once there is room.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use docklet::Error;
use docklet::state::{ClusterStore, EmbeddedSpec, Key, Record, Scope};
use serde::{Deserialize, Serialize};

use crate::kernel;
use crate::sandbox::Sandbox;

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    text: String,
}

impl Record for Note {
    const KIND: &'static str = "note";
}

fn note(length: usize) -> Note {
    Note { text: "x".repeat(length) }
}

/// Every entry, and the length of its text.
async fn told(store: &ClusterStore) -> BTreeMap<String, usize> {
    let entries = store.list::<Note>(&Scope::All).await.expect("list").entries;
    entries.into_iter().map(|entry| (entry.key.to_string(), entry.value.text.len())).collect()
}

/// Puts until there is no room, each value smaller than the one before that did not fit.
async fn fill(store: &ClusterStore, done: &mut BTreeMap<String, usize>) -> usize {
    let (mut length, mut refused) = (64 << 10, 0);
    while length > 0 {
        let name = format!("k/{}", done.len());
        match store.put(&Key::new(&*name).expect("key"), &note(length)).await {
            Ok(_) => drop(done.insert(name, length)),
            Err(Error::NoSpace { .. }) => {
                refused += 1;
                length /= 4;
            }
            // The store was told to be written, and the disk did not say whether it keeps it.
            Err(error) => panic!("{error}"),
        }
    }
    refused
}

async fn goes_on_when_there_is_room(directory: &Path) {
    let spec = EmbeddedSpec::new(directory.join("store"), "lab".parse().expect("name"));
    let store = ClusterStore::embedded(&spec).await.expect("open");
    let mut ballast = File::create(directory.join("ballast")).expect("create");
    ballast.write_all(&vec![1; 2 << 20]).expect("write");
    let mut done = BTreeMap::new();
    assert!(fill(&store, &mut done).await > 2);
    assert!(done.len() > 10, "{}", done.len());
    // To the last block: not even what is there can be written again.
    while ballast.write_all(&[1; 512]).is_ok() {}
    let first = Key::new("k/0").expect("key");
    let error = store.put(&first, &note(1)).await.expect_err("there is no room");
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert_eq!(told(&store).await, done);
    // Another process finds the same.
    drop(store);
    let store = ClusterStore::embedded(&spec).await.expect("open again, on the full disk");
    assert_eq!(told(&store).await, done);
    // There is room again: the store goes on as it is.
    std::fs::remove_file(directory.join("ballast")).expect("remove");
    drop(ballast);
    assert!(fill(&store, &mut done).await > 2);
    assert_eq!(told(&store).await, done);
    drop(store);
    let store = ClusterStore::embedded(&spec).await.expect("open");
    assert_eq!(told(&store).await, done);
}

#[tokio::test]
#[ignore = "needs root: mounts"]
async fn a_store_on_a_full_tmpfs_loses_nothing() {
    let sandbox = Sandbox::new();
    let directory = sandbox.dir("full");
    kernel::run("mount", ["-t", "tmpfs", "-o", "size=8m", "none", directory.to_str().expect("UTF-8")]);
    goes_on_when_there_is_room(&directory).await;
    kernel::run("umount", [&directory]);
}

#[tokio::test]
#[ignore = "needs root: loop devices"]
async fn a_store_on_a_full_disk_loses_nothing() {
    let sandbox = Sandbox::new();
    let directory = sandbox.dir("full");
    let image = sandbox.dir("image").join("ext4");
    File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("create");
    kernel::run("mkfs.ext4", ["-q", "-m", "0", image.to_str().expect("UTF-8")]);
    kernel::run("mount", ["-o", "loop", image.to_str().expect("UTF-8"), directory.to_str().expect("UTF-8")]);
    goes_on_when_there_is_room(&directory).await;
    kernel::run("umount", [&directory]);
}
