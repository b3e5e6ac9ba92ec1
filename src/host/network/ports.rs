//! A container's ports: veth pairs into its network namespace (`man 4 veth`).

use std::path::Path;
use std::time::Duration;

use crate::error::Result;
use crate::host::Host;
use crate::host::objects::namespace_path;
use crate::host::record::{Manifest, Port};
use crate::name::LinkName;
use crate::net::{NetworkNamespace, Veth, VethSpec};

/// How long the kernel is given to take a link down with its namespace.
const LINK_GONE_TIMEOUT: Duration = Duration::from_secs(10);

impl Host {
    pub(crate) async fn raise_port(&self, manifest: &Manifest, directory: &Path) -> Result<()> {
        let Some(port) = manifest.objects.port.clone() else { return Ok(()) };
        let Some(attachment) = &manifest.spec.network else { return Ok(()) };
        let network = self.inner.networks.open(&attachment.network)?;
        let path = namespace_path(directory);
        let namespace = self.blocking(move || NetworkNamespace::ensure(&path)).await?;
        let Port { link, owner, address } = port;
        let veth = VethSpec {
            name: link,
            owner,
            bridge: network.bridge,
            inner_name: LinkName::new("eth0")?,
            addresses: vec![address],
            gateways: vec![network.spec.gateway.ip()],
            mtu: network.spec.mtu,
        };
        Veth::ensure(&self.inner.netlink, &namespace, &veth).await.map(drop)
    }

    pub(crate) async fn lower_port(&self, manifest: &Manifest) -> Result<()> {
        let Some(port) = manifest.objects.port.clone() else { return Ok(()) };
        let path = namespace_path(&self.directory(manifest));
        // The namespace takes the pair along, which is faster than deleting it.
        self.blocking(move || NetworkNamespace::remove(&path)).await?;
        if self.inner.netlink.wait_gone(&port.link, LINK_GONE_TIMEOUT).await.is_err() {
            Veth::remove(&self.inner.netlink, &port.link, &port.owner).await?;
        }
        Ok(())
    }
}
