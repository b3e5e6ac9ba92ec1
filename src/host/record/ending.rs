//! How a container's last run ended, and what is to become of it then. One file, replaced whole (`man 2 rename`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::files::FORMAT;
use crate::error::Result;
use crate::host::Ended;
use crate::host::directory::ContainerDirectory;
use crate::lxc::Run;
use crate::sys::{file, record};

/// `ended.json` in a container's directory. It goes with the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ending {
    format: u32,
    /// Which run it was: the same one is not counted twice. `None`: a start that did not get as far as to be one.
    pub(crate) run: Option<Run>,
    pub(crate) ended: Ended,
    /// How many restarts in a row there were, with the one that follows.
    pub(crate) retries: u32,
    /// The pause before the restart that follows. `None`: none does.
    pub(crate) restart_after: Option<Duration>,
}

impl Ending {
    pub(crate) fn new(run: Option<Run>, ended: Ended, retries: u32, restart_after: Option<Duration>) -> Self {
        Self { format: FORMAT, run, ended, retries, restart_after }
    }

    /// The same, with no restarts before it.
    pub(crate) fn without_retries(self) -> Self {
        Self { retries: 0, ..self }
    }

    /// What is written down in the container's `directory`.
    pub(crate) fn read(directory: &ContainerDirectory) -> Result<Option<Self>> {
        let path = directory.ended();
        let Some(text) = file::read_if_exists(&path)? else { return Ok(None) };
        record::decode(&text, &path, FORMAT).map(Some)
    }

    /// Writes it down durably. The caller holds the container's lock.
    pub(crate) fn write(&self, directory: &ContainerDirectory) -> Result<()> {
        let path = directory.ended();
        file::publish(&path, &record::encode(self, &path)?)?;
        file::sync_parent(&path)
    }
}
