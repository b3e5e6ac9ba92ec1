//! A machine beside the host: a network namespace at the other end of a cable. The host is 192.0.2.1 there, it is 192.0.2.2 and
//! 192.0.2.9.

use std::path::PathBuf;
use std::time::Duration;

use docklet::net::NetworkNamespace;

use super::fixture::Fixture;
use crate::kernel;

pub(super) struct Far {
    pub(super) pin: PathBuf,
}

impl Far {
    pub(super) fn new(fixture: &Fixture) -> Self {
        let pin = fixture.sandbox.dir("far").join("netns");
        drop(NetworkNamespace::ensure(&pin).unwrap());
        let far = Self { pin };
        kernel::run("ip", ["link", "add", "under", "type", "veth", "peer", "name", "far"]);
        kernel::run("ip", ["link", "set", "far", "netns", far.pin.to_str().unwrap()]);
        kernel::run("ip", ["address", "add", "192.0.2.1/24", "dev", "under"]);
        kernel::run("ip", ["link", "set", "under", "up"]);
        far.ip("address add 192.0.2.2/24 dev far");
        far.ip("address add 192.0.2.9/24 dev far");
        far.ip("link set far up");
        far
    }

    pub(super) fn ip(&self, args: &str) {
        kernel::run("nsenter", format!("--net={} ip {args}", self.pin.display()).split(' '));
    }

    pub(super) async fn end(self) {
        NetworkNamespace::remove(&self.pin).unwrap();
        while kernel::links().contains(&"under".to_owned()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
