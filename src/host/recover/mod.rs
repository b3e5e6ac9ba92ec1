//! After a crash or a reboot: the host is made to agree with what is written down.

mod networks;
mod orphans;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use tracing::{Instrument, info_span};

pub use report::{Outcome, Recovered};

use super::Host;
use super::record::{Manifest, Part, Phase};
use crate::cgroup::Cgroup;
use crate::error::{Chain, Error, Result};
use crate::lxc::State;
use crate::name::ContainerName;
use crate::storage::VolumePool;
use crate::sys::directory::entries;
use crate::sys::mountinfo;

/// How many containers are recovered at once.
const AT_ONCE: usize = 4;

/// Whether a container that ended waits for its restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Haste {
    /// It is started now.
    Now,
    /// It is started when its pause is over.
    WhenDue,
}

/// What became of one container.
#[derive(Debug)]
pub(super) enum Converged {
    /// It is what it should be, or has failed. `None`: there is none of that name.
    Done(Option<Outcome>),
    /// It ended, and is to be started again after this time.
    Due(Duration),
}

impl Host {
    /// Makes the host agree with what is written down: after a crash, after a reboot, at any time.
    ///
    /// Networks are made again, containers that should run are started in their [order](super::ContainerSpec::start_order), launches that were cut off are taken back,
    /// removals finished, and objects that carry this prefix's mark but belong to nothing are removed. A second call
    /// changes nothing. A container that has ended by itself is started again at once, or is left if its
    /// [policy](super::RestartPolicy) says so. A container that cannot be brought back does not keep others from it. Missing data is
    /// reported, never replaced. So is a manifest or another record that cannot be read; while there is one, nothing
    /// is taken for an orphan that it may stand for, and no rule goes that it may have asked for.
    /// Where the firewall's rules cannot be made, no network is, and no container in one is started.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the directories of what is written down cannot be read; all else stands in the
    /// report.
    pub async fn recover(&self) -> Result<Recovered> {
        self.recover_in(Haste::Now).await
    }

    pub(super) async fn recover_in(&self, haste: Haste) -> Result<Recovered> {
        self.owned(|host| async move { host.recover_owned(haste).await }.instrument(info_span!("recover")))
            .await
    }

    async fn recover_owned(self, haste: Haste) -> Result<Recovered> {
        let mut report = Recovered::default();
        // First what there is, then what is written down: what is made in between is written down before.
        let marked = self.marked().await?;
        self.recover_volumes(&mut report).await?;
        let unsettled = self.recover_networks(&mut report).await?;
        let mut names: BTreeSet<_> = self.inner.manifests.names_with_left_overs()?.into_iter().collect();
        names.extend(self.lock_names()?);
        for together in self.in_start_order(names)? {
            let converging = together.into_iter().map(|name| async {
                let converged = self.converge(&name, haste).await;
                (name, converged)
            });
            let mut converging = futures_util::stream::iter(converging).buffer_unordered(AT_ONCE);
            while let Some((name, converged)) = converging.next().await {
                match converged {
                    Converged::Done(outcome) => {
                        report.containers.extend(outcome.map(|outcome| (name, outcome)))
                    }
                    Converged::Due(_) => report.containers.push((name, Outcome::Unchanged)),
                }
            }
        }
        report.containers.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.recover_ports(&unsettled, &mut report).await?;
        self.remove_orphans(marked, &mut report).await?;
        let told = report.took("names", self.recover_names().await);
        report.names.extend(told.into_iter().flatten());
        let (tidied, failures) = self.blocking(move |host| Ok(host.tidy())).await?;
        report.orphans.extend(tidied);
        report.failures.extend(failures);
        self.release_parent().await?;
        Ok(report)
    }

    /// First of all: what is held still, or is not there yet, would stop containers.
    async fn recover_volumes(&self, report: &mut Recovered) -> Result<()> {
        let (recovered, failures) = self
            .blocking(move |host| {
                let (pools, failures) = host.pools()?;
                let recovered: Vec<_> = pools.iter().map(VolumePool::recover).collect();
                Ok((recovered, failures))
            })
            .await?;
        report.failures.extend(failures);
        for volumes in recovered {
            let recovered = report.took("volumes", volumes);
            report.volumes.extend(recovered.into_iter().flatten());
        }
        Ok(())
    }

