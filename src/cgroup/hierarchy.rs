//! Which hierarchies a host has and which one serves each controller.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::controller::{Controller, Version};
use super::cpu_set::CpuSet;
use super::probe::HierarchyProbe;
use crate::error::{Error, Result};
use crate::sys::{kernel, mountinfo};

/// How a host's hierarchies are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// v1 hierarchies only.
    V1,
    /// v1 hierarchies, and a v2 one beside them (`/sys/fs/cgroup/unified`) which may serve some controllers or none.
    Hybrid,
    /// The unified hierarchy only: it is mounted at `/sys/fs/cgroup`, which is also how liblxc tells.
    V2,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::Hybrid => "hybrid: v1, and v2 beside it",
            Self::V2 => "v2",
        })
    }
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where its root is.
    pub mount: PathBuf,
    /// Its interface.
    pub version: Version,
    /// Its controllers by the kernel's names; for a v1 hierarchy without any, its own name: `name=systemd`.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// Whether it has the controller `name`, as the kernel calls it: one of [`Hierarchy::controllers`].
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.controllers.iter().any(|held| held == name)
    }
}

/// What this host has. Found once, then handed around; a clone is cheap and the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies(Arc<Inner>);

#[derive(Debug, PartialEq, Eq)]
struct Inner {
    mounts: Vec<Hierarchy>,
    probe: HierarchyProbe,
}

impl Hierarchies {
    /// Looks at the calling thread's mounts and at the kernel.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if no hierarchy is mounted; [`Error::Os`] if `/proc` cannot be read.
    pub fn detect() -> Result<Self> {
        let found = Self::from_probe(HierarchyProbe::read()?);
        if found.0.mounts.is_empty() {
            return Err(Error::Unsupported {
                what: "control groups".to_owned(),
                needs: "no cgroup hierarchy is mounted whole: mount -t cgroup2 cgroup2 /sys/fs/cgroup"
                    .to_owned(),
            });
        }
        Ok(found)
    }

    /// Concludes from text alone what a host has.
    #[must_use]
    pub fn from_probe(probe: HierarchyProbe) -> Self {
        let mut mounts: Vec<Hierarchy> = Vec::new();
        let mut only_unified = false;
        for mount in mountinfo::parse(probe.mountinfo.as_bytes()) {
            // A part of a hierarchy that is mounted on its own is somebody's view of it, not the hierarchy.
            if mount.root != Path::new("/") {
                continue;
            }
            let hierarchy = match mount.filesystem.as_str() {
                "cgroup" => Hierarchy {
                    controllers: v1_controllers(&mount.options, &probe.controllers),
                    mount: mount.target,
                    version: Version::V1,
                },
                "cgroup2" => {
                    only_unified |= mount.target == Path::new("/sys/fs/cgroup");
                    let words = probe.unified_controllers.split_whitespace();
                    Hierarchy {
                        controllers: words.map(str::to_owned).collect(),
                        mount: mount.target,
                        version: Version::V2,
                    }
                }
                _ => continue,
            };
            // The same hierarchy can be mounted twice; its first mount is the one everybody uses.
            let same = |other: &Hierarchy| {
                other.version == hierarchy.version
                    && (other.version == Version::V2 || other.controllers == hierarchy.controllers)
            };
            if !mounts.iter().any(same) {
                mounts.push(hierarchy);
            }
        }
        if only_unified {
            mounts.retain(|hierarchy| hierarchy.version == Version::V2);
        }
        Self(Arc::new(Inner { mounts, probe }))
    }

    /// How the hierarchies are laid out.
    #[must_use]
    pub fn layout(&self) -> Layout {
        let any = |version| self.0.mounts.iter().any(|hierarchy| hierarchy.version == version);
        match (any(Version::V1), any(Version::V2)) {
            (true, true) => Layout::Hybrid,
            (true, false) => Layout::V1,
            (false, _) => Layout::V2,
        }
    }

    /// Every hierarchy a group is in.
    #[must_use]
    pub fn mounts(&self) -> &[Hierarchy] {
        &self.0.mounts
    }

    /// The root of the v2 hierarchy, if there is one.
    #[must_use]
    pub fn unified(&self) -> Option<&Path> {
        let found = self.0.mounts.iter().find(|hierarchy| hierarchy.version == Version::V2);
        found.map(|hierarchy| hierarchy.mount.as_path())
    }

    /// The hierarchy that serves `controller`, or `None` if the controller is off.
    #[must_use]
    pub fn serving(&self, controller: Controller) -> Option<&Hierarchy> {
        let name = |version| match version {
            Version::V1 => controller.v1_name(),
            Version::V2 => controller.as_str(),
        };
        self.0.mounts.iter().find(|hierarchy| hierarchy.has(name(hierarchy.version)))
    }

