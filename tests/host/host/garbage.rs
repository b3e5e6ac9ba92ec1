//! Records and marks that somebody else has changed.

use std::fs;

use docklet::Error;
use docklet::lxc::State;

use super::fixture::{Fixture, network, spec};
use super::interfaces::dmz;
use crate::kernel;

/// Every record cut short at each of many places, and with each of many bits turned over: what is written down is read as it
/// is, or reported; no call panics, nothing of anybody's is removed, and the right record brings all of it back.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn damaged_records_harm_nobody() {
    let fixture = Fixture::new().await;
    let host = &fixture.host;
    host.ensure_network(&dmz()).await.unwrap();
    let name = spec("one").name;
    let info = host.launch(spec("one")).await.unwrap();
    kernel::run("ip", ["link", "add", "theirs", "type", "bridge"]);
    let links = || kernel::json("ip", ["-j", "-d", "link", "show"]).as_array().unwrap().len();
    let before = links();
    let paths = &fixture.sandbox.paths;
    for file in [paths.manifests().join("one.json"), paths.networks().join("lan.json")] {
        let good = fs::read(&file).unwrap();
        for place in 0..good.len() {
            let mut turned = good.clone();
            turned[place] ^= 1 << (place % 8);
            fs::write(&file, &turned).unwrap();
            if let Err(error) = host.list() {
                panic!("{}: {error}", String::from_utf8_lossy(&turned));
            }
        }
        let step = good.len() / 12;
        for place in (0..good.len()).step_by(step) {
            let mut turned = good.clone();
            turned[place] ^= 1 << (place % 8);
            for bad in [good[..place].to_vec(), turned] {
                fs::write(&file, &bad).unwrap();
                let report = host.recover().await.unwrap();
                let text = String::from_utf8_lossy(&bad);
                assert!(report.orphans.is_empty(), "{text}: {report:?}");
                assert_eq!(links(), before, "{text}: {report:?}");
                host.inventory().await.unwrap();
                host.list().unwrap();
            }
        }
        fs::write(&file, &good).unwrap();
        assert!(host.recover().await.unwrap().complete());
        let now = host.get(&name).unwrap();
        assert_eq!((&now.id, now.state), (&info.id, State::Running));
        assert!(!host.recover().await.unwrap().changed());
    }
    fixture.sh(&name, "ping -c 1 -w 5 10.99.0.1").await;
    kernel::run("ip", ["link", "del", "theirs"]);
    host.remove(&name).await.unwrap();
    host.remove_network(&dmz().name).await.unwrap();
    fixture.end().await;
}

/// A record that names somebody else's links: they are left as they are, and each call says so.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn records_that_name_others_links_touch_nothing() {
    let fixture = Fixture::new().await;
    let host = &fixture.host;
    host.ensure_network(&dmz()).await.unwrap();
    let name = spec("one").name;
    host.launch(spec("one")).await.unwrap();
    kernel::run("ip", ["link", "add", "theirs", "type", "bridge"]);
    kernel::run("ip", ["link", "add", "wire", "type", "veth", "peer", "name", "wire2"]);
    kernel::run("ip", ["link", "set", "theirs", "alias", "somebody"]);
    let theirs = || ["theirs", "wire"].map(|name| kernel::run("ip", ["-d", "link", "show", name]));
    let before = theirs();
    let paths = &fixture.sandbox.paths;

    let file = paths.networks().join("dmz.json");
    let good = fs::read_to_string(&file).unwrap();
    let record: serde_json::Value = serde_json::from_str(&good).unwrap();
    let bridge = record["bridge"].as_str().unwrap();
    fs::write(&file, good.replace(bridge, "theirs")).unwrap();
    let report = host.recover().await.unwrap();
    assert!(report.failures.iter().any(|failure| failure.contains("theirs")), "{report:?}");
    let error = host.remove_network(&dmz().name).await.unwrap_err();
    assert!(matches!(error, Error::Differs { .. }), "{error}");
    assert_eq!(theirs(), before);
    fs::write(&file, &good).unwrap();
    let report = host.recover().await.unwrap();
    assert!(report.complete(), "{report:?}");

    let file = paths.manifests().join("one.json");
    let good = fs::read_to_string(&file).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&good).unwrap();
    let link = manifest["objects"]["ports"]["eth0"]["link"].as_str().unwrap();
    fs::write(&file, good.replace(link, "wire")).unwrap();
    let report = host.recover().await.unwrap();
    assert!(report.failures.iter().any(|failure| failure.contains("wire")), "{report:?}");
    assert!(report.failures.iter().any(|failure| failure.contains(link)), "{report:?}");
    assert!(report.orphans.is_empty(), "{report:?}");
    let error = host.remove(&name).await.unwrap_err();
    assert!(matches!(error, Error::Differs { .. }), "{error}");
    assert_eq!(theirs(), before);
    let going = fs::read_to_string(&file).unwrap();
    fs::write(&file, going.replace("\"wire\"", &format!("\"{link}\""))).unwrap();
    host.remove(&name).await.unwrap();
    let report = host.recover().await.unwrap();
    assert!(report.complete(), "{report:?}");
    assert_eq!(theirs(), before);
    kernel::run("ip", ["link", "del", "theirs"]);
    kernel::run("ip", ["link", "del", "wire"]);
    host.remove_network(&dmz().name).await.unwrap();
    host.remove_network(&network().name).await.unwrap();
    host.ensure_network(&network()).await.unwrap();
    let report = host.recover().await.unwrap();
    assert!(report.complete() && !report.changed(), "{report:?}");
    host.remove_network(&network().name).await.unwrap();
    drop(fixture);
}