    /// The containers in the order they are started in: one group after the other, each all at once.
    fn in_start_order(&self, names: BTreeSet<ContainerName>) -> Result<Vec<Vec<ContainerName>>> {
        let records = self.inner.manifests.all()?.records;
        let orders: BTreeMap<_, _> = records
            .into_iter()
            .map(|manifest| (manifest.spec.name.clone(), manifest.spec.start_order))
            .collect();
        let mut groups: BTreeMap<i32, Vec<_>> = BTreeMap::new();
        for name in names {
            groups.entry(orders.get(&name).copied().unwrap_or_default()).or_default().push(name);
        }
        Ok(groups.into_values().collect())
    }

    /// Makes one container what it should be.
    pub(super) async fn converge(&self, name: &ContainerName, haste: Haste) -> Converged {
        let result = match self.locked(name).await {
            Ok(host) => host.converge_locked(name, haste).await,
            Err(error) => Err(error),
        };
        result.unwrap_or_else(|error| Converged::Done(Some(Outcome::Failed(Chain(&error).to_string()))))
    }

    async fn converge_locked(&self, name: &ContainerName, haste: Haste) -> Result<Converged> {
        self.inner.manifests.tidy(name)?;
        let Some(manifest) = self.inner.manifests.get(name)? else {
            self.remove_lock()?;
            return Ok(Converged::Done(None));
        };
        match manifest.phase {
            Phase::Creating | Phase::Removing => {
                self.tear_down(manifest).await?;
                self.remove_lock()?;
                Ok(Converged::Done(Some(Outcome::Removed)))
            }
            Phase::Created => self.converge_created(manifest, haste).await,
        }
    }

    async fn converge_created(&self, mut manifest: Manifest, haste: Haste) -> Result<Converged> {
        let done = |outcome| Ok(Converged::Done(Some(outcome)));
        let unchanged = if manifest.objects.former.is_none() { Outcome::Unchanged } else { Outcome::Changed };
        for part in Part::ALL {
            manifest = self.settle(manifest, part).await?;
        }
        let running = self.state(&manifest).await? != State::Stopped;
        if manifest.run && running {
            let renewed = self.renew_limits(&manifest).await?;
            return done(if renewed { Outcome::Changed } else { unchanged });
        }
        let ending = self.note_end(&manifest).await?;
        if !manifest.run {
            let held = manifest.clone();
            if !self.blocking(move |host| host.holds(&held)).await? {
                return done(unchanged);
            }
            self.lower(&manifest, Duration::ZERO).await?;
            return done(Outcome::Released);
        }
        match ending {
            Some(ending) if ending.restart_after.is_none() => {
                self.give_up(manifest).await?;
                return done(Outcome::Ended);
            }
            Some(ending) if haste == Haste::WhenDue && !ending.pause_left().is_zero() => {
                return Ok(Converged::Due(ending.pause_left()));
            }
            _ => {}
        }
        self.lower(&manifest, Duration::ZERO).await?;
        let log = self.container(&manifest)?.log_identity();
        let Err(cause) = self.raise(&manifest).await else { return done(Outcome::Started) };
        // Nothing of what was made for it waits for a person.
        let lowered = self.lower(&manifest, Duration::ZERO).await;
        let error = Error::after_undoing(cause, lowered, || format!("container `{}`", manifest.spec.name));
        // Who recovers a host by hand reads why it did not start, and may try again.
        if haste == Haste::Now {
            return Err(error);
        }
        self.after_failed_start(manifest, error, log).await
    }

    /// What follows if it was the container that failed: its policy decides. If it was the host, that is the error.
    async fn after_failed_start(
        &self,
        manifest: Manifest,
        error: Error,
        log: Option<u64>,
    ) -> Result<Converged> {
        let Some(ending) = self.note_failed_start(&manifest, log).await? else { return Err(error) };
        tracing::warn!(container = %manifest.spec.name, error = %Chain(&error), "ended while it was started");
        match ending.restart_after {
            Some(_) => Ok(Converged::Due(ending.pause_left())),
            None => {
                self.give_up(manifest).await?;
                Ok(Converged::Done(Some(Outcome::Ended)))
            }
        }
    }

    /// From now on it should not run: it has ended, and is not started again.
    async fn give_up(&self, mut manifest: Manifest) -> Result<()> {
        manifest.run = false;
        self.publish(&manifest).await?;
        self.lower(&manifest, Duration::ZERO).await
    }

    /// Whether a container that does not run holds something of the kernel's: a mount (its namespace is one) or a
    /// control group.
    fn holds(&self, manifest: &Manifest) -> Result<bool> {
        let directory = self.directory(manifest);
        let space = self.pool_of(manifest)?.mount_point(&manifest.objects.volume);
        let mounted = mountinfo::mounts()?
            .iter()
            .any(|mount| mount.target.starts_with(directory.path()) || mount.target == space);
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
