//! What a recovery reports. Plain data; what it looks at stands in `man 5 proc` and `man 7 rtnetlink`.

use std::fmt;

use serde::Serialize;

use crate::error::{Chain, Result};
use crate::name::{ContainerName, LinkName};

/// What became of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was as it should be: nothing was done.
    Unchanged,
    /// It should run and did not: it was made whole and started.
    Started,
    /// A change of its limits, its interfaces or its mounts had been cut off, and was carried out; or a reboot from inside had brought
    /// back limits of its start.
    Changed,
    /// It ended by itself, and its [policy](crate::host::RestartPolicy) does not start it again: it should not run any more, and
    /// was released.
    Ended,
    /// It should not run: what was left of its run was released.
    Released,
    /// It was never finished, or its removal was not: nothing of it is left.
    Removed,
    /// It could not be brought back. The reason, with everything beneath it. It stays written down.
    Failed(String),
}

/// What a recovery found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// Each container that is or was written down.
    pub containers: Vec<(ContainerName, Outcome)>,
    /// What was made again of networks: their names.
    pub networks: Vec<String>,
    /// The interfaces of running containers that were made again or put right: the container, and their names inside.
    pub ports: Vec<(ContainerName, LinkName)>,
    /// The containers whose `/etc/hosts` or `/etc/resolv.conf` was put right.
    pub names: Vec<ContainerName>,
    /// What was done so that volumes can be used.
    pub volumes: Vec<String>,
    /// Objects with this prefix's mark that belonged to nothing, and were removed.
    pub orphans: Vec<String>,
    /// What could not be done besides containers.
    pub failures: Vec<String>,
}

impl Recovered {
    /// What came out; if nothing did, that is one of the failures, with `what` it was about.
    pub(super) fn took<T>(&mut self, what: impl fmt::Display, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.failures.push(format!("{what}: {}", Chain(&error)))).ok()
    }

    /// Whether anything was done.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.containers.iter().any(|(_, outcome)| !matches!(outcome, Outcome::Unchanged | Outcome::Failed(_)))
            || !self.networks.is_empty()
            || !self.ports.is_empty()
            || !self.names.is_empty()
            || !self.volumes.is_empty()
            || !self.orphans.is_empty()
    }

    /// Whether everything is as it should be now.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.failures.is_empty()
            && !self.containers.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
    }
}
