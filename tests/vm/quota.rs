//! A container whose root is on a directory with a project quota (`man 2 quotactl`), which must come through a reboot with it.

use docklet::host::{Host, NetworkSpec, RootVolume};
use docklet::storage::{Filesystem, VolumePool};

use crate::{Result, kept, sh};

const SIZE: u64 = 32 << 20;
const POOL: &str = "/data/quota/pool";

fn with_pool(host: &Host) -> Result<Host> {
    Ok(host.clone().with_volume_pool(VolumePool::directories(POOL)?))
}

pub(crate) async fn make(host: &Host) -> Result {
    let host = with_pool(host)?;
    let gateway = "10.77.0.1/24".parse()?;
    host.ensure_network(&NetworkSpec { nat: true, ..NetworkSpec::new("lan".parse()?, gateway) }).await?;
    let mut spec = kept::spec(&host, "one")?;
    spec.volume = RootVolume { size_bytes: SIZE, filesystem: Filesystem::Directory, ..spec.volume };
    let info = host.launch(spec).await?;
    kept::record(&host, &info, &kept::fill(&host, &info.spec.name, 200_000).await?)?;
    is_held(&host).await
}

/// It runs, and is held to its size: by the kernel's word inside, and when it writes.
pub(crate) async fn check(host: &Host) -> Result {
    kept::is_as_recorded(host, "one").await?;
    is_held(host).await
}

async fn is_held(host: &Host) -> Result {
    let name = "one".parse()?;
    let script = "dd if=/dev/zero of=/srv/more bs=1M count=64 2>&1; stat -c %s /srv/more; rm /srv/more; sync; stat -f -c %b /";
    let said = sh(host, &name, script).await?;
    let mut numbers = said.lines().filter_map(|line| line.parse::<u64>().ok());
    let (written, blocks) = (numbers.next().ok_or(said.clone())?, numbers.next().ok_or(said.clone())?);
    if written == 0 || written > SIZE || blocks * 4096 != SIZE || !said.contains("No space left") {
        return Err(format!("the container is not held: {said}").into());
    }
    Ok(())
}

pub(crate) async fn remove(host: &Host) -> Result {
    crate::remove(host).await?;
    let left = VolumePool::directories(POOL)?;
    match (left.list()?.as_slice(), left.tidy()?.as_slice()) {
        ([], []) => Ok(()),
        left => Err(format!("{left:?}").into()),
    }
}
