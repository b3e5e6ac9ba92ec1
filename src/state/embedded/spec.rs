//! What an embedded store is made of: one file (`man 2 open`, `man 2 flock`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::name::ClusterName;

/// How many revisions are kept unless another number is asked for.
const HISTORY_DEFAULT: u64 = 10_000;
/// How many bytes they may keep unless another number is given.
const HISTORY_BYTES_DEFAULT: u64 = 256 << 20;

/// A store in a file of this machine, which one process has open at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedSpec {
    /// The file. It is made if it is missing, for its owner alone (mode 0600); its directory must be there.
    pub path: PathBuf,
    /// The cluster whose store it is. It is written into the file; another cluster's is not opened.
    pub cluster: ClusterName,
    /// How many of the last revisions watches can go back to and pages be read at, at least. What is older is forgotten step by step.
    /// Default: 10,000. Each of them keeps the values that it changed, new and old.
    #[serde(default = "history_default")]
    pub history_max: u64,
    /// How many bytes of keys and values they may keep. Beyond that fewer revisions are kept, down to the last one: that bounds the file.
    /// Default: 256 MiB.
    #[serde(default = "history_bytes_default")]
    pub history_bytes_max: u64,
}

fn history_default() -> u64 {
    HISTORY_DEFAULT
}

fn history_bytes_default() -> u64 {
    HISTORY_BYTES_DEFAULT
}

impl EmbeddedSpec {
    /// The store of `cluster` in the file `path`, with the default history.
    pub fn new(path: impl Into<PathBuf>, cluster: ClusterName) -> Self {
        let (history_max, history_bytes_max) = (HISTORY_DEFAULT, HISTORY_BYTES_DEFAULT);
        Self { path: path.into(), cluster, history_max, history_bytes_max }
    }
}
