//! After a crash or a reboot: the host is made to agree with what is written down.

mod networks;
mod orphans;
mod report;

use std::collections::BTreeSet;
use std::time::Duration;

use tracing::{Instrument, info_span};

pub use report::{Outcome, Recovered};

use super::Host;
use super::record::{Manifest, Phase};
use crate::cgroup::Cgroup;
use crate::error::{Chain, Result};
use crate::lxc::State;
use crate::name::ContainerName;
use crate::storage::VolumePool;
use crate::sys::directory::entries;
use crate::sys::mountinfo;

impl Host {
    /// Makes the host agree with what is written down: after a crash, after a reboot, at any time.
    ///
    /// Networks are made again, containers that should run are started, launches that were cut off are taken back,
    /// removals finished, and objects that carry this prefix's mark but belong to nothing are removed. A second call
    /// changes nothing. A container that cannot be brought back does not keep others from it. Missing data is
    /// reported, never replaced. So is a manifest or another record that cannot be read; while there is one, nothing
    /// is taken for an orphan that it may stand for, and no rule goes that it may have asked for.
    /// Where the firewall's rules cannot be made, no network is, and no container in one is started.
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
        self.recover_ports(&mut report).await?;
        self.remove_orphans(marked, &mut report).await?;
        match self.recover_names().await {
            Ok(told) => report.names.extend(told),
            Err(error) => report.failures.push(format!("names: {}", Chain(&error))),
        }
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
        let changing = manifest.objects.leaving.is_some() || manifest.objects.former_limits.is_some();
        let manifest = &self.settle_limits(manifest.clone()).await?;
        let manifest = &self.settle_interfaces(manifest.clone(), &BTreeSet::new()).await?;
        let running = self.state(manifest).await? != State::Stopped;
        if manifest.run {
            if running {
                return Ok(if changing { Outcome::Changed } else { Outcome::Unchanged });
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
            return Ok(if changing { Outcome::Changed } else { Outcome::Unchanged });
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
