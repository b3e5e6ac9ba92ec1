//! Connections that the kernel tracks, when a container's addresses and published ports change (`man 8 nft`, "ct").

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::firewall::forwards;
use crate::error::{Error, Result};
use crate::host::Host;
use crate::host::record::{FormerInterfaces, Manifest, Phase, Port};
use crate::net::{end_connections, settle_forwards};

impl Host {
    /// Makes connections go by a container's ports as they are now, once the table has them; those of addresses that it has no
    /// more end.
    pub(crate) async fn settle_connections(
        &self,
        manifest: &Manifest,
        former: &FormerInterfaces,
    ) -> Result<()> {
        let now = addresses(manifest.objects.ports.values());
        let gone = &addresses(former.ports.values()) - &now;
        let published = forwards(manifest)?;
        self.blocking(move |_| {
            told(end_connections(&gone))?;
            told(settle_forwards(&now, &published).map(drop))
        })
        .await
    }

    /// The same for a new container: whoever had its addresses before, nothing of his is left.
    pub(crate) async fn settle_new_connections(&self, manifest: &Manifest) -> Result<()> {
        let published = forwards(manifest)?;
        self.blocking(move |_| told(settle_forwards(&BTreeSet::new(), &published).map(drop))).await
    }

    /// The same for all containers, after the table was not what it should have been.
    pub(crate) async fn settle_all_connections(&self) -> Result<()> {
        self.blocking(move |host| {
            let (mut targets, mut published) = (BTreeSet::new(), Vec::new());
            let manifests = host.inner.manifests.all()?.records;
            for manifest in manifests.iter().filter(|manifest| manifest.phase != Phase::Removing) {
                targets.extend(addresses(manifest.objects.ports.values()));
                published.extend(forwards(manifest)?);
            }
            told(settle_forwards(&targets, &published).map(drop))
        })
        .await
    }

    /// Ends all connections of a container that goes: who has its addresses next gets none of what is sent to it.
    pub(crate) async fn end_connections(&self, manifest: &Manifest) -> Result<()> {
        let gone = addresses(manifest.all_ports());
        self.blocking(move |_| told(end_connections(&gone))).await
    }
}

fn addresses<'a>(ports: impl Iterator<Item = &'a Port>) -> BTreeSet<IpAddr> {
    ports.flat_map(|port| &port.addresses).map(|address| address.ip()).collect()
}

/// A kernel that cannot be told must not keep a container from being changed or removed.
fn told(ended: Result<()>) -> Result<()> {
    match ended {
        Err(error @ Error::Unsupported { .. }) => {
            tracing::warn!(%error, "connections go on");
            Ok(())
        }
        ended => ended,
    }
}
