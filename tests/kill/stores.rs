//! An embedded store, as a program to be killed: whatever was told is there, and nothing is there in part.

use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use docklet::paths::Paths;
use docklet::state::{ClusterStore, EmbeddedSpec, Key, Record, Revision, Scope, Transaction};
use docklet::storage::remove_tree;
use serde::{Deserialize, Serialize};

use crate::containers::Result;
use crate::parts::say;

/// How many changes the program makes.
const CHANGES: u64 = 2;

#[derive(Serialize, Deserialize)]
struct Count {
    number: u64,
}

impl Record for Count {
    const KIND: &'static str = "count";
}

fn directory() -> docklet::Result<PathBuf> {
    Ok(Paths::from_env()?.prefix().join("store"))
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

fn with_store(work: impl AsyncFnOnce(&ClusterStore) -> Result) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let spec = EmbeddedSpec::new(directory()?.join("file"), "lab".parse()?);
        work(&ClusterStore::embedded(&spec).await?).await
    })
}

/// What stands under `a` and `b`, both or neither.
async fn number(store: &ClusterStore) -> std::result::Result<u64, Box<dyn Error>> {
    let one = store.get::<Count>(&key("a")).await?.map(|entry| entry.value.number);
    let other = store.get::<Count>(&key("b")).await?.map(|entry| entry.value.number);
    if one == other {
        return Ok(one.unwrap_or_default());
    }
    Err(format!("it is there in part: {one:?} and {other:?}").into())
}

/// Makes the store if there is none, changes it some times, and writes beside it what was told to be durable.
pub(crate) fn change() -> Result {
    let directory = directory()?;
    if !directory.is_dir() {
        fs::create_dir(&directory)?;
    }
    with_store(async |store| {
        let before = number(store).await?;
        let mut told = fs::OpenOptions::new().create(true).append(true).open(directory.join("told"))?;
        for number in before + 1..=before + CHANGES {
            let count = Count { number };
            let both = Transaction::new().put(&key("a"), &count)?.put(&key("b"), &count)?;
            let third = key(&format!("c/{number}"));
            store.commit(both.put(&third, &count)?).await?;
            store.delete(&third).await?;
            told.write_all(format!("{number}\n").as_bytes())?;
        }
        let revision = store.revision().await?;
        Ok(store.compact(Revision(revision.0 - 1)).await?)
    })
}

/// Opens it, which mends what there is to mend, and finishes what was begun; until redb has given back all the space that this set free.
pub(crate) fn recover() -> Result {
    let (directory, mut before) = (directory()?, None);
    while directory.is_dir() {
        finish()?;
        let size = Some(fs::metadata(directory.join("file"))?.len());
        if size == before {
            break;
        }
        before = size;
    }
    Ok(())
}

fn finish() -> Result {
    with_store(async |store| {
        for entry in store.entries(&Scope::beneath("c")?).await?.entries {
            store.delete(&entry.key).await?;
            println!("deleted {}", entry.key);
        }
        Ok(())
    })
}

/// "present" if what was told is there, and nothing beside the file.
pub(crate) fn state() -> Result {
    let directory = directory()?;
    if !directory.is_dir() {
        say(false);
        return Ok(());
    }
    let told = fs::read_to_string(directory.join("told")).unwrap_or_default();
    // A line that was begun was not told.
    let last = told.rsplit_once('\n').and_then(|(lines, _)| lines.lines().last()?.parse::<u64>().ok());
    with_store(async |store| {
        let found = number(store).await?;
        let last = last.unwrap_or_default();
        if found < last || found > last + 1 {
            return Err(format!("it holds {found}, and {last} was told").into());
        }
        Ok(())
    })?;
    for entry in directory.read_dir()? {
        let name = entry?.file_name();
        if name != "file" && name != "told" {
            return Err(format!("{name:?} is left").into());
        }
    }
    say(true);
    Ok(())
}

pub(crate) fn remove() -> Result {
    let prefix = Paths::from_env()?.prefix().to_owned();
    Ok(remove_tree(&prefix, "store".as_ref())?)
}
