//! What is written down before the host is touched: one manifest per container, one record per network.
//!
//! A manifest is on the disk, durably, before the first object of its container is made, and is the last thing
//! that goes. It records the objects' names as they were chosen, so that a later version finds what this one made.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::spec::{ContainerSpec, NetworkSpec};
use crate::error::{Chain, Error, Result};
use crate::name::{ContainerName, LinkName, NetworkName, ObjectId, VolumeName};
use crate::net::{InterfaceAddress, LinkOwner, Veth};
use crate::storage::{ImageContent, PoolSpec};
use crate::sys::directory::entries;
use crate::sys::{file, record};

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
    /// What it was made from, whatever the image's name stands for by now.
    pub(super) image: ImageContent,
    pub(super) spec: ContainerSpec,
}

/// The recorded names of a container's objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Objects {
    pub(super) volume: VolumeName,
    /// The pool that the volume is in. `None`: loop files under the prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pool: Option<PoolSpec>,
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

impl Port {
    /// Whether `link` is one of those that it is made of.
    pub(super) fn has_link(&self, link: &LinkName) -> bool {
        Veth::links(&self.link, &self.owner).contains(link)
    }
}

impl Manifest {
    pub(super) fn new(id: ObjectId, spec: ContainerSpec, image: ImageContent, objects: Objects) -> Self {
        Self { format: FORMAT, id, phase: Phase::Creating, run: true, objects, image, spec }
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
    /// What it is called, as its file is.
    fn name(&self) -> &Self::Name;
}

impl Record for Manifest {
    type Name = ContainerName;
    const WHAT: &'static str = "container";

    fn name(&self) -> &ContainerName {
        &self.spec.name
    }
}

impl Record for NetworkRecord {
    type Name = NetworkName;
    const WHAT: &'static str = "network";

    fn name(&self) -> &NetworkName {
        &self.spec.name
    }
}

/// The records of a directory.
#[derive(Debug)]
pub(super) struct Listing<R> {
    /// Those that can be read, by name.
    pub(super) records: Vec<R>,
    /// Why others cannot: damaged, or of a newer version. What they stand for is unknown, and may exist.
    pub(super) unreadable: Vec<Error>,
}

impl<R> Listing<R> {
    /// All records, for who must not overlook one.
    ///
    /// # Errors
    /// [`Error::Busy`] about `what`, with the file that is in the way.
    pub(super) fn whole(self, what: impl FnOnce() -> String) -> Result<Vec<R>> {
        match self.unreadable.first() {
            None => Ok(self.records),
            Some(error) => Err(Error::Busy {
                what: what(),
                reason: format!("a record that cannot be read may stand for a user of it: {}", Chain(error)),
            }),
        }
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
        file::publish(&path, &record::encode(record, &path)?)
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

    /// All records. One that disappears meanwhile is left out.
    pub(super) fn all(&self) -> Result<Listing<R>> {
        let mut listing = Listing { records: Vec::new(), unreadable: Vec::new() };
        for name in self.names()? {
            match self.get(&name) {
                Ok(record) => listing.records.extend(record),
                Err(error) => listing.unreadable.push(error),
            }
        }
        Ok(listing)
    }

    /// Removes what an interrupted [`Records::publish`] of `name` left. The caller holds the name's lock.
    pub(super) fn tidy(&self, name: &R::Name) -> Result<()> {
        file::remove_file(&self.path(name).with_extension("json.new"))
    }

    fn stems(&self, endings: &[&str]) -> Result<Vec<R::Name>> {
        let mut stems = std::collections::BTreeSet::new();
        for entry in entries(&self.dir)? {
            let entry = entry.to_string_lossy();
            stems.extend(endings.iter().filter_map(|ending| entry.strip_suffix(ending)).map(str::to_owned));
        }
        // A file of another name is none of ours.
        Ok(stems.into_iter().filter_map(|stem| R::Name::try_from(stem).ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What earlier versions wrote has no pool: the volume is a loop file under the prefix.
    #[test]
    fn a_manifest_without_a_pool_is_read_and_written_as_it_was() {
        let old = r#"{"volume":"0123456789abcdef","cgroup":"docklet/x/y","port":null}"#;
        let objects: Objects = serde_json::from_str(old).unwrap();
        assert_eq!(objects.pool, None);
        assert_eq!(serde_json::to_string(&objects).unwrap(), old);
        let lvm = r#"{"volume":"0123456789abcdef","pool":{"lvm":{"directory":"/pool","lvm":{"volume_group":"vg0","thin_pool":"thin"}}},"cgroup":"docklet/x/y","port":null}"#;
        let objects: Objects = serde_json::from_str(lvm).unwrap();
        assert!(
            matches!(&objects.pool, Some(PoolSpec::Lvm { lvm, .. }) if lvm.volume_group.as_str() == "vg0")
        );
        assert_eq!(serde_json::to_string(&objects).unwrap(), lvm);
    }
}
