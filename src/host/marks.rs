//! The marks on links of one prefix (`ifalias`, `man 8 ip-link`): `docklet:TAG:container:ID`, `docklet:TAG:network:ID`; and where its
//! control groups are (`man 7 cgroups`): `docklet/TAG/ID`.

use super::Host;
use crate::cgroup::{Cgroup, CgroupPath};
use crate::error::Result;
use crate::name::ObjectId;
use crate::net::LinkOwner;

const NETWORK: &str = ":network:";

impl Host {
    /// The control group above those of this prefix's containers.
    pub(super) fn cgroup_parent(&self) -> Result<Cgroup> {
        Cgroup::new(&self.inner.hierarchies, format!("docklet/{}", self.inner.tag))
    }

    /// Where the control group of a new container is.
    pub(super) fn cgroup_path(&self, id: &ObjectId) -> Result<CgroupPath> {
        CgroupPath::new(format!("docklet/{}/{id}", self.inner.tag))
    }

    /// What the marks of all links of this prefix begin with.
    pub(super) fn mark_prefix(&self) -> String {
        format!("docklet:{}:", self.inner.tag)
    }

    pub(super) fn container_mark(&self, id: &ObjectId) -> Result<LinkOwner> {
        LinkOwner::new(format!("docklet:{}:container:{id}", self.inner.tag))
    }

    pub(super) fn network_mark(&self, id: &ObjectId) -> Result<LinkOwner> {
        LinkOwner::new(format!("docklet:{}{NETWORK}{id}", self.inner.tag))
    }
}

pub(super) fn is_of_network(mark: &LinkOwner) -> bool {
    mark.as_str().contains(NETWORK)
}
