//! What holds for all networks of the host: the control plane, and the networks of other hosts (`man 8 nft`).

use tracing::{Instrument, info_span};

use crate::error::{Error, Result};
use crate::host::{Host, IsolationSpec};

impl Host {
    /// Makes `spec` hold for all networks of this host, those to come included, in place of what held before; the default takes all
    /// of it away. Tells whether something was otherwise. What is newly denied is so for new connections; those that are
    /// there go on.
    ///
    /// It is written down first: cut off anywhere, [`Host::recover`] goes on from there to `spec`. Should what is written down not
    /// be readable some day, the rules stay as they are; if they are gone by then, networks are kept from everything until
    /// somebody repairs it or moves it away.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a range of addresses has bits of a host, or a container publishes a port that would be
    /// denied; [`Error::Damaged`] or [`Error::Unsupported`] if what is written down cannot be read, or nftables is missing:
    /// nothing has changed then. After any other error what held before does again, or it is an [`Error::LeftBehind`].
    pub async fn apply_isolation(&self, spec: &IsolationSpec) -> Result<bool> {
        let spec = spec.clone();
        self.owned(|host| {
            async move { host.registry().await?.apply_isolation_locked(spec).await }
                .instrument(info_span!("apply_isolation"))
        })
        .await
    }

    /// What holds for all networks of this host. The default says nothing.
    ///
    /// # Errors
    /// [`Error::Damaged`] if what is written down cannot be read; [`Error::Unsupported`] if a newer version wrote it;
    /// [`Error::Os`] if the system refuses.
    pub fn isolation(&self) -> Result<IsolationSpec> {
        self.inner.isolation.read()
    }

    async fn apply_isolation_locked(self, spec: IsolationSpec) -> Result<bool> {
        let before = self.isolation()?;
        let checked = spec.clone();
        self.blocking(move |host| host.check_isolation(&checked)).await?;
        if spec == before {
            return self.apply_firewall(None).await;
        }
        let Err(cause) = self.settle_isolation(spec).await else { return Ok(true) };
        let undone = self.settle_isolation(before).await;
        Err(Error::after_undoing(cause, undone, || "isolation of the host".to_owned()))
    }

    async fn settle_isolation(&self, spec: IsolationSpec) -> Result<()> {
        self.blocking(move |host| host.inner.isolation.write(&spec)).await?;
        self.apply_firewall(None).await.map(drop)
    }
}
