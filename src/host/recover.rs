//! After a crash or a reboot: the host is made to agree with what is written down.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use tracing::{Instrument, info_span};

use super::handle::Host;
use super::manifest::{Manifest, NetworkRecord, Phase};
use super::objects::{namespace_path, release_volume, root_path};
use crate::cgroup::Cgroup;
use crate::error::{Chain, Error, Result};
use crate::lxc::{self, Container, State};
use crate::name::{ContainerName, LinkName, NetworkName, ObjectId};
use crate::net::{Bridge, LinkOwner, NetworkNamespace, Veth};
use crate::storage::{OverlayRoot, VolumePool};
use crate::sys::directory::entries;
use crate::sys::mountinfo;

/// What became of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was as it should be: nothing was done.
    Unchanged,
    /// It should run and did not: it was made whole and started.
    Started,
    /// It should not run: what was left of its run was released.
    Released,
    /// It was never finished, or its removal was not: nothing of it is left.
    Removed,
    /// It could not be brought back. The reason, with everything beneath it. It stays written down.
    Failed(String),
}

/// What a recovery found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Recovered {
    /// Each container that is or was written down.
    pub containers: Vec<(ContainerName, Outcome)>,
    /// What was made again of networks: their names.
    pub networks: Vec<String>,
    /// What was done so that volumes can be used.
    pub volumes: Vec<String>,
    /// Objects with this prefix's mark that belonged to nothing, and were removed.
    pub orphans: Vec<String>,
    /// What could not be done besides containers.
    pub failures: Vec<String>,
}

impl Recovered {
    /// Whether anything was done.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.containers.iter().any(|(_, outcome)| !matches!(outcome, Outcome::Unchanged | Outcome::Failed(_)))
            || !self.networks.is_empty()
            || !self.volumes.is_empty()
            || !self.orphans.is_empty()
    }

    /// Whether everything is as it should be now.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.failures.is_empty()
            && !self.containers.iter().any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
    }
}

impl Host {
    /// Makes the host agree with what is written down: after a crash, after a reboot, at any time.
    ///
    /// Networks are made again, containers that should run are started, launches that were cut off are taken back,
    /// removals finished, and objects that carry this prefix's mark but belong to nothing are removed. A second call
    /// changes nothing. A container that cannot be brought back does not keep others from it. Missing data is
    /// reported, never replaced. So is a manifest or a network's record that cannot be read; while there is one, nothing
    /// is taken for an orphan that it may stand for.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the directories of what is written down cannot be read; all else stands in the
    /// report.
    pub async fn recover(&self) -> Result<Recovered> {
        self.owned(|host| async move { host.recover_owned().await }.instrument(info_span!("recover"))).await
    }

    async fn recover_owned(self) -> Result<Recovered> {
        let mut report = Recovered::default();
        // First what there is, then what is written down: what is made in between is written down before.
        let marked = self.marked().await?;
        self.recover_volumes(&mut report).await?;
        self.recover_networks(&mut report).await?;
        let mut names: BTreeSet<_> = self.inner.manifests.names_with_left_overs()?.into_iter().collect();
        names.extend(self.lock_names()?);
        for name in names {
            if let Some(outcome) = self.converge(&name).await {
                report.containers.push((name, outcome));
            }
        }
        self.remove_orphans(marked, &mut report).await?;
        let host = self.clone();
        let (tidied, failures) = self.blocking(move || Ok(host.tidy())).await?;
        report.orphans.extend(tidied);
        report.failures.extend(failures);
        self.release_parent().await?;
        Ok(report)
    }

    /// First of all: what is held still, or is not there yet, would stop containers.
    async fn recover_volumes(&self, report: &mut Recovered) -> Result<()> {
        let host = self.clone();
        let (recovered, failures) = self
            .blocking(move || {
                let (pools, failures) = host.pools()?;
                let recovered: Vec<_> = pools.iter().map(VolumePool::recover).collect();
                Ok((recovered, failures))
            })
            .await?;
        report.failures.extend(failures);
        for result in recovered {
            match result {
                Ok(volumes) => report.volumes.extend(volumes),
                Err(error) => report.failures.push(format!("volumes: {}", Chain(&error))),
            }
        }
        Ok(())
    }

