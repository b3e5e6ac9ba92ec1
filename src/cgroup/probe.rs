//! What the kernel says about its control groups, as text. Reading is here, judging is in [`Hierarchies`].

use std::fs;
use std::path::Path;

use super::hierarchy::Hierarchies;
use crate::error::Result;
use crate::sys::{directory, file};

/// The kernel's own words, from which [`Hierarchies::from_probe`] concludes what a host has. Take them from the host
/// you are on with [`Hierarchies::detect`]; fill them in by hand to ask about another one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HierarchyProbe {
    /// `/proc/thread-self/mountinfo`.
    pub mountinfo: String,
    /// `/proc/cgroups`.
    pub controllers: String,
    /// `cgroup.controllers` of the v2 root; empty without one.
    pub unified_controllers: String,
    /// `/proc/sys/kernel/osrelease`: "6.1.0-18-amd64".
    pub kernel_release: String,
    /// `/proc/cmdline`.
    pub boot_parameters: String,
    /// Whether the kernel can swap (`/proc/swaps` exists).
    pub can_swap: bool,
    /// Whether groups have a file that limits swap, if that can be told.
    pub swap_file: Option<bool>,
    /// Whether groups have a file with the CPU quota, if that can be told.
    pub quota_file: Option<bool>,
    /// Whether groups have a file with the CPU burst, if that can be told.
    pub burst_file: Option<bool>,
    /// `/sys/devices/system/cpu/online`: "0-3".
    pub online_cpus: String,
    /// The names in `/sys/kernel/mm/hugepages`, with spaces between: "hugepages-2048kB".
    pub huge_pages: String,
}

impl HierarchyProbe {
    /// Reads what the calling thread sees.
    pub(super) fn read() -> Result<Self> {
        let optional = |path: &str| file::read_if_exists(Path::new(path)).map(Option::unwrap_or_default);
        let mut probe = Self {
            mountinfo: file::read(Path::new("/proc/thread-self/mountinfo"))?,
            controllers: optional("/proc/cgroups")?,
            kernel_release: optional("/proc/sys/kernel/osrelease")?,
            boot_parameters: optional("/proc/cmdline")?,
            can_swap: Path::new("/proc/swaps").exists(),
            online_cpus: optional("/sys/devices/system/cpu/online")?,
            huge_pages: names_in(Path::new("/sys/kernel/mm/hugepages"))?,
            ..Self::default()
        };
        let mounts = Hierarchies::from_probe(probe.clone());
        if let Some(root) = mounts.unified() {
            probe.unified_controllers = file::read(&root.join("cgroup.controllers"))?;
            // A v2 root has no limits, its children do, once a controller is on for them.
            probe.swap_file = in_children(root, "memory.max", "memory.swap.max");
            probe.quota_file = in_children(root, "cpu.weight", "cpu.max");
            probe.burst_file = in_children(root, "cpu.weight", "cpu.max.burst");
        }
        if let Some(root) = mounts.v1_mount("memory") {
            probe.swap_file = Some(root.join("memory.memsw.limit_in_bytes").exists());
        }
        if let Some(root) = mounts.v1_mount("cpu") {
            probe.quota_file = Some(root.join("cpu.cfs_quota_us").exists());
            probe.burst_file = Some(root.join("cpu.cfs_burst_us").exists());
        }
        Ok(probe)
    }
}

fn names_in(dir: &Path) -> Result<String> {
    // A kernel without huge pages has no such directory.
    let names = directory::entries_if_exists(dir)?;
    Ok(names.iter().map(|name| name.to_string_lossy()).collect::<Vec<_>>().join(" "))
}

/// Whether the first child of `root` that has the file `sign` also has `wanted`.
fn in_children(root: &Path, sign: &str, wanted: &str) -> Option<bool> {
    fs::read_dir(root)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.join(sign).exists())
        .map(|path| path.join(wanted).exists())
}
