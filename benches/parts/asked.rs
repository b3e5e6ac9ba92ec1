//! What the benchmarks of launches ask for.

use docklet::cgroup::{CgroupLimits, CpuQuota, Limit};
use docklet::host::{ContainerSpec, Host, NetworkSpec};
use docklet::storage::Image;

use crate::busybox;

/// Makes the image and a network with NAT, in which the host has `gateway`. Returns them with a container in that network, with limits.
pub(crate) async fn prepare(host: &Host, gateway: &str) -> (Image, NetworkSpec, ContainerSpec) {
    let image = busybox::ensure(host.images(), &"busybox".parse().expect("name")).expect("image");
    let gateway = gateway.parse().expect("gateway");
    let network = NetworkSpec { nat: true, ..NetworkSpec::new("bench".parse().expect("name"), gateway) };
    host.ensure_network(&network).await.expect("network");
    let limits = CgroupLimits {
        memory_max_bytes: Some(Limit::At(128 << 20)),
        memory_swap_max_bytes: Some(Limit::At(0)),
        cpu: Some(CpuQuota::cores(0.5).expect("quota")),
        pids_max: Some(Limit::At(64)),
        ..CgroupLimits::default()
    };
    let name = "bench".parse().expect("name");
    let spec = ContainerSpec {
        limits,
        ..ContainerSpec::new(name, image.name.clone()).in_network(network.name.clone())
    };
    (image, network, spec)
}
