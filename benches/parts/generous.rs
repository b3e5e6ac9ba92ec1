//! A host whose pool promises far more than its disk has (`man 2 fallocate`): hundreds of volumes that nothing is written to.

use docklet::host::Host;
use docklet::paths::Paths;
use docklet::storage::{ProvisionRatio, VolumePool};

pub(crate) async fn open(paths: Paths) -> Host {
    let host = Host::open(paths).await.expect("host");
    let pool = VolumePool::loop_files(host.paths().volumes()).expect("pool");
    host.with_volume_pool(pool.with_provision_ratio(ProvisionRatio::percent(100_000).expect("ratio")))
}
