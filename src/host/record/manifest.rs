//! A container's manifest: what it should be, and what its objects are called. A file, replaced whole (`man 2 rename`).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::files::{FORMAT, Record};
use crate::cgroup::{CgroupLimits, CgroupPath};
use crate::host::{Attachment, ContainerSpec};
use crate::idmap::IdMap;
use crate::lxc::MountEntry;
use crate::name::{ContainerName, LinkName, NetworkName, ObjectId, VolumeName};
use crate::net::{InterfaceAddress, LinkOwner};
use crate::storage::{ImageContent, PoolSpec};

/// How far a container's life has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// Being made for the first time. Recovery takes it back: nobody was told that it exists.
    Creating,
    /// All its data is on the disk. What is missing from now on is a loss, never made anew.
    Created,
    /// Being removed. Recovery finishes that.
    Removing,
}

/// What a container should be, and what its objects are called.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    pub(crate) id: ObjectId,
    pub(crate) phase: Phase,
    /// Whether it should run.
    pub(crate) run: bool,
    pub(crate) objects: Objects,
    /// What it was made from, whatever the image's name stands for by now.
    pub(crate) image: ImageContent,
    pub(crate) spec: ContainerSpec,
}

/// The recorded names of a container's objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Objects {
    pub(crate) volume: VolumeName,
    /// The pool that the volume is in. `None`: loop files under the prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pool: Option<PoolSpec>,
    /// Beneath every hierarchy's root.
    pub(crate) cgroup: CgroupPath,
    /// The ids that it has on the host, and no other container. `None`: it is privileged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ids: Option<IdMap>,
    /// The ports of its interfaces, by the interfaces' names inside.
    pub(crate) ports: BTreeMap<LinkName, Port>,
    /// What is being changed.
    #[serde(default, skip_serializing_if = "Former::is_none")]
    pub(crate) former: Former,
}

/// What can be changed while a container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Limits,
    Interfaces,
    Mounts,
}

impl Part {
    pub(crate) const ALL: [Self; 3] = [Self::Limits, Self::Interfaces, Self::Mounts];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::Interfaces => "interfaces",
            Self::Mounts => "mounts",
        }
    }
}

/// Of each part that is being changed, what it was, or was to be: that may still be there, and what it should be may not be
/// there yet. `None`: it is what it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Former {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limits: Option<CgroupLimits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interfaces: Option<FormerInterfaces>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mounts: Option<Vec<MountEntry>>,
}

/// A container's interfaces as they were, or were to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FormerInterfaces {
    pub(crate) spec: BTreeMap<LinkName, Attachment>,
    pub(crate) ports: BTreeMap<LinkName, Port>,
}

impl Former {
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The same, once `part` is what it should be.
    pub(crate) fn without(&self, part: Part) -> Self {
        let mut former = self.clone();
        match part {
            Part::Limits => former.limits = None,
            Part::Interfaces => former.interfaces = None,
            Part::Mounts => former.mounts = None,
        }
        former
    }
}

/// A container's end of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Port {
    /// The host's end of the veth pair.
    pub(crate) link: LinkName,
    /// The mark in its `ifalias`.
    pub(crate) owner: LinkOwner,
    pub(crate) network: NetworkName,
    /// Of the inner end, in the order of the network's gateways.
    pub(crate) addresses: Vec<InterfaceAddress>,
}

impl Manifest {
    pub(crate) fn new(id: ObjectId, spec: ContainerSpec, image: ImageContent, objects: Objects) -> Self {
        Self { format: FORMAT, id, phase: Phase::Creating, run: true, objects, image, spec }
    }

    /// The networks it is in.
    pub(crate) fn networks(&self) -> BTreeSet<NetworkName> {
        self.spec.interfaces.values().map(|attachment| attachment.network.clone()).collect()
    }

