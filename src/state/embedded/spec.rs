//! What an embedded store is made of: one file (`man 2 open`, `man 2 flock`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::name::ClusterName;

/// How many revisions are kept unless another number is asked for.
const HISTORY_DEFAULT: u64 = 10_000;

/// A store in a file of this machine, which one process has open at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedSpec {
    /// The file. It is made if it is missing, for its owner alone (mode 0600); its directory must be there.
    pub path: PathBuf,
    /// The cluster whose store it is. It is written into the file; another cluster's is not opened.
    pub cluster: ClusterName,
    /// How many of the last revisions watches can go back to and pages be read at, at least. What is older is forgotten step by step.
    /// Default: 10,000. It bounds the file: each of them keeps the values that it changed, new and old.
    #[serde(default = "history_default")]
    pub history_max: u64,
}

fn history_default() -> u64 {
    HISTORY_DEFAULT
}

impl EmbeddedSpec {
    /// The store of `cluster` in the file `path`, with the default history.
    pub fn new(path: impl Into<PathBuf>, cluster: ClusterName) -> Self {
        Self { path: path.into(), cluster, history_max: HISTORY_DEFAULT }
    }
}
