//! Containers whose volumes are in another pool than the prefix's own.

use docklet::host::{Host, Outcome};
use docklet::storage::VolumePool;

use super::fixture::{Fixture, spec};
use crate::kernel;

/// Where a container's volume is stands in its manifest: a host that knows nothing of the pool finds it.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn containers_stay_in_the_pool_they_were_made_in() {
    let fixture = Fixture::new().await;
    let directory = fixture.sandbox.dir("elsewhere");
    let pool = VolumePool::loop_files(&directory).expect("pool");
    let host = fixture.host.clone().with_volume_pool(pool.clone());
    let (here, there) = (spec("here"), spec("there"));
    fixture.host.launch(here.clone()).await.expect("launch");
    let id = host.launch(there.clone()).await.expect("launch").id;
    assert_eq!(pool.list().expect("list"), [id.volume_name()]);
    assert_eq!(kernel::mounts_beneath(&directory).len(), 1);
    fixture.sh(&there.name, "echo kept > /root/data; sync").await;

    let fresh = Host::open(fixture.sandbox.paths.clone()).await.expect("open");
    fresh.stop(&there.name, std::time::Duration::from_secs(10)).await.expect("stop");
    assert_eq!(kernel::mounts_beneath(&directory), Vec::<String>::new());
    fresh.start(&there.name).await.expect("start");
    assert_eq!(fixture.sh(&there.name, "cat /root/data").await, "kept\n");
    let report = fresh.recover().await.expect("recover");
    assert!(!report.changed() && report.complete(), "{report:?}");
    let unchanged = [&here, &there].map(|spec| (spec.name.clone(), Outcome::Unchanged));
    assert_eq!(report.containers, unchanged);

    fresh.remove(&there.name).await.expect("remove");
    fresh.remove(&here.name).await.expect("remove");
    assert_eq!(pool.list().expect("list"), []);
    fixture.end().await;
}

/// A volume that was held still when its process died would stop its container's processes: recovery begins with it.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn recovery_lets_volumes_go_on_first() {
    let fixture = Fixture::new().await;
    let spec = spec("one");
    let id = fixture.host.launch(spec.clone()).await.expect("launch").id;
    let volumes = fixture.sandbox.paths.volumes();
    std::fs::write(volumes.join("frozen").join(id.as_str()), "").expect("mark");
    kernel::run("fsfreeze", ["--freeze", volumes.join("mounts").join(id.as_str()).to_str().expect("UTF-8")]);
    let report = fixture.host.recover().await.expect("recover");
    assert_eq!(report.volumes, [format!("volume `{id}` held still")]);
    fixture.sh(&spec.name, "echo it goes on > /root/data; sync").await;
    assert!(!fixture.host.recover().await.expect("recover").changed());
    fixture.host.remove(&spec.name).await.expect("remove");
    fixture.end().await;
}