    /// The same, coming in the place of what `other` has of `part`.
    pub(crate) fn replacing(mut self, part: Part, other: &Self) -> Self {
        let former = &mut self.objects.former;
        match part {
            Part::Limits => former.limits = Some(other.spec.limits.clone()),
            Part::Interfaces => {
                let (spec, ports) = (other.spec.interfaces.clone(), other.objects.ports.clone());
                former.interfaces = Some(FormerInterfaces { spec, ports });
            }
            Part::Mounts => former.mounts = Some(other.spec.mounts.clone()),
        }
        self
    }

    /// Every port that it has or may still have; one that changes its addresses is two.
    pub(crate) fn all_ports(&self) -> impl Iterator<Item = &Port> {
        let own = &self.objects.ports;
        let former = self.objects.former.interfaces.iter().flat_map(|former| former.ports.values());
        own.values().chain(former.filter(|port| !own.values().any(|other| other == *port)))
    }
}

impl Record for Manifest {
    type Name = ContainerName;
    const WHAT: &'static str = "container";

    fn name(&self) -> &ContainerName {
        &self.spec.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manifest without a pool: the volume is a loop file under the prefix.
    #[test]
    fn a_manifest_without_a_pool_is_read_and_written_as_it_was() {
        let old = r#"{"volume":"0123456789abcdef","cgroup":"docklet/x/y","ports":{}}"#;
        let objects: Objects = serde_json::from_str(old).unwrap();
        assert_eq!(objects.pool, None);
        assert_eq!(serde_json::to_string(&objects).unwrap(), old);
        let lvm = r#"{"volume":"0123456789abcdef","pool":{"lvm":{"directory":"/pool","lvm":{"volume_group":"vg0","thin_pool":"thin"}}},"cgroup":"docklet/x/y","ports":{}}"#;
        let objects: Objects = serde_json::from_str(lvm).unwrap();
        assert!(
            matches!(&objects.pool, Some(PoolSpec::Lvm { lvm, .. }) if lvm.volume_group.as_str() == "vg0")
        );
        assert_eq!(serde_json::to_string(&objects).unwrap(), lvm);
    }

    /// A change that was written down is read as it was, and its manifest without it is as before.
    #[test]
    fn a_change_is_written_down_until_it_is_made() {
        let port = |link: &str, address: &str| Port {
            link: link.parse().unwrap(),
            owner: LinkOwner::new("docklet:x:container:y").unwrap(),
            network: "lan".parse().unwrap(),
            addresses: vec![address.parse().unwrap()],
        };
        let old = r#"{"volume":"0123456789abcdef","cgroup":"docklet/x/y","ports":{}}"#;
        let objects: Objects = serde_json::from_str(old).unwrap();
        let spec = ContainerSpec::new("web".parse().unwrap(), "busybox".parse().unwrap());
        let digest = format!("sha256:{}", "0".repeat(64));
        let image = serde_json::json!({ "manifest": digest, "config": digest, "layers": [] });
        let image = serde_json::from_value(image).unwrap();
        let id = ObjectId::new("0123456789abcdef").unwrap();
        let mut before = Manifest::new(id, spec, image, objects);
        let (stays, goes) = (port("dk1", "10.0.0.2/24"), port("dk2", "10.1.0.2/24"));
        before.objects.ports = [("eth0", &stays), ("eth1", &goes)]
            .map(|(name, port)| (name.parse().unwrap(), port.clone()))
            .into();
        let mut after = before.clone();
        after.objects.ports.pop_last();
        let changing =
            Part::ALL.into_iter().fold(after.clone(), |after, part| after.replacing(part, &before));
        let text = serde_json::to_string(&changing).unwrap();
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), changing);
        assert_eq!(changing.all_ports().collect::<Vec<_>>(), [&stays, &goes]);
        let mut made = changing;
        for part in Part::ALL {
            assert!(!made.objects.former.is_none());
            made.objects.former = made.objects.former.without(part);
        }
        assert_eq!(made, after);
    }
}