    async fn recover_networks(&self, report: &mut Recovered) -> Result<()> {
        let host = self.registry().await?;
        let mut translated = Vec::new();
        for name in host.inner.networks.names_with_left_overs()? {
            match host.recover_network(&name).await {
                Ok(Some((record, made))) => {
                    if made {
                        report.networks.push(name.to_string());
                    }
                    if record.spec.nat {
                        translated.push(name.to_string());
                    }
                }
                Ok(None) => {}
                Err(error) => report.failures.push(format!("network `{name}`: {}", Chain(&error))),
            }
        }
        // Also without any such network: a removal may have been cut off before the table went.
        match host.apply_firewall(None).await {
            Ok(true) => report.networks.extend(translated),
            Ok(false) => {}
            // A host without nftables has no table, and needs none.
            Err(Error::Unsupported { .. }) if translated.is_empty() => {}
            Err(error) => report.failures.push(format!("firewall: {}", Chain(&error))),
        }
        report.networks.sort();
        report.networks.dedup();
        Ok(())
    }

    /// Makes what is missing of a network's bridge, and tells whether something was. `None` if there is no such network.
    async fn recover_network(&self, name: &NetworkName) -> Result<Option<(NetworkRecord, bool)>> {
        self.inner.networks.tidy(name)?;
        let Some(record) = self.inner.networks.get(name)? else { return Ok(None) };
        let made = self.raise_bridge(&record).await?;
        Ok(Some((record, made)))
    }

    /// Makes one container what it should be. `None` if there is none of that name.
    pub(super) async fn converge(&self, name: &ContainerName) -> Option<Outcome> {
        let result = match self.locked(name).await {
            Ok(host) => host.converge_locked(name).await,
            Err(error) => Err(error),
        };
        result.unwrap_or_else(|error| Some(Outcome::Failed(Chain(&error).to_string())))
    }

    async fn converge_locked(&self, name: &ContainerName) -> Result<Option<Outcome>> {
        self.inner.manifests.tidy(name)?;
        let Some(manifest) = self.inner.manifests.get(name)? else {
            self.remove_lock()?;
            return Ok(None);
        };
        match manifest.phase {
            Phase::Creating | Phase::Removing => {
                self.tear_down(manifest).await?;
                self.remove_lock()?;
                Ok(Some(Outcome::Removed))
            }
            Phase::Created => self.converge_created(&manifest).await.map(Some),
        }
    }

    async fn converge_created(&self, manifest: &Manifest) -> Result<Outcome> {
        let running = self.state(manifest).await? != State::Stopped;
        if manifest.run {
            if running {
                return Ok(Outcome::Unchanged);
            }
            self.lower(manifest, Duration::ZERO).await?;
            if let Err(error) = self.raise(manifest).await {
                // Nothing of what was made for it waits for a person.
                self.lower(manifest, Duration::ZERO).await?;
                return Err(error);
            }
            return Ok(Outcome::Started);
        }
        let (host, held) = (self.clone(), manifest.clone());
        if !self.blocking(move || host.holds(&held)).await? {
            return Ok(Outcome::Unchanged);
        }
        self.lower(manifest, Duration::ZERO).await?;
        Ok(Outcome::Released)
    }

    /// Whether a container that does not run holds something of the kernel's: a mount (its namespace is one) or a
    /// control group.
    fn holds(&self, manifest: &Manifest) -> Result<bool> {
        let directory = self.directory(manifest);
        let space = self.pool_of(manifest)?.mount_point(&manifest.objects.volume);
        let mounted = mountinfo::mounts()?
            .iter()
            .any(|mount| mount.target.starts_with(&directory) || mount.target == space);
        Ok(mounted || Cgroup::new(&self.inner.hierarchies, manifest.objects.cgroup.as_str())?.exists())
    }

