//! Who may use the cluster, and how much of it.

use serde::{Deserialize, Serialize};

use super::{Resource, UserId};
use crate::name::UserName;
use crate::state::Record;

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything.
    Admin,
    /// What concerns their own virtual clusters.
    User,
}

/// Who may use the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Unique in the cluster.
    pub name: UserName,
    /// What they may do.
    pub role: Role,
    /// How much their virtual clusters may take together.
    pub quota: Quota,
}

/// How much a user's virtual clusters may take together, whether they run or not. `None`: as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quota {
    /// Processor time, in thousandths of one processor.
    pub cpu_millis: Option<u64>,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// Space of volumes, in bytes.
    pub disk_bytes: Option<u64>,
    /// How many containers.
    pub containers: Option<u64>,
    /// How many addresses of containers.
    pub addresses: Option<u64>,
}

impl Quota {
    /// The limit of one kind.
    #[must_use]
    pub fn get(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Cpu => self.cpu_millis,
            Resource::Memory => self.memory_bytes,
            Resource::Disk => self.disk_bytes,
            Resource::Containers => self.containers,
        }
    }
}

impl Record for User {
    const KIND: &'static str = "user";
}
