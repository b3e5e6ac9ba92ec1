//! Controllers and the two versions of their interface.

use std::fmt;

/// Which of the kernel's two interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// One hierarchy per controller, or per few of them.
    V1,
    /// The unified hierarchy (`cgroup2`).
    V2,
}

/// A controller this library uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Controller {
    /// CPU time: quotas and weights.
    Cpu,
    /// CPU time: accounting. Of its own in v1 only; v2 always accounts.
    CpuAccounting,
    /// Which processors.
    Cpuset,
    /// Memory and swap.
    Memory,
    /// The number of processes and threads.
    Pids,
    /// Input and output of block devices.
    Io,
    /// Huge pages.
    Hugetlb,
    /// Freezing. A controller in v1 only; in v2 every group can be frozen.
    Freezer,
}

impl Controller {
    /// Those that limits are set with.
    pub(super) const LIMITING: [Self; 6] =
        [Self::Cpu, Self::Cpuset, Self::Memory, Self::Pids, Self::Io, Self::Hugetlb];

    /// The kernel's name of it in v1, as in `/proc/cgroups`.
    pub(super) fn v1_name(self) -> &'static str {
        match self {
            Self::Io => "blkio",
            other => other.as_str(),
        }
    }

    /// The kernel's name of it; in v1 [`Controller::Io`] is `blkio`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::CpuAccounting => "cpuacct",
            Self::Cpuset => "cpuset",
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Io => "io",
            Self::Hugetlb => "hugetlb",
            Self::Freezer => "freezer",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
