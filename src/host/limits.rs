//! Limits that change while a container runs (the kernel's `Documentation/admin-guide/cgroup-v2.rst`).

use std::path::PathBuf;

use super::record::{Manifest, Part};
use super::{ContainerInfo, Host};
use crate::cgroup::{CgroupLimits, CgroupUsage};
use crate::error::{Error, Result};
use crate::lxc::State;
use crate::name::ContainerName;
use crate::sys::mountinfo;

impl Host {
    /// Gives a container exactly these limits, whether it runs or not. What is limited now and is not in `limits` is free
    /// afterwards. Each file is read back.
    ///
    /// ```no_run
    /// use docklet::cgroup::{CpuQuota, IoDevice, IoLimits, Limit};
    /// use docklet::host::Host;
    /// use docklet::name::ContainerName;
    ///
    /// # async fn example(host: &Host) -> docklet::Result<()> {
    /// let web: ContainerName = "web".parse()?;
    /// let mut limits = host.get(&web)?.spec.limits;
    /// limits.memory_max_bytes = Some(Limit::At(256 << 20));
    /// limits.cpu = Some(CpuQuota::cores(1.5)?);
    /// let ten_mib = Some(Limit::At(10 << 20));
    /// limits.io.insert(IoDevice::Volume, IoLimits { write_bytes_per_second: ten_mib, ..IoLimits::default() });
    /// let info = host.apply_limits(&web, limits).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The manifest is written first: cut off anywhere, [`Host::recover`] goes on from there to the new limits. A container that
    /// reboots from inside has those that it was started with, until [`Host::recover`] gives it its own again, which
    /// [`Host::supervise`] does at once: LXC has read its configuration once, and makes the group anew from that. It never has more
    /// memory and processes than `limits` say, with 256 MiB and 1024 for LXC's programs; processor time, processors, input and output,
    /// weights and huge pages are as at the start until then.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such container; [`Error::Invalid`] and [`Error::Unsupported`] as
    /// [`CgroupLimits::check`], with nothing changed. As [`Cgroup::apply`](crate::cgroup::Cgroup::apply), above all
    /// [`Error::Busy`] if its processes use more memory than that: it has its earlier limits again then, or it is an
    /// [`Error::LeftBehind`].
    pub async fn apply_limits(&self, name: &ContainerName, limits: CgroupLimits) -> Result<ContainerInfo> {
        self.change(name, Part::Limits, move |host, manifest| {
            limits.check(&host.inner.hierarchies)?;
            manifest.spec.limits = limits;
            Ok(())
        })
        .await
    }

    /// Makes a container's limits what its manifest says, in the place of the `former` ones.
    pub(super) async fn settle_limits(&self, manifest: &Manifest, former: &CgroupLimits) -> Result<()> {
        if self.state(manifest).await? == State::Stopped {
            return Ok(());
        }
        let limits = manifest.spec.limits.replacing(former, &self.inner.hierarchies);
        let limits = self.found_limits(manifest, limits)?;
        let container = self.container(manifest)?;
        self.blocking(move |_| container.change_limits(&limits)).await
    }

    /// Gives a container that has rebooted from inside its limits again: LXC has made its control group anew, with those of its last
    /// start. True if they were others.
    pub(super) async fn renew_limits(&self, manifest: &Manifest) -> Result<bool> {
        let manifest = manifest.clone();
        self.blocking(move |host| {
            let container = host.container(&manifest)?;
            if !container.has_rebooted()? {
                return Ok(false);
            }
            let limits = host.found_limits(&manifest, manifest.spec.limits.clone())?;
            let payload = container.payload();
            let differ = payload.verify(&limits).is_err();
            // In any case: not all of them are looked at in the groups beneath.
            payload.apply(&limits)?;
            Ok(differ)
        })
        .await
    }

    /// What a running container uses now, in one look: a few files, without a lock and without the runtime.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such container or it does not run; [`Error::Os`] if a file cannot be read.
    pub fn usage(&self, name: &ContainerName) -> Result<CgroupUsage> {
        let runtime = self.runtime(name)?;
        runtime.payload().usage().map_err(|error| match error {
            // Its group, which is no name that a caller knows.
            Error::NotFound { .. } => runtime.not_running(),
            error => error,
        })
    }

    /// `limits` with the device beneath the container's volume, which is mounted, by its path.
    pub(super) fn found_limits(&self, manifest: &Manifest, limits: CgroupLimits) -> Result<CgroupLimits> {
        if limits.limits_volume() {
            return Ok(limits.with_volume(&self.volume_device(manifest)?));
        }
        Ok(limits)
    }

    fn volume_device(&self, manifest: &Manifest) -> Result<PathBuf> {
        let target = self.pool_of(manifest)?.mount_point(&manifest.objects.volume);
        match mountinfo::mount_at(&target)? {
            Some(mount) if mount.source.starts_with("/dev") => Ok(mount.source),
            Some(mount) => Err(Error::Unsupported {
                what: format!("limiting input and output of a volume on {}", mount.filesystem),
                needs: "it takes a volume with a device of its own: a loop file, or LVM".to_owned(),
            }),
            None => Err(Error::NotFound { what: format!("the mount {}", target.display()) }),
        }
    }
}
