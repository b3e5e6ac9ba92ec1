//! Directories of records: a JSON file each, replaced whole (`man 2 rename`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::memory::Memory;
use crate::error::{Chain, Error, Result};
use crate::sys::directory::entries;
use crate::sys::{file, record};

/// The version of the files' format that this version writes. It reads this and older ones.
pub(super) const FORMAT: u32 = 1;

/// What a directory of records holds.
pub(crate) trait Record: Serialize + DeserializeOwned {
    type Name: AsRef<str> + TryFrom<String, Error = Error>;
    const WHAT: &'static str;
    /// What it is called, as its file is.
    fn name(&self) -> &Self::Name;
}

/// The records of a directory.
#[derive(Debug)]
pub(crate) struct Listing<R> {
    /// Those that can be read, by name.
    pub(crate) records: Vec<Arc<R>>,
    /// Why others cannot, by name: damaged, or of a newer version. What they stand for is unknown, and may exist.
    pub(crate) unreadable: BTreeMap<String, Error>,
}

impl<R> Listing<R> {
    /// All records, for who must not overlook one.
    ///
    /// # Errors
    /// [`Error::Busy`] about `what`, with the file that is in the way.
    pub(crate) fn whole(&self, what: impl FnOnce() -> String) -> Result<&[Arc<R>]> {
        match self.unreadable.values().next() {
            None => Ok(&self.records),
            Some(error) => Err(Error::Busy {
                what: what(),
                reason: format!("a record that cannot be read may stand for a user of it: {}", Chain(error)),
            }),
        }
    }
}

/// A directory with one JSON file per record. Reading needs no lock: files are replaced whole.
#[derive(Debug)]
pub(crate) struct Records<R> {
    dir: PathBuf,
    memory: Memory<R>,
}

impl<R: Record> Records<R> {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, memory: Memory::new() }
    }

    fn path(&self, name: &R::Name) -> PathBuf {
        self.dir.join(format!("{}.json", name.as_ref()))
    }

    /// The record called `name`, or `None`.
    pub(crate) fn get(&self, name: &R::Name) -> Result<Option<R>> {
        let path = self.path(name);
        let Some(text) = file::read_if_exists(&path)? else { return Ok(None) };
        let record: R = record::decode(&text, &path, FORMAT)?;
        if record.name().as_ref() == name.as_ref() {
            return Ok(Some(record));
        }
        // A copy would be a second owner of the same objects.
        Err(Error::Differs {
            what: format!("{} `{}`", R::WHAT, name.as_ref()),
            difference: format!("{} is of `{}`; move it away", path.display(), record.name().as_ref()),
        })
    }

    /// The record called `name`.
    pub(crate) fn open(&self, name: &R::Name) -> Result<R> {
        self.get(name)?.ok_or_else(|| Error::NotFound { what: format!("{} `{}`", R::WHAT, name.as_ref()) })
    }

    /// Writes `record` durably.
    pub(crate) fn publish(&self, name: &R::Name, record: &R) -> Result<()> {
        self.publish_early(name, record)?;
        self.sync(name)
    }

    /// Writes `record` so that others see it; a power cut may take it until [`Records::sync`].
    pub(crate) fn publish_early(&self, name: &R::Name, record: &R) -> Result<()> {
        let path = self.path(name);
        file::publish(&path, &record::encode(record, &path)?)
    }

    /// Makes durable what was published of `name`.
    pub(crate) fn sync(&self, name: &R::Name) -> Result<()> {
        file::sync_parent(&self.path(name))
    }

    /// Removes the record called `name`, durably.
    pub(crate) fn remove(&self, name: &R::Name) -> Result<()> {
        let path = self.path(name);
        file::remove_file(&path)?;
        file::sync_parent(&path)
    }

    /// The names of all records, sorted.
    pub(crate) fn names(&self) -> Result<Vec<R::Name>> {
        self.stems(&[".json"])
    }

    /// The names of all records and of those that an interrupted [`Records::publish`] left a file of.
    pub(crate) fn names_with_left_overs(&self) -> Result<Vec<R::Name>> {
        self.stems(&[".json", ".json.new"])
    }

    /// All records, by name. One that disappears meanwhile is left out. Read are those files that have changed.
    pub(crate) fn all(&self) -> Result<Listing<R>> {
        let mut listing = Listing { records: Vec::new(), unreadable: BTreeMap::new() };
        let names = self.names()?;
        for name in &names {
            match self.memory.recall(name.as_ref(), &self.path(name), || self.get(name)) {
                Ok(record) => listing.records.extend(record),
                Err(error) => drop(listing.unreadable.insert(name.as_ref().to_owned(), error)),
            }
        }
        self.memory.keep(&names);
        Ok(listing)
    }

    /// Removes what an interrupted [`Records::publish`] of `name` left. The caller holds the name's lock.
    pub(crate) fn tidy(&self, name: &R::Name) -> Result<()> {
        file::remove_file(&self.path(name).with_extension("json.new"))
    }

    fn stems(&self, endings: &[&str]) -> Result<Vec<R::Name>> {
        let mut stems = BTreeSet::new();
        for entry in entries(&self.dir)? {
            let entry = entry.to_string_lossy();
            stems.extend(endings.iter().filter_map(|ending| entry.strip_suffix(ending)).map(str::to_owned));
        }
        // A file of another name is none of ours.
        Ok(stems.into_iter().filter_map(|stem| R::Name::try_from(stem).ok()).collect())
    }
}
