//! What is written down before the host is touched: one manifest per container, one record per network.
//!
//! A manifest is on the disk, durably, before the first object of its container is made, and is the last thing
//! that goes. It records the objects' names as they were chosen, so that a later version finds what this one made.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::spec::{ContainerSpec, NetworkSpec};
use crate::error::{Error, Result};
use crate::name::{ContainerName, LinkName, NetworkName, ObjectId, VolumeName};
use crate::net::{InterfaceAddress, LinkOwner};
use crate::sys::file;

/// The version of the files' format that this version writes. It reads this and older ones.
const FORMAT: u32 = 1;

/// How far a container's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Phase {
    /// Being made for the first time. Recovery takes it back: nobody was told that it exists.
    Creating,
    /// All its data is on the disk. What is missing from now on is a loss, never made anew.
    Created,
    /// Being removed. Recovery finishes that.
    Removing,
}

/// What a container should be, and what its objects are called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    pub(super) id: ObjectId,
    pub(super) phase: Phase,
    /// Whether it should run.
    pub(super) run: bool,
    pub(super) objects: Objects,
    pub(super) spec: ContainerSpec,
}

/// The recorded names of a container's objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Objects {
    pub(super) volume: VolumeName,
    /// Beneath every hierarchy's root.
    pub(super) cgroup: String,
    pub(super) port: Option<Port>,
}

/// A container's end of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Port {
    /// The host's end of the veth pair.
    pub(super) link: LinkName,
    /// The mark in its `ifalias`.
    pub(super) owner: LinkOwner,
    pub(super) address: InterfaceAddress,
}

impl Manifest {
    pub(super) fn new(id: ObjectId, spec: ContainerSpec, objects: Objects) -> Self {
        Self { format: FORMAT, id, phase: Phase::Creating, run: true, objects, spec }
    }
}

/// What a network should be, and what its objects are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetworkRecord {
    format: u32,
    pub(super) bridge: LinkName,
    /// The mark in the bridge's `ifalias`.
    pub(super) owner: LinkOwner,
    pub(super) spec: NetworkSpec,
}

impl NetworkRecord {
    pub(super) fn new(bridge: LinkName, owner: LinkOwner, spec: NetworkSpec) -> Self {
        Self { format: FORMAT, bridge, owner, spec }
    }
}

/// What a directory of records holds.
pub(super) trait Record: Serialize + DeserializeOwned {
    type Name: AsRef<str> + TryFrom<String, Error = Error>;
    const WHAT: &'static str;
    fn format(&self) -> u32;
}

impl Record for Manifest {
    type Name = ContainerName;
    const WHAT: &'static str = "container";

    fn format(&self) -> u32 {
        self.format
    }
}

impl Record for NetworkRecord {
    type Name = NetworkName;
    const WHAT: &'static str = "network";

    fn format(&self) -> u32 {
        self.format
    }
}

/// A directory with one JSON file per record. Reading needs no lock: files are replaced whole.
#[derive(Debug, Clone)]
pub(super) struct Records<R> {
    dir: PathBuf,
    record: std::marker::PhantomData<fn() -> R>,
}

impl<R: Record> Records<R> {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, record: std::marker::PhantomData }
    }

    fn path(&self, name: &R::Name) -> PathBuf {
        self.dir.join(format!("{}.json", name.as_ref()))
    }

    /// The record called `name`, or `None`.
    pub(super) fn get(&self, name: &R::Name) -> Result<Option<R>> {
        let path = self.path(name);
        file::read_if_exists(&path)?.map(|text| parse(&path, &text)).transpose()
    }

    /// The record called `name`.
    pub(super) fn open(&self, name: &R::Name) -> Result<R> {
        self.get(name)?.ok_or_else(|| Error::NotFound { what: format!("{} `{}`", R::WHAT, name.as_ref()) })
    }

    /// Writes `record` durably.
    pub(super) fn publish(&self, name: &R::Name, record: &R) -> Result<()> {
        self.publish_early(name, record)?;
        self.sync(name)
    }

    /// Writes `record` so that others see it; a power cut may take it until [`Records::sync`].
    pub(super) fn publish_early(&self, name: &R::Name, record: &R) -> Result<()> {
        let path = self.path(name);
        let json = serde_json::to_vec_pretty(record)
            .map_err(|e| Error::os("serialize", path.display(), std::io::Error::other(e)))?;
        file::publish(&path, &json)
    }

    /// Makes durable what was published of `name`.
    pub(super) fn sync(&self, name: &R::Name) -> Result<()> {
        file::sync_parent(&self.path(name))
    }

    /// Removes the record called `name`, durably.
    pub(super) fn remove(&self, name: &R::Name) -> Result<()> {
        let path = self.path(name);
        file::remove_file(&path)?;
        file::sync_parent(&path)
    }

    /// The names of all records, sorted.
    pub(super) fn names(&self) -> Result<Vec<R::Name>> {
        self.stems(&[".json"])
    }

    /// The names of all records and of those that an interrupted [`Records::publish`] left a file of.
    pub(super) fn names_with_left_overs(&self) -> Result<Vec<R::Name>> {
        self.stems(&[".json", ".json.new"])
    }

    /// All records, by name. One that disappears meanwhile is left out.
    pub(super) fn all(&self) -> Result<Vec<R>> {
        let mut records = Vec::new();
        for name in self.names()? {
            records.extend(self.get(&name)?);
        }
        Ok(records)
    }

    /// Removes what an interrupted [`Records::publish`] of `name` left. The caller holds the name's lock.
    pub(super) fn tidy(&self, name: &R::Name) -> Result<()> {
        file::remove_file(&self.path(name).with_extension("json.new"))
    }

    fn stems(&self, endings: &[&str]) -> Result<Vec<R::Name>> {
        let mut stems = std::collections::BTreeSet::new();
        for entry in fs::read_dir(&self.dir).map_err(|e| Error::os("readdir", self.dir.display(), e))? {
            let entry = entry.map_err(|e| Error::os("readdir", self.dir.display(), e))?.file_name();
            let entry = entry.to_string_lossy();
            stems.extend(endings.iter().filter_map(|ending| entry.strip_suffix(ending)).map(str::to_owned));
        }
        stems.into_iter().map(R::Name::try_from).collect()
    }
}

fn parse<R: Record>(path: &Path, text: &str) -> Result<R> {
    #[derive(Deserialize)]
    struct Versioned {
        format: u32,
    }
    let damaged = |e: serde_json::Error| Error::os("parse", path.display(), std::io::Error::other(e));
    // The version first: a newer file may have fields that this version cannot read.
    let version: Versioned = serde_json::from_str(text).map_err(damaged)?;
    if version.format > FORMAT {
        return Err(Error::Unsupported {
            what: format!("reading {}", path.display()),
            needs: format!(
                "it has format {} and this version reads up to {FORMAT}; use the newer docklet",
                version.format
            ),
        });
    }
    let record: R = serde_json::from_str(text).map_err(damaged)?;
    debug_assert!(record.format() <= FORMAT);
    Ok(record)
}
