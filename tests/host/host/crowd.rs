//! Two hundred containers in one network.

use std::time::Instant;
use docklet::host::{ContainerSpec, Init};
use docklet::cgroup::CgroupLimits;

use super::fixture::{Fixture, spec};

fn small(name: &str) -> ContainerSpec {
    ContainerSpec { limits: CgroupLimits::default(), init: Init::default(), volume: docklet::host::RootVolume { size_bytes: 16 << 20, ..Default::default() }, ..spec(name) }
}

#[tokio::test]
#[ignore = "needs root: probe"]
async fn probe_crowd() {
    let fixture = Fixture::new().await;
    let host = fixture.host.clone().with_provision_ratio(docklet::storage::ProvisionRatio::percent(1000).unwrap());
    let many: usize = std::env::var("MANY").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    for n in 0..many {
        let start = Instant::now();
        host.launch(small(&format!("c{n}"))).await.unwrap();
        if n < 4 || n % 20 == 19 { eprintln!("PROBE launch {n}: {:?}", start.elapsed()); }
    }
    for round in 0..5 {
        std::fs::metadata("/proc/docklet-mark-launch").ok();
        let start = Instant::now();
        host.launch(small("last")).await.unwrap();
        let launched = start.elapsed();
        std::fs::metadata("/proc/docklet-mark-remove").ok();
        let start = Instant::now();
        host.remove(&"last".parse().unwrap()).await.unwrap();
        eprintln!("PROBE round {round}: launch {launched:?} remove {:?}", start.elapsed());
    }
    for _ in 0..3 {
        std::fs::metadata("/proc/docklet-mark-recover").ok();
        let start = Instant::now();
        let report = host.recover().await.unwrap();
        eprintln!("PROBE recover {:?} changed {} complete {}", start.elapsed(), report.changed(), report.complete());
    }
    std::fs::metadata("/proc/docklet-mark-end").ok();
    for n in 0..many {
        let start = Instant::now();
        host.remove(&format!("c{n}").parse().unwrap()).await.unwrap();
        if n < 4 || n % 40 == 39 || n + 3 > many { eprintln!("PROBE remove {n}: {:?}", start.elapsed()); }
    }
    drop(host);
    fixture.end().await;
}
