//! What all containers use, asked again and again (the kernel's `Documentation/admin-guide/cgroup-v2.rst`, `man 2 getrlimit`).

use std::collections::BTreeMap;

use rustix::process::{Resource, getrlimit};

use super::Host;
use super::record::Phase;
use crate::cgroup::{CgroupMeter, CgroupUsage};
use crate::error::{Error, Result};
use crate::name::{ContainerName, ObjectId};

/// Tells what the containers of a host use, as [`Host::usage`] does for one, and keeps their files open between two looks: a
/// [`CgroupMeter`] for each. Dropping it closes them.
#[derive(Debug)]
pub struct UsageMeter {
    host: Host,
    most_descriptors: usize,
    meters: BTreeMap<ObjectId, CgroupMeter>,
}

impl Host {
    /// A meter of all containers, for who looks at them again and again: a thousand in some 50 ms. Nothing is opened before it is
    /// asked.
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # async fn example(host: &docklet::host::Host) -> docklet::Result<()> {
    /// let mut meter = host.meter();
    /// loop {
    ///     for (name, usage) in meter.usages()? {
    ///         tracing::info!(%name, memory_bytes = usage.memory_bytes, cpu_time = ?usage.cpu_time);
    ///     }
    ///     tokio::time::sleep(Duration::from_secs(1)).await;
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn meter(&self) -> UsageMeter {
        let most = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
        UsageMeter {
            host: self.clone(),
            most_descriptors: most.unwrap_or(usize::MAX) / 2,
            meters: BTreeMap::new(),
        }
    }
}

impl UsageMeter {
    /// The same meter with another limit to the descriptors that it keeps, some 18 for each container, more for one with groups of its
    /// own: those beyond are opened at each look, which takes longer. Default: half of what the process may have when this is made
    /// (`RLIMIT_NOFILE`).
    #[must_use]
    pub fn with_most_descriptors(self, most_descriptors: usize) -> Self {
        Self { most_descriptors, ..self }
    }

    /// What each container that runs uses now. It takes no lock and runs no program. One that is not running has no figures, and one
    /// that was started again has those of its new run.
    ///
    /// # Errors
    /// [`Error::Os`] if a file cannot be read, or the process has no descriptor left.
    pub fn usages(&mut self) -> Result<BTreeMap<ContainerName, CgroupUsage>> {
        let mut former = std::mem::take(&mut self.meters);
        let (mut usages, mut kept, mut largest) = (BTreeMap::new(), 0, 0);
        for manifest in self.host.inner.manifests.all()?.records {
            if manifest.phase != Phase::Created {
                continue;
            }
            let mut meter = match former.remove(&manifest.id) {
                Some(meter) => meter,
                None => self.host.container(&manifest)?.payload().meter(),
            };
            let has_room = kept + meter.descriptors().max(largest) <= self.most_descriptors;
            let usage = if has_room { meter.usage() } else { meter.group().usage() };
            match usage {
                Ok(usage) => drop(usages.insert(manifest.spec.name.clone(), usage)),
                Err(Error::NotFound { .. }) => continue,
                Err(error) => return Err(error),
            }
            let held = meter.descriptors();
            if has_room && kept + held <= self.most_descriptors {
                kept += held;
                largest = largest.max(held);
                self.meters.insert(manifest.id.clone(), meter);
            }
        }
        Ok(usages)
    }

    /// How many descriptors it holds.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        self.meters.values().map(CgroupMeter::descriptors).sum()
    }
}
