//! A mount as it is written down: plain fields, as one line of `man 5 fstab` has them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Create, FilesystemMount, MountEntry, MountOption, MountSource, Propagation, Submounts, Tmpfs};
use crate::error::{Error, Result};

/// How it is written down: one of the first four, and what differs from the default.
#[derive(Serialize, Deserialize)]
#[serde(rename = "MountEntry", deny_unknown_fields)]
pub(super) struct Fields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tmpfs: Option<Tmpfs>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    filesystem: Option<FilesystemMount>,
    target: PathBuf,
    #[serde(default)]
    submounts: Submounts,
    #[serde(default)]
    propagation: Propagation,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    id_mapped: bool,
    #[serde(default)]
    optional: bool,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    options: BTreeSet<MountOption>,
    #[serde(default)]
    create: Option<Create>,
}

impl TryFrom<Fields> for MountEntry {
    type Error = Error;

    fn try_from(fields: Fields) -> Result<Self> {
        let sources: Vec<MountSource> = [
            fields.source.map(MountSource::Bind),
            fields.device.map(MountSource::Device),
            fields.tmpfs.map(MountSource::Tmpfs),
            fields.filesystem.map(MountSource::Filesystem),
        ]
        .into_iter()
        .flatten()
        .collect();
        let Ok([source]) = <[MountSource; 1]>::try_from(sources) else {
            let rule = "must have one of source, device, tmpfs and filesystem";
            return Err(Error::invalid("mount entry", fields.target.to_string_lossy(), rule));
        };
        let Fields { submounts, propagation, read_only, id_mapped, optional, options, create, .. } = fields;
        let entry = Self {
            submounts,
            propagation,
            read_only,
            id_mapped,
            optional,
            options,
            create,
            ..Self::of(source, fields.target)?
        };
        entry.check()?;
        Ok(entry)
    }
}

impl From<MountEntry> for Fields {
    fn from(entry: MountEntry) -> Self {
        let MountEntry {
            source,
            target,
            submounts,
            propagation,
            read_only,
            id_mapped,
            optional,
            options,
            create,
        } = entry;
        let mut fields = Self {
            source: None,
            device: None,
            tmpfs: None,
            filesystem: None,
            target,
            submounts,
            propagation,
            read_only,
            id_mapped,
            optional,
            options,
            create,
        };
        match source {
            MountSource::Bind(path) => fields.source = Some(path),
            MountSource::Device(path) => fields.device = Some(path),
            MountSource::Tmpfs(tmpfs) => fields.tmpfs = Some(tmpfs),
            MountSource::Filesystem(mount) => fields.filesystem = Some(mount),
        }
        fields
    }
}
