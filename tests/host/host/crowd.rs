//! Many containers in one network.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use docklet::host::{ContainerInfo, ContainerSpec, RootVolume};
use docklet::storage::{ProvisionRatio, VolumePool};

use super::fixture::{Fixture, spec};

const MANY: usize = 40;

/// The file that says which containers there are, as one of them sees it.
fn hosts_file(fixture: &Fixture, info: &ContainerInfo) -> PathBuf {
    let pid = fixture.host.runtime(&info.spec.name).unwrap().init_pid().unwrap().unwrap();
    format!("/proc/{pid}/root/etc/hosts").into()
}

/// Each knows all others as they come and go, and a recovery that finds nothing to do writes into none of their files.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn each_of_many_knows_all_others() {
    let fixture = Fixture::new().await;
    let pool = VolumePool::loop_files(fixture.host.paths().volumes()).unwrap();
    let generous = pool.with_provision_ratio(ProvisionRatio::percent(1000).unwrap());
    let host = fixture.host.clone().with_volume_pool(generous);
    let volume = RootVolume { size_bytes: 16 << 20, ..RootVolume::default() };
    let small = |n: usize| ContainerSpec { volume, ..spec(&format!("c{n}")) };
    for n in 0..MANY {
        host.launch(small(n)).await.unwrap();
    }
    for n in [3, 7] {
        host.remove(&small(n).name).await.unwrap();
    }
    host.launch(small(MANY)).await.unwrap();
    let all = host.list().unwrap();
    let line = |info: &ContainerInfo| format!("{} {}", info.address().unwrap().ip(), info.spec.name);
    let mut expected: Vec<_> = all.iter().map(line).collect();
    expected.sort_unstable();
    assert_eq!(expected.len(), MANY - 1);
    let mut written = Vec::new();
    let contents: BTreeSet<_> =
        all.iter().map(|info| fs::read(hosts_file(&fixture, info)).unwrap()).collect();
    assert_eq!(contents.len(), 1, "what changes one of them changes all");
    for info in &all {
        let file = hosts_file(&fixture, info);
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.contains("localhost"));
        let mut found: Vec<_> = lines.map(str::trim_end).collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{}", info.spec.name);
        let status = fs::metadata(&file).unwrap();
        written.push((file, (status.mtime(), status.mtime_nsec(), status.size())));
    }
    for _ in 0..2 {
        let report = host.recover().await.unwrap();
        assert!(report.complete() && !report.changed(), "{report:?}");
    }
    for (file, before) in written {
        let now = fs::metadata(&file).unwrap();
        assert_eq!((now.mtime(), now.mtime_nsec(), now.size()), before, "{}", file.display());
    }
    for info in all {
        host.remove(&info.spec.name).await.unwrap();
    }
    drop(host);
    fixture.end().await;
}