    /// The names that somebody took the lock of, perhaps one that died before there was a manifest, or after.
    fn lock_names(&self) -> Result<Vec<ContainerName>> {
        let dir = self.inner.paths.locks();
        let mut names = Vec::new();
        for entry in entries(&dir)? {
            let name = entry.to_str().and_then(|entry| entry.strip_suffix(".lock"));
            names.extend(name.and_then(|name| ContainerName::new(name).ok()));
        }
        Ok(names)
    }

    /// The ids and links that carry this prefix's mark now.
    async fn marked(&self) -> Result<Marked> {
        let inner = &self.inner;
        let mut marked = Marked {
            links: inner.netlink.links_owned(&format!("docklet:{}:", inner.tag)).await?,
            ids: BTreeSet::new(),
        };
        let parent = format!("docklet/{}", inner.tag);
        let containers = inner.paths.containers();
        let mut names = Cgroup::list(&inner.hierarchies, &parent)?;
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
    async fn remove_orphans(&self, mut marked: Marked, report: &mut Recovered) -> Result<()> {
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
        for (link, owner) in marked.links {
            let is_port =
                manifests.iter().any(|m| m.objects.port.as_ref().is_some_and(|port| port.has_link(&link)));
            let all_known = if is_of_network(&owner) { all_networks } else { all_containers };
            if !all_known || is_port || networks.iter().any(|network| network.bridge == link) {
                continue;
            }
            match self.remove_link(&link, &owner).await {
                Ok(()) => report.orphans.push(format!("link {link}")),
                Err(error) => report.failures.push(format!("link {link}: {}", Chain(&error))),
            }
        }
        for id in marked.ids {
            if !all_containers || manifests.iter().any(|manifest| manifest.id == id) {
                continue;
            }
            let (host, orphan) = (self.clone(), id.clone());
            match self.blocking(move || host.release_orphan(&orphan)).await {
                Ok(()) => report.orphans.push(format!("container {id}")),
                Err(error) => report.failures.push(format!("container {id}: {}", Chain(&error))),
            }
        }
        Ok(())
    }

    async fn remove_link(&self, link: &LinkName, owner: &LinkOwner) -> Result<()> {
        if is_of_network(owner) {
            Bridge::remove(&self.inner.netlink, link, owner).await
        } else {
            Veth::remove(&self.inner.netlink, link, owner).await
        }
    }

    /// Ends the processes and mounts of a container that is not written down. Its files are left for a person.
    fn release_orphan(&self, id: &ObjectId) -> Result<()> {
        let inner = &self.inner;
        let cgroup = format!("docklet/{}/{id}", inner.tag);
        Container::new(&inner.paths.containers(), id, &inner.target, cgroup)?.clean()?;
        let directory = inner.paths.containers().join(id.as_str());
        OverlayRoot::unmount(&root_path(&directory))?;
        let volume = id.volume_name();
        for pool in self.pools()?.0.iter().filter(|pool| pool.mount_point(&volume).exists()) {
            release_volume(pool, &volume)?;
        }
        NetworkNamespace::remove(&namespace_path(&directory))
    }

    /// Removes temporary files of operations that were cut off.
    fn tidy(&self) -> (Vec<String>, Vec<String>) {
        let (mut removed, mut failures) = (Vec::new(), Vec::new());
        let pools = match self.pools() {
            // Those that cannot be opened are reported already.
            Ok((pools, _)) => pools,
            Err(error) => {
                failures.push(Chain(&error).to_string());
                Vec::new()
            }
        };
        let tidied = pools.iter().map(VolumePool::tidy).chain([self.inner.images.tidy()]);
        for result in tidied {
            match result {
                Ok(files) => removed.extend(files),
                Err(error) => failures.push(Chain(&error).to_string()),
            }
        }
        (removed, failures)
    }
}

fn is_of_network(owner: &LinkOwner) -> bool {
    owner.as_str().contains(":network:")
}

struct Marked {
    links: Vec<(LinkName, LinkOwner)>,
    ids: BTreeSet<ObjectId>,
}
