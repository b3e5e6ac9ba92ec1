//! The record of what holds for all networks of the host. One file, replaced whole (`man 2 rename`); without it, nothing does.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::files::FORMAT;
use crate::error::Result;
use crate::host::IsolationSpec;
use crate::sys::{file, record};

/// Where it is written down.
#[derive(Debug, Clone)]
pub(crate) struct IsolationRecord(PathBuf);

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    format: u32,
    spec: IsolationSpec,
}

impl IsolationRecord {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What is written down. It takes no lock: the file is replaced whole.
    pub(crate) fn read(&self) -> Result<IsolationSpec> {
        let Some(text) = file::read_if_exists(&self.0)? else { return Ok(IsolationSpec::default()) };
        record::decode::<Content>(&text, &self.0, FORMAT).map(|content| content.spec)
    }

    /// Writes it down durably. The caller holds the registry's lock, as for the next.
    pub(crate) fn write(&self, spec: &IsolationSpec) -> Result<()> {
        if *spec == IsolationSpec::default() {
            file::remove_file(&self.0)?;
        } else {
            let content = Content { format: FORMAT, spec: spec.clone() };
            file::publish(&self.0, &record::encode(&content, &self.0)?)?;
        }
        file::sync_parent(&self.0)
    }

    /// Removes what an interrupted [`IsolationRecord::write`] left.
    pub(crate) fn tidy(&self) -> Result<()> {
        file::remove_file(&self.0.with_extension("json.new"))
    }
}
