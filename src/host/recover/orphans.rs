//! What carries the prefix's mark and belongs to nothing: links (`ifalias`, `man 8 ip-link`), control groups, mounts.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::report::Recovered;
use crate::cgroup::Cgroup;
use crate::error::Result;
use crate::host::Host;
use crate::host::directory::ContainerDirectory;
use crate::host::marks::is_of_network;
use crate::host::objects::release_volume;
use crate::host::record::{Manifest, NetworkRecord};
use crate::lxc::{self, Container};
use crate::name::{LinkName, ObjectId};
use crate::net::{Bridge, LinkOwner, NetworkNamespace, Tunnel, Veth};
use crate::storage::{OverlayRoot, VolumePool};
use crate::sys::mountinfo;

impl Host {
    /// The ids and links that carry this prefix's mark now.
    pub(super) async fn marked(&self) -> Result<Marked> {
        let inner = &self.inner;
        let mut marked =
            Marked { links: inner.netlink.links_owned(&self.mark_prefix()).await?, ids: BTreeSet::new() };
        let containers = inner.paths.containers();
        let mut names = Cgroup::new(&inner.hierarchies, format!("docklet/{}", inner.tag))?.children()?;
        names.extend(lxc::lock_names(&containers)?);
        // Volumes of others, if there are any in the pool, have names of another form.
        let (pools, _) = self.pools()?;
        for dir in [containers].into_iter().chain(pools.iter().map(VolumePool::mounts)) {
            names.extend(mountinfo::mounts_beneath(&dir)?.into_iter().filter_map(|mount| {
                Some(mount.target.strip_prefix(&dir).ok()?.iter().next()?.to_str()?.to_owned())
            }));
        }
        marked.ids.extend(names.into_iter().filter_map(|name| ObjectId::new(name).ok()));
        Ok(marked)
    }

    /// Removes what carries the mark of this prefix but belongs to no container and no network.
    pub(super) async fn remove_orphans(&self, mut marked: Marked, report: &mut Recovered) -> Result<()> {
        let manifests = self.inner.manifests.all()?;
        let networks = self.inner.networks.all()?;
        // What was removed together with what is written of it is no orphan: it is gone by now.
        let now = self.marked().await?;
        marked.links.retain(|link| now.links.contains(link));
        marked.ids.retain(|id| now.ids.contains(id));
        // A record that cannot be read, which is reported already, may stand for any of them.
        let (all_containers, all_networks) =
            (manifests.unreadable.is_empty(), networks.unreadable.is_empty());
        let (manifests, networks) = (manifests.records, networks.records);
        let (named, owners) = recorded(&manifests, &networks);
        for (link, owner) in marked.links {
            let all_known = if is_of_network(&owner) { all_networks } else { all_containers };
            if !all_known || named.contains(&link) {
                continue;
            }
            // A tunnel's links are not written down. Others are: a record that is wrong about a name, and is read all the same,
            // does not make an orphan of what is in use.
            if owners.contains(&owner) {
                if !is_of_network(&owner) {
                    let failure = format!(
                        "link {link}: it bears the mark \"{owner}\" of a container that does not name it"
                    );
                    report.failures.push(failure);
                }
                continue;
            }
            let what = format!("link {link}");
            let removed = report.took(&what, self.remove_link(&link, &owner).await);
            report.orphans.extend(removed.map(|()| what));
        }
        for id in marked.ids {
            if !all_containers || manifests.iter().any(|manifest| manifest.id == id) {
                continue;
            }
            let orphan = id.clone();
            let what = format!("container {id}");
            let released = self.blocking(move |host| host.release_orphan(&orphan)).await;
            let released = report.took(&what, released);
            report.orphans.extend(released.map(|()| what));
        }
        Ok(())
    }

    async fn remove_link(&self, link: &LinkName, owner: &LinkOwner) -> Result<()> {
        let net = &self.inner.netlink;
        if is_of_network(owner) {
            // If it is a link of a tunnel, it is gone then.
            Tunnel::remove(net, owner).await?;
            Bridge::remove(net, link, owner).await
        } else {
            Veth::remove(net, link, owner).await
        }
    }

    /// Ends the processes and mounts of a container that is not written down. Its files are left for a person.
    fn release_orphan(&self, id: &ObjectId) -> Result<()> {
        let inner = &self.inner;
        let cgroup = format!("docklet/{}/{id}", inner.tag);
        Container::new(&inner.paths.containers(), id, &inner.target, cgroup)?.clean()?;
        let directory = ContainerDirectory::of(id, &inner.paths);
        OverlayRoot::unmount(&directory.root())?;
        let volume = id.volume_name();
        for pool in self.pools()?.0.iter().filter(|pool| pool.mount_point(&volume).exists()) {
            release_volume(pool, &volume)?;
        }
        NetworkNamespace::remove(&directory.namespace())
    }
}

/// The links and the marks that something written down has.
fn recorded(
    manifests: &[Arc<Manifest>],
    networks: &[Arc<NetworkRecord>],
) -> (BTreeSet<LinkName>, BTreeSet<LinkOwner>) {
    let mut links: BTreeSet<_> = networks.iter().map(|network| network.bridge.clone()).collect();
    let mut owners: BTreeSet<_> = networks.iter().map(|network| network.owner.clone()).collect();
    for port in manifests.iter().flat_map(|manifest| manifest.all_ports()) {
        links.extend(Veth::links(&port.link, &port.owner));
        owners.insert(port.owner.clone());
    }
    (links, owners)
}

/// What carries the mark.
pub(super) struct Marked {
    links: Vec<(LinkName, LinkOwner)>,
    ids: BTreeSet<ObjectId>,
}
