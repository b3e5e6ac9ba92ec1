//! A host in a sandbox, with an image, a network, and containers to ask for.

use std::collections::BTreeMap;
use std::time::Duration;

use docklet::Error;
use docklet::cgroup::{CgroupLimits, CpuQuota, Limit};
use docklet::host::{Attachment, ContainerSpec, Host, Init, Inventory, NetworkSpec, RootVolume};
use docklet::lxc::{Exec, HaltSignal};
use docklet::name::{ContainerName, LinkName};

use crate::busybox;
use crate::sandbox::Sandbox;

pub(crate) struct Fixture {
    pub(crate) host: Host,
    /// What there was with nothing but the network.
    pub(crate) before: Inventory,
    pub(crate) sandbox: Sandbox,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        Self::within(Sandbox::new()).await
    }

    pub(crate) async fn within(sandbox: Sandbox) -> Self {
        let host = Host::open(sandbox.paths.clone()).await.expect("open");
        busybox::ensure(host.images(), &"busybox".parse().unwrap()).expect("image");
        host.ensure_network(&network()).await.expect("network");
        let before = host.inventory().await.expect("inventory");
        Self { host, before, sandbox }
    }

    /// Runs a shell line inside and returns what it printed.
    pub(crate) async fn sh(&self, name: &ContainerName, script: &str) -> String {
        let exec = Exec { timeout: Some(Duration::from_secs(300)), ..Exec::new(["/bin/sh", "-c", script]) };
        let mut result = self.host.exec(name, exec.clone()).await;
        // `lxc-attach` itself, of LXC 5.0.2, has been seen to die so, once in thousands of times, right after a start.
        if matches!(&result, Err(Error::Command { status, .. }) if status == "signal: 11") {
            eprintln!("lxc-attach crashed: {script}");
            result = self.host.exec(name, exec).await;
        }
        let output = result.expect("exec");
        assert!(
            output.status.success(),
            "{script}: {:?} {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What was added to or is missing of the host since the fixture was made.
    pub(crate) async fn changes(&self) -> String {
        self.before.diff(&self.host.inventory().await.unwrap()).to_string()
    }

    /// Asserts that no container left anything, and takes the network down.
    pub(crate) async fn end(self) {
        assert_eq!(self.changes().await, "", "a container left something behind");
        let name = network().name;
        self.host.remove_network(&name).await.expect("remove the network");
        drop(self.host);
        drop(self.sandbox);
    }
}

pub(crate) fn network() -> NetworkSpec {
    NetworkSpec { nat: true, ..NetworkSpec::new("lan".parse().unwrap(), "10.99.0.1/24".parse().unwrap()) }
}

/// One interface.
pub(crate) fn eth0(attachment: Attachment) -> BTreeMap<LinkName, Attachment> {
    [(LinkName::eth0(), attachment)].into()
}

/// A small container with every kind of limit, in the network.
pub(crate) fn spec(name: &str) -> ContainerSpec {
    ContainerSpec {
        volume: RootVolume { size_bytes: 64 << 20, ..RootVolume::default() },
        limits: CgroupLimits {
            memory_max_bytes: Some(Limit::At(64 << 20)),
            memory_swap_max_bytes: Some(Limit::At(0)),
            cpu: Some(CpuQuota::cores(0.5).unwrap()),
            pids_max: Some(Limit::At(64)),
            ..CgroupLimits::default()
        },
        init: Init { halt_signal: HaltSignal::USER2, ..Init::default() },
        ..ContainerSpec::new(name.parse().unwrap(), "busybox".parse().unwrap()).in_network(network().name)
    }
}
