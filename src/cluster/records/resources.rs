//! Amounts of what a node has and a container takes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How large a container is: its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Processor time, in thousandths of one processor: 1500 is one and a half.
    pub cpu_millis: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// The volume under its root, in bytes.
    pub disk_bytes: u64,
}

/// An amount of everything that is counted: a node's capacity, or what is taken of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Processor time, in thousandths of one processor.
    pub cpu_millis: u64,
    /// Memory, in bytes.
    pub memory_bytes: u64,
    /// Space for volumes, in bytes.
    pub disk_bytes: u64,
    /// How many containers.
    pub containers: u64,
}

/// One kind of what is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Resource {
    /// Processor time.
    Cpu,
    /// Memory.
    Memory,
    /// Space for volumes.
    Disk,
    /// A container more.
    Containers,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Memory, Self::Disk, Self::Containers];
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu (in thousandths)",
            Self::Memory => "memory (in bytes)",
            Self::Disk => "disk (in bytes)",
            Self::Containers => "containers",
        })
    }
}

impl Resources {
    /// What one container of `size` takes.
    #[must_use]
    pub fn of(size: Size) -> Self {
        let Size { cpu_millis, memory_bytes, disk_bytes } = size;
        Self { cpu_millis, memory_bytes, disk_bytes, containers: 1 }
    }

    /// What a container of `size` still takes where it does not run any more, but is not removed yet: its volume.
    #[must_use]
    pub fn remains_of(size: Size) -> Self {
        Self { disk_bytes: size.disk_bytes, ..Self::default() }
    }

    /// The amount of one kind.
    #[must_use]
    pub fn get(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Cpu => self.cpu_millis,
            Resource::Memory => self.memory_bytes,
            Resource::Disk => self.disk_bytes,
            Resource::Containers => self.containers,
        }
    }

    /// Both together; no more than can be counted.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    /// What is left of this once `other` is taken; nothing where that is more.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.each(other, u64::saturating_sub)
    }

    /// The first kind of which this is less than `wanted`.
    #[must_use]
    pub fn lacks(&self, wanted: &Self) -> Option<Resource> {
        Resource::ALL.into_iter().find(|resource| self.get(*resource) < wanted.get(*resource))
    }

    fn each(&self, other: &Self, compute: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            cpu_millis: compute(self.cpu_millis, other.cpu_millis),
            memory_bytes: compute(self.memory_bytes, other.memory_bytes),
            disk_bytes: compute(self.disk_bytes, other.disk_bytes),
            containers: compute(self.containers, other.containers),
        }
    }
}
