//! What a container should be. Plain data; what the parts become on a host stands in `man 5 lxc.container.conf`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Attachment, Privilege, RestartPolicy};
use crate::cgroup::CgroupLimits;
use crate::lxc::{DeviceRule, HaltSignal, MountEntry};
use crate::name::{ContainerName, ImageName, LinkName, NetworkName};
use crate::storage::{Allocation, Filesystem};

/// What a container should be.
///
/// ```
/// use docklet::cgroup::{CgroupLimits, CpuQuota, Limit};
/// use docklet::host::ContainerSpec;
///
/// let spec = ContainerSpec {
///     limits: CgroupLimits {
///         memory_max_bytes: Some(Limit::At(128 << 20)),
///         cpu: Some(CpuQuota::cores(0.5)?),
///         ..CgroupLimits::default()
///     },
///     ..ContainerSpec::new("web".parse()?, "busybox".parse()?)
/// };
/// # Ok::<(), docklet::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerSpec {
    /// Unique on the host; also the host name inside.
    pub name: ContainerName,
    /// The image that the root is made of: its layers. What its configuration says of a command, an entrypoint, an
    /// environment, a user or a directory to work in is not used; [`init`](Self::init) and
    /// [`environment`](Self::environment) are what counts.
    pub image: ImageName,
    /// The volume that takes everything the container writes to its root. It goes with the container.
    #[serde(default)]
    pub volume: RootVolume,
    /// Its network interfaces besides loopback, by their names inside, each in a network of its own. Default: none. The
    /// default route of each family leads through the first of them, in the names' order, whose network has that family.
    #[serde(default)]
    pub interfaces: BTreeMap<LinkName, Attachment>,
    /// Limits on memory, CPU time, processors, processes, devices and huge pages. Default: none.
    #[serde(default)]
    pub limits: CgroupLimits,
    /// Devices that may be opened beside [those that every container has](DeviceRule::standard). Their nodes must be there,
    /// too: show the host's with a [mount](Self::mounts). Default: none.
    #[serde(default)]
    pub devices: BTreeSet<DeviceRule>,
    /// What is mounted inside: directories, files and devices of the host, memory, file systems. Default: nothing but what
    /// LXC mounts. [`Host::apply_mounts`](crate::host::Host::apply_mounts) changes it.
    #[serde(default)]
    pub mounts: Vec<MountEntry>,
    /// What root inside is on the host. Default: an ordinary user with ids of the container's own.
    #[serde(default)]
    pub privilege: Privilege,
    /// The first process and how it is asked to stop.
    #[serde(default)]
    pub init: Init,
    /// The first process's environment. Default: empty. LXC adds `PATH`, if it is not in it, and `container`.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// How much of what is printed on its console is kept, in bytes (rounded up to a power of two of at least one page; and as
    /// much again that is older): [`Host::console_log`](crate::host::Host::console_log). Default: it has no console.
    #[serde(default)]
    pub console_max_bytes: Option<u64>,
    /// What becomes of it when it ends by itself. Default: it is started again, each time.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// When [`Host::recover`](crate::host::Host::recover) starts it, after a reboot for one: the lower, the earlier. Those of
    /// one number are started together, and all of them are up (or failed) before the next. Default: 0.
    #[serde(default)]
    pub start_order: i32,
}

impl ContainerSpec {
    /// A container with the defaults of every other field.
    #[must_use]
    pub fn new(name: ContainerName, image: ImageName) -> Self {
        Self {
            name,
            image,
            volume: RootVolume::default(),
            interfaces: BTreeMap::new(),
            limits: CgroupLimits::default(),
            devices: BTreeSet::new(),
            mounts: Vec::new(),
            privilege: Privilege::default(),
            init: Init::default(),
            environment: BTreeMap::new(),
            console_max_bytes: None,
            restart: RestartPolicy::default(),
            start_order: 0,
        }
    }

    /// The same container with an interface `eth0` in `network`, with addresses that the host picks.
    #[must_use]
    pub fn in_network(mut self, network: NetworkName) -> Self {
        self.interfaces.insert(LinkName::eth0(), Attachment::new(network));
        self
    }

    /// Tells which fields differ from `other`'s: "limits", "mounts".
    pub(crate) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let mut fields = Vec::new();
        let mut compare = |field, same: bool| {
            if !same {
                fields.push(field);
            }
        };
        compare("image", self.image == other.image);
        compare("volume", self.volume == other.volume);
        compare("interfaces", self.interfaces == other.interfaces);
        compare("limits", self.limits == other.limits);
        compare("devices", self.devices == other.devices);
        compare("mounts", self.mounts == other.mounts);
        compare("privilege", self.privilege == other.privilege);
        compare("init", self.init == other.init);
        compare("environment", self.environment == other.environment);
        compare("console", self.console_max_bytes == other.console_max_bytes);
        compare("restart", self.restart == other.restart);
        compare("start order", self.start_order == other.start_order);
        fields
    }
}

/// The volume under a container's root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RootVolume {
    /// The limit on what the container can write, in bytes: hard, unless the pool's volumes have a
    /// [soft](crate::storage::SizeLimit) one. Default: 1 GiB.
    pub size_bytes: u64,
    /// The file system. Default: ext4.
    pub filesystem: Filesystem,
    /// Whether the space is taken from the host at once or as it is used. Default: as it is used.
    pub allocation: Allocation,
}

impl Default for RootVolume {
    fn default() -> Self {
        Self { size_bytes: 1 << 30, filesystem: Filesystem::default(), allocation: Allocation::default() }
    }
}

/// The first process of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Init {
    /// The program, a path inside the image, and its arguments. Default: `/sbin/init`.
    pub command: Vec<String>,
    /// What asks it to shut the container down. Default: `SIGPWR`, which is what LXC sends.
    pub halt_signal: HaltSignal,
}

impl Default for Init {
    fn default() -> Self {
        Self { command: vec!["/sbin/init".to_owned()], halt_signal: HaltSignal::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_is_small_json() {
        let spec: ContainerSpec = serde_json::from_str(r#"{"name": "a", "image": "b"}"#).unwrap();
        assert_eq!(spec, ContainerSpec::new("a".parse().unwrap(), "b".parse().unwrap()));
        let unknown = serde_json::from_str::<ContainerSpec>(r#"{"name": "a", "image": "b", "memory": 1}"#);
        assert!(unknown.unwrap_err().to_string().contains("memory"));
        let parts = r#"{"name": "a", "image": "b", "volume": {}, "init": {"halt_signal": "SIGUSR2"}}"#;
        let init = Init { halt_signal: HaltSignal::USER2, ..Init::default() };
        assert_eq!(serde_json::from_str::<ContainerSpec>(parts).unwrap(), ContainerSpec { init, ..spec });
    }
}
