//! Several interfaces of one container, and what changes while it runs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use docklet::Error;
use docklet::error::Chain;
use docklet::host::{Attachment, ContainerSpec, NetworkSpec};
use docklet::name::{ContainerName, LinkName};
use docklet::net::{Mtu, Rate, RateLimits};
use serde_json::Value;

use super::fixture::{Fixture, network, spec};
use crate::kernel;

/// A network of both families, without NAT.
pub(super) fn dmz() -> NetworkSpec {
    NetworkSpec {
        gateways: vec!["10.97.0.1/24".parse().unwrap(), "fd00:97::1/64".parse().unwrap()],
        ..NetworkSpec::new("dmz".parse().unwrap(), "10.97.0.1/24".parse().unwrap())
    }
}

pub(super) fn interfaces(list: &[(&str, &NetworkSpec)]) -> BTreeMap<LinkName, Attachment> {
    let pair = |(name, network): &(&str, &NetworkSpec)| (link(name), Attachment::new(network.name.clone()));
    list.iter().map(pair).collect()
}

pub(super) fn link(name: &str) -> LinkName {
    LinkName::new(name).unwrap()
}

/// What the kernel says inside, by the host's own `ip`.
pub(super) fn inside(fixture: &Fixture, name: &ContainerName, args: &[&str]) -> Value {
    let id = fixture.host.get(name).unwrap().id;
    let pin: PathBuf = fixture.sandbox.paths.containers().join(id.as_str()).join("netns");
    let mut command = vec![format!("--net={}", pin.display()), "ip".to_owned(), "-j".to_owned()];
    command.extend(args.iter().map(|arg| (*arg).to_owned()));
    kernel::json("nsenter", command)
}

/// The global addresses of an interface inside.
pub(super) fn addresses(fixture: &Fixture, name: &ContainerName, interface: &str) -> Vec<String> {
    let shown = inside(fixture, name, &["address", "show", "dev", interface, "scope", "global"]);
    let list = shown[0]["addr_info"].as_array().cloned().unwrap_or_default();
    // What is left out of the list is an empty object in it.
    let local = |info: &Value| Some(format!("{}/{}", info["local"].as_str()?, info["prefixlen"]));
    list.iter().filter_map(local).collect()
}

/// Where the default routes lead: "10.99.0.1 eth0".
fn default_routes(fixture: &Fixture, name: &ContainerName) -> Vec<String> {
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let shown = inside(fixture, name, &[family, "route", "show", "default"]);
        let list = shown.as_array().cloned().unwrap_or_default();
        let text = |route: &Value, field: &str| route[field].as_str().unwrap().to_owned();
        routes.extend(list.iter().map(|route| format!("{} {}", text(route, "gateway"), text(route, "dev"))));
    }
    routes
}

fn mtu(fixture: &Fixture, name: &ContainerName, interface: &str) -> u64 {
    inside(fixture, name, &["link", "show", "dev", interface])[0]["mtu"].as_u64().unwrap()
}

#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_container_is_in_two_networks() {
    let fixture = Fixture::new().await;
    fixture.host.ensure_network(&dmz()).await.unwrap();
    let mut spec =
        ContainerSpec { interfaces: interfaces(&[("eth0", &network()), ("eth1", &dmz())]), ..spec("one") };
    spec.interfaces.get_mut(&link("eth1")).unwrap().addresses = vec!["10.97.0.50".parse().unwrap()];
    let name = spec.name.clone();
    let info = fixture.host.launch(spec).await.unwrap();

    assert_eq!(addresses(&fixture, &name, "eth0"), ["10.99.0.2/24"]);
    assert_eq!(addresses(&fixture, &name, "eth1"), ["10.97.0.50/24", "fd00:97::2/64"]);
    let shown: Vec<_> = info.interfaces.values().flat_map(|interface| &interface.addresses).collect();
    assert_eq!(
        shown.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.99.0.2/24", "10.97.0.50/24", "fd00:97::2/64"]
    );
    assert_eq!(info.address().unwrap().to_string(), "10.99.0.2/24");
    // The first network of each family has its default route.
    assert_eq!(default_routes(&fixture, &name), ["10.99.0.1 eth0", "fd00:97::1 eth1"]);
    for gateway in ["10.99.0.1", "10.97.0.1", "fd00:97::1"] {
        fixture.sh(&name, &format!("ping -c 1 -w 5 {gateway}")).await;
    }
    // Stopped and started it has the same ones.
    fixture.host.stop(&name, Duration::ZERO).await.unwrap();
    let again = fixture.host.start(&name).await.unwrap();
    assert_eq!(again.interfaces, info.interfaces);
    assert_eq!(addresses(&fixture, &name, "eth1"), ["10.97.0.50/24", "fd00:97::2/64"]);
    let error = fixture.host.remove_network(&dmz().name).await.unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");

    fixture.host.remove(&name).await.unwrap();
    fixture.host.remove_network(&dmz().name).await.unwrap();
    fixture.end().await;
}