    /// Whether a group counts what happens beneath it, too. v1 does not, nor do the processes of v2 before 6.11.
    pub(super) fn counts_beneath(&self, controller: Controller) -> bool {
        let release = kernel::version(&self.0.probe.kernel_release);
        let is_new = controller != Controller::Pids || release.is_some_and(|release| release >= (6, 11));
        is_new && self.serving(controller).is_some_and(|hierarchy| hierarchy.version == Version::V2)
    }

    /// The processors that were online when this was looked at. `None` if that is not known.
    pub(super) fn online_cpus(&self) -> Option<CpuSet> {
        self.0.probe.online_cpus.trim().parse().ok()
    }

    pub(super) fn v1_mount(&self, name: &str) -> Option<&Path> {
        let mut v1 = self.0.mounts.iter().filter(|hierarchy| hierarchy.version == Version::V1);
        v1.find(|hierarchy| hierarchy.has(name)).map(|hierarchy| hierarchy.mount.as_path())
    }

    pub(super) fn probe(&self) -> &HierarchyProbe {
        &self.0.probe
    }
}

/// The controllers among a v1 mount's options. The others ("rw", "xattr", "release_agent=…") are not listed in
/// `/proc/cgroups`.
fn v1_controllers(options: &str, known: &str) -> Vec<String> {
    let known: Vec<_> = known.lines().filter_map(|line| line.split_whitespace().next()).collect();
    options
        .split(',')
        .filter(|option| known.contains(option) || option.starts_with("name="))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    fn mount(found: &Hierarchies, controller: Controller) -> Option<(Version, &str)> {
        let hierarchy = found.serving(controller)?;
        Some((hierarchy.version, hierarchy.mount.to_str().expect("UTF-8")))
    }

    #[test]
    fn v2_serves_all_from_one_place() {
        let found = Hierarchies::from_probe(samples::v2());
        assert_eq!(found.layout(), Layout::V2);
        assert_eq!(found.mounts().len(), 1);
        for controller in [Controller::Cpu, Controller::Memory, Controller::Pids] {
            assert_eq!(mount(&found, controller), Some((Version::V2, "/sys/fs/cgroup")));
        }
        assert_eq!(mount(&found, Controller::Freezer), None);
    }

    #[test]
    fn hybrid_serves_each_controller_where_it_is() {
        let found = Hierarchies::from_probe(samples::hybrid());
        assert_eq!(found.layout(), Layout::Hybrid);
        assert_eq!(found.mounts().len(), 9);
        assert_eq!(found.unified(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(mount(&found, Controller::Memory), Some((Version::V1, "/sys/fs/cgroup/memory")));
        // Booted with cgroup_no_v1=memory.
        let found = samples::changed(samples::hybrid(), |probe| {
            probe.mountinfo =
                probe.mountinfo.replace("/sys/fs/cgroup/memory rw,relatime - cgroup ", "/x - tmpfs ");
            probe.unified_controllers = "memory hugetlb\n".to_owned();
        });
        assert_eq!(mount(&found, Controller::Memory), Some((Version::V2, "/sys/fs/cgroup/unified")));
        assert_eq!(mount(&found, Controller::Pids), Some((Version::V1, "/sys/fs/cgroup/pids")));
    }

    #[test]
    fn v1_may_mount_controllers_together_and_views_are_not_hierarchies() {
        let found = Hierarchies::from_probe(samples::v1());
        assert_eq!(found.layout(), Layout::V1);
        assert_eq!(found.unified(), None);
        let joint = Some((Version::V1, "/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(
            (mount(&found, Controller::Cpu), mount(&found, Controller::CpuAccounting)),
            (joint, joint)
        );
        assert_eq!(mount(&found, Controller::Freezer), Some((Version::V1, "/sys/fs/cgroup/freezer")));
        assert_eq!(found.mounts()[0].controllers, ["name=systemd"]);
        assert_eq!(found.mounts().len(), 5);
    }

    /// A VPN client mounts `net_cls` somewhere on a v2 host: for liblxc, and so for us, that is still v2.
    #[test]
    fn a_stray_v1_mount_does_not_make_v2_hybrid() {
        let found = samples::changed(samples::v2(), |probe| {
            probe.controllers.push_str("net_cls\t1\t1\t1\n");
            probe.mountinfo.push_str("77 28 0:40 / /mnt/net_cls rw - cgroup net_cls rw,net_cls\n");
        });
        assert_eq!(found.layout(), Layout::V2);
        assert_eq!(found.mounts().len(), 1);
    }
}
