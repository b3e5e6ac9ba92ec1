//! What there is, as a node last said it.

use serde::{Deserialize, Serialize};

use super::Epoch;
use crate::name::ImageName;
use crate::state::Record;

/// What a node last said of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerStatus {
    /// Since which coming of the node, and its how manieth report since: what is older is not taken for news.
    pub report: Report,
    /// The fence of the order that it is an answer to.
    pub fence: u64,
    /// What it is.
    pub state: ContainerState,
    /// The image that holds what it wrote, if that was ordered.
    #[serde(default)]
    pub saved: Option<ImageName>,
    /// Why it is not as ordered.
    #[serde(default)]
    pub reason: Option<String>,
}

/// When a node said something, in its own count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Since which coming.
    pub epoch: Epoch,
    /// The how manieth since.
    pub number: u64,
}

/// What a container is on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerState {
    /// There is nothing of it.
    Absent,
    /// It was there, and its data is gone without anybody having asked for it. It is not made anew.
    Missing,
    /// It is there, and does not run.
    Stopped,
    /// It ended by itself, and its restart policy leaves it so.
    Ended,
    /// It runs.
    Running,
}

impl Record for ContainerStatus {
    const KIND: &'static str = "container status";
}
