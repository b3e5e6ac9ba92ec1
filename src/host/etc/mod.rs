//! What a container is told of names: its `/etc/hosts` (`man 5 hosts`) and `/etc/resolv.conf` (`man 5 resolv.conf`), two
//! files in its directory, mounted over those of its root, read-only.

mod hosts;
mod lines;
mod resolver;
mod targets;

use std::collections::BTreeSet;

pub(super) use targets::mounts_of_names;

use super::Host;
use super::record::{Manifest, Phase};
use crate::error::Result;
use crate::name::ContainerName;

impl Host {
    /// Tells a container that is about to start of names and, if it is new, others of its own.
    pub(super) async fn raise_names(&self, manifest: &Manifest) -> Result<()> {
        let networks = if manifest.phase == Phase::Creating { manifest.networks() } else { BTreeSet::new() };
        self.write_hosts(Some(networks), Some(manifest.clone())).await?;
        let manifest = manifest.clone();
        self.blocking(move |host| host.write_resolver(&manifest).map(drop)).await
    }

    /// Takes the names of a container that is gone from others. That it fails is no reason to keep it: recovery does it, too.
    pub(super) async fn lower_names(&self, manifest: &Manifest) {
        let networks = manifest.networks();
        if networks.is_empty() {
            return;
        }
        if let Err(error) = self.write_hosts(Some(networks), None).await {
            tracing::warn!(%error, container = %manifest.spec.name, "its name is still in hosts files of others");
        }
    }

    /// Puts right what containers were told of names. Returns those that were told something else.
    pub(super) async fn recover_names(&self) -> Result<BTreeSet<ContainerName>> {
        let mut changed: BTreeSet<_> = self.write_hosts(None, None).await?.into_iter().collect();
        changed.extend(self.blocking(move |host| host.write_resolvers(None)).await?);
        Ok(changed)
    }
}