/// Interfaces come, change and go while the container runs; those that are not spoken of stay the same links.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn interfaces_change_while_it_runs() {
    let fixture = Fixture::new().await;
    fixture.host.ensure_network(&dmz()).await.unwrap();
    let spec = spec("one");
    let name = spec.name.clone();
    fixture.host.launch(spec).await.unwrap();
    let index =
        |interface: &str| inside(&fixture, &name, &["link", "show", "dev", interface])[0]["ifindex"].as_u64();
    let first = index("eth0");
    let init = fixture.host.runtime(&name).unwrap().init_pid().unwrap();

    // One more.
    let mut wanted = interfaces(&[("eth0", &network()), ("eth1", &dmz())]);
    let info = fixture.host.apply_interfaces(&name, wanted.clone()).await.unwrap();
    assert_eq!(info.spec.interfaces, wanted);
    assert_eq!(addresses(&fixture, &name, "eth1"), ["10.97.0.2/24", "fd00:97::2/64"]);
    fixture.sh(&name, "ping -c 1 -w 5 10.97.0.1").await;
    assert_eq!(index("eth0"), first);
    let second = index("eth1");

    // Another address, MTU and rate, of the same link.
    let dmz_place = wanted.get_mut(&link("eth1")).unwrap();
    dmz_place.addresses = vec!["10.97.0.77".parse().unwrap()];
    dmz_place.mtu = Some(Mtu::new(1400).unwrap());
    dmz_place.rates = RateLimits {
        to_container: Some(Rate::megabits(50).unwrap()),
        from_container: Some(Rate::megabits(20).unwrap()),
    };
    let info = fixture.host.apply_interfaces(&name, wanted.clone()).await.unwrap();
    assert_eq!(addresses(&fixture, &name, "eth1"), ["10.97.0.77/24", "fd00:97::2/64"]);
    assert_eq!((mtu(&fixture, &name, "eth1"), mtu(&fixture, &name, "eth0")), (1400, 1500));
    let port = info.interfaces[&link("eth1")].link.clone();
    let queues = kernel::json("tc", ["-j", "qdisc", "show", "dev", port.as_str()]);
    assert!(queues.as_array().unwrap().iter().any(|queue| queue["kind"] == "tbf"), "{queues}");
    fixture.sh(&name, "ping -c 1 -w 5 10.97.0.1").await;
    assert_eq!((index("eth0"), index("eth1")), (first, second));
    let ifbs = || kernel::json("ip", ["-j", "link", "show", "type", "ifb"]).as_array().map_or(0, Vec::len);
    assert_eq!(ifbs(), 1);

    // The first one goes, and with it the default route.
    wanted.remove(&link("eth0"));
    wanted.get_mut(&link("eth1")).unwrap().rates = RateLimits::default();
    fixture.host.apply_interfaces(&name, wanted.clone()).await.unwrap();
    assert_eq!(default_routes(&fixture, &name), ["10.97.0.1 eth1", "fd00:97::1 eth1"]);
    let links = inside(&fixture, &name, &["link", "show"]);
    assert_eq!(links.as_array().unwrap().len(), 2, "{links}");
    assert_eq!(ifbs(), 0);

    // The same again is nothing; down it is changed, too; and none at all.
    fixture.host.apply_interfaces(&name, wanted).await.unwrap();
    assert_eq!(index("eth1"), second);
    assert_eq!(fixture.host.runtime(&name).unwrap().init_pid().unwrap(), init);
    let report = fixture.host.recover().await.unwrap();
    assert!(!report.changed() && report.complete(), "{report:?}");
    fixture.host.stop(&name, Duration::ZERO).await.unwrap();
    fixture.host.apply_interfaces(&name, interfaces(&[("lan", &network())])).await.unwrap();
    fixture.host.start(&name).await.unwrap();
    assert_eq!(addresses(&fixture, &name, "lan"), ["10.99.0.2/24"]);
    fixture.host.apply_interfaces(&name, BTreeMap::new()).await.unwrap();
    fixture.host.remove_network(&dmz().name).await.unwrap();
    assert_eq!(inside(&fixture, &name, &["link", "show"]).as_array().unwrap().len(), 1);

    fixture.host.remove(&name).await.unwrap();
    fixture.end().await;
}

/// A change that cannot be carried out leaves the earlier interfaces, on the host, inside and on the disk.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_change_that_fails_is_taken_back() {
    let fixture = Fixture::new().await;
    fixture.host.ensure_network(&dmz()).await.unwrap();
    let spec = spec("one");
    let name = spec.name.clone();
    let before = fixture.host.launch(spec).await.unwrap();
    // The container has an interface of that name itself.
    fixture.sh(&name, "ip link add eth7 type veth peer name eth8").await;
    let inventory = fixture.host.inventory().await.unwrap();
    let mut wanted = interfaces(&[("eth0", &network()), ("eth7", &dmz())]);
    wanted.get_mut(&link("eth0")).unwrap().mtu = Some(Mtu::new(1300).unwrap());
    let error = fixture.host.apply_interfaces(&name, wanted).await.unwrap_err();
    assert!(
        matches!(error, Error::Differs { .. }) && error.to_string().contains("eth7"),
        "{}",
        Chain(&error)
    );
    assert_eq!(fixture.host.get(&name).unwrap(), before);
    assert_eq!(inventory.diff(&fixture.host.inventory().await.unwrap()).to_string(), "");
    assert_eq!(
        (addresses(&fixture, &name, "eth0"), mtu(&fixture, &name, "eth0")),
        (vec!["10.99.0.2/24".to_owned()], 1500)
    );
    fixture.sh(&name, "ping -c 1 -w 5 10.99.0.1").await;
    let report = fixture.host.recover().await.unwrap();
    assert!(!report.changed() && report.complete(), "{report:?}");
    fixture.host.remove(&name).await.unwrap();
    fixture.host.remove_network(&dmz().name).await.unwrap();
    fixture.end().await;
}
