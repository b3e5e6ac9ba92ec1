//! A container and volumes on LVM, in a volume group in a file, that must come through any reboot.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

use docklet::host::{Host, NetworkSpec};
use docklet::name::{SnapshotName, VolumeName};
use docklet::storage::{
    Allocation, Filesystem, LvmPool, PhysicalSpace, SnapshotSpec, ThinPoolSpec, VolumeGroup, VolumeGroupSpec,
    VolumePool, VolumeSpec,
};

use crate::{Result, kept};

const MIB: u64 = 1 << 20;
const FILE: &str = "/data/group.img";
const POOL: &str = "/data/lvm";

fn group() -> Result<VolumeGroupSpec> {
    Ok(VolumeGroupSpec {
        name: "docklet".parse()?,
        on: PhysicalSpace::LoopFile { path: FILE.into(), size_bytes: 2560 * MIB },
        thin_pool: Some(ThinPoolSpec { name: "thin".parse()?, size_bytes: 2048 * MIB }),
    })
}

fn pool() -> Result<VolumePool> {
    let group = group()?;
    let lvm = LvmPool { volume_group: group.name, thin_pool: group.thin_pool.map(|pool| pool.name) };
    Ok(VolumePool::lvm(POOL, &lvm)?)
}

fn volumes() -> Result<[VolumeSpec; 2]> {
    let spec = |name: &str, allocation| -> Result<VolumeSpec> {
        let name = name.parse()?;
        Ok(VolumeSpec { name, size_bytes: 64 * MIB, filesystem: Filesystem::Ext4, allocation })
    };
    Ok([spec("thin", Allocation::Sparse)?, spec("linear", Allocation::Preallocated)?])
}

fn then() -> Result<SnapshotName> {
    Ok("then".parse()?)
}

/// A container on thin LVM, and volumes with snapshots, one of each kind.
pub(crate) async fn make(host: &Host) -> Result {
    VolumeGroup::ensure(&group()?)?;
    let pool = pool()?;
    let host = host.clone().with_volume_pool(pool.clone());
    let gateway = "10.77.0.1/24".parse()?;
    host.ensure_network(&NetworkSpec { nat: true, ..NetworkSpec::new("lan".parse()?, gateway) }).await?;
    let info = host.launch(kept::spec(&host, "one")?).await?;
    kept::record(&host, &info, &kept::fill(&host, &info.spec.name, 200_000).await?)?;
    for spec in volumes()? {
        let volume = pool.ensure(&spec)?;
        write(&volume.mount()?.path().join("file"), "then")?;
        let reserve_bytes = (spec.allocation == Allocation::Preallocated).then_some(16 * MIB);
        volume.snapshot(&SnapshotSpec { name: then()?, reserve_bytes })?;
        write(&volume.mount()?.path().join("file"), "now")?;
    }
    Ok(())
}

fn write(path: &std::path::Path, text: &str) -> Result {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(File::open(path.parent().ok_or("no directory")?)?.sync_all()?)
}

/// The container runs with its data; the volumes hold what they held, and their snapshots what was then.
pub(crate) async fn check(host: &Host) -> Result {
    kept::is_as_recorded(host, "one").await?;
    let pool = pool()?;
    for spec in volumes()? {
        let mut volume = pool.open(&spec.name)?;
        if *volume.spec() != spec {
            return Err(format!("{:?}", volume.spec()).into());
        }
        let held = |volume: &docklet::storage::Volume| -> Result<String> {
            let text = fs::read_to_string(volume.mount()?.path().join("file"))?;
            volume.unmount()?;
            Ok(text)
        };
        let names: Vec<String> = volume.snapshots()?.into_iter().map(|s| s.name.to_string()).collect();
        let now = held(&volume)?;
        let clone: VolumeName = "clone".parse()?;
        let then_held = held(&pool.clone_snapshot(&spec.name, &then()?, &clone)?)?;
        pool.remove(&clone)?;
        if (names.as_slice(), now.as_str(), then_held.as_str()) != (&["then".to_owned()][..], "now", "then") {
            return Err(format!("`{}`: {names:?} {now:?} {then_held:?}", spec.name).into());
        }
        volume.rollback(&then()?)?;
        if held(&volume)? != "then" {
            return Err(format!("`{}` did not go back", spec.name).into());
        }
        write(&volume.mount()?.path().join("file"), "now")?;
        volume.unmount()?;
        let checked = Command::new("e2fsck").args(["-f", "-n"]).arg(volume.file()).output()?;
        if !checked.status.success() {
            return Err(String::from_utf8_lossy(&checked.stdout).into_owned().into());
        }
    }
    Ok(())
}

/// Nothing is left, the volume group neither.
pub(crate) async fn remove(host: &Host) -> Result {
    crate::remove(host).await?;
    let pool = pool()?;
    for spec in volumes()? {
        let volume = pool.open(&spec.name)?;
        volume.unmount()?;
        volume.remove_snapshot(&then()?)?;
        pool.remove(&spec.name)?;
    }
    Ok(VolumeGroup::remove(&group()?)?)
}
