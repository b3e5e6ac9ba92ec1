//! The pools that containers' volumes are in: the one for new ones, and those that are written down.
//!
//! See [`VolumePool`] for the host's facilities beneath.

use super::handle::Host;
use super::record::Manifest;
use crate::error::{Chain, Result};
use crate::storage::{PoolSpec, VolumePool};

impl Host {
    /// What a new container's manifest says of its pool.
    pub(super) fn recorded_pool(&self) -> Option<PoolSpec> {
        Some(self.pool.spec()).filter(|spec| *spec != self.own_spec())
    }

    /// The pool that the container's volume is in.
    pub(super) fn pool_of(&self, manifest: &Manifest) -> Result<VolumePool> {
        let spec = manifest.objects.pool.clone().unwrap_or_else(|| self.own_spec());
        if spec == self.pool.spec() { Ok(self.pool.clone()) } else { spec.pool() }
    }

    /// Every pool that has, or may have, a volume of this host, and why others cannot be opened.
    pub(super) fn pools(&self) -> Result<(Vec<VolumePool>, Vec<String>)> {
        let mut specs = vec![self.own_spec(), self.pool.spec()];
        specs.extend(
            self.inner.manifests.all()?.records.iter().filter_map(|record| record.objects.pool.clone()),
        );
        let (mut pools, mut failures) = (Vec::<VolumePool>::new(), Vec::new());
        for spec in specs {
            if pools.iter().any(|pool| pool.spec() == spec) {
                continue;
            }
            match spec.pool() {
                Ok(pool) => pools.push(pool),
                Err(error) => failures.push(format!("volumes: {}", Chain(&error))),
            }
        }
        failures.dedup();
        Ok((pools, failures))
    }

    /// Loop files under the prefix.
    fn own_spec(&self) -> PoolSpec {
        PoolSpec::LoopFiles { directory: self.inner.volumes.clone() }
    }
}
