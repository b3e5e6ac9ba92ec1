//! Changes of a container that exists, running or not: written down with what they replace (`man 2 rename`), then carried out.

use tracing::info_span;

use super::record::{Manifest, Part};
use super::{ContainerInfo, Host};
use crate::error::{Error, Result};
use crate::name::ContainerName;

impl Host {
    /// Makes one `part` of a container what `plan` makes of its manifest. `plan` checks it first, under the registry's lock, in
    /// which it is also written down. After an error the part is what it was, or it is an [`Error::LeftBehind`].
    pub(super) async fn change(
        &self,
        name: &ContainerName,
        part: Part,
        plan: impl FnOnce(&Self, &mut Manifest) -> Result<()> + Send + 'static,
    ) -> Result<ContainerInfo> {
        let span = info_span!("apply", part = part.name(), container = %name);
        self.on(name, span, move |host, name| async move {
            let before = host.settle(host.created(&name)?, part).await?;
            let planned = before.clone();
            let after = host.blocking(move |host| host.record_change(planned, part, plan)).await?;
            let cause = match host.settle(after.clone(), part).await {
                Ok(settled) => return host.look(settled).await,
                Err(cause) => cause,
            };
            let undone = host.take_back(before.replacing(part, &after), part).await;
            Err(Error::after_undoing(cause, undone, || format!("{} of container `{name}`", part.name())))
        })
        .await
    }

    fn record_change(
        &self,
        before: Manifest,
        part: Part,
        plan: impl FnOnce(&Self, &mut Manifest) -> Result<()>,
    ) -> Result<Manifest> {
        let _registry = self.lock_registry()?;
        let mut after = before.clone();
        plan(self, &mut after)?;
        let after = after.replacing(part, &before);
        self.inner.manifests.publish(&after.spec.name, &after)?;
        Ok(after)
    }

    async fn take_back(&self, before: Manifest, part: Part) -> Result<()> {
        self.publish(&before).await?;
        self.settle(before, part).await.map(drop)
    }

    /// Goes on with a change of a container's `part`, if there is one. Returns the manifest as it is written down then.
    ///
    /// Each part by itself: limits must change also while a mount that is to go is in use.
    pub(super) async fn settle(&self, mut manifest: Manifest, part: Part) -> Result<Manifest> {
        let former = &manifest.objects.former;
        match part {
            Part::Limits => {
                let Some(former) = &former.limits else { return Ok(manifest) };
                self.settle_limits(&manifest, former).await?;
            }
            Part::Interfaces => {
                let Some(former) = &former.interfaces else { return Ok(manifest) };
                self.settle_interfaces(&manifest, former).await?;
            }
            Part::Mounts => {
                let Some(former) = &former.mounts else { return Ok(manifest) };
                self.settle_mounts(&manifest, former).await?;
            }
        }
        manifest.objects.former = manifest.objects.former.without(part);
        self.publish(&manifest).await?;
        Ok(manifest)
    }
}
