//! Another link of the host in a network's subnet: told before anything is made, and when it comes later.

use docklet::Error;
use docklet::host::{Doctor, Finding, Host, NetworkSpec};

use super::fixture::{Fixture, network};
use super::interfaces::dmz;
use crate::kernel;
use crate::sandbox::Sandbox;

fn ip(line: &str) {
    kernel::run("ip", line.split(' '));
}

/// What a refusal says, if it is one of that kind.
fn busy(result: Result<(), Error>) -> String {
    match result {
        Err(error @ Error::Busy { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
#[ignore = "needs root: namespaces"]
async fn a_subnet_that_another_link_has_is_refused() {
    let fixture = Fixture::new().await;
    ip("link add other type bridge");
    ip("link set other up");
    let before = kernel::links();
    for (rival, named) in [
        ("address 10.97.0.7/24", "10.97.0.7/24"),
        ("address 10.97.0.7/32", "10.97.0.7/32"),
        ("address 10.97.0.129/26", "10.97.0.129/26"),
        ("address fd00:97::7/64", "fd00:97::7/64"),
        ("route 10.97.0.0/24", "10.97.0.0/24"),
        ("route fd00:97::/80", "fd00:97::/80"),
    ] {
        ip(&with(rival, "add"));
        let message = busy(fixture.host.ensure_network(&dmz()).await);
        assert!(message.contains("`other`") && message.contains(named), "{rival}: {message}");
        assert!(message.contains(&format!("delete {named} dev other")), "{rival}: {message}");
        assert_eq!(kernel::links(), before, "{rival}");
        assert_eq!(fixture.host.networks().unwrap(), [network()], "{rival}");
        ip(&with(rival, "delete"));
    }
    // What is only around it takes nothing of it.
    let wider = ["address 10.1.0.1/8", "address fd00:1::1/16", "route 10.97.0.0/16", "route default"];
    wider.iter().for_each(|wide| ip(&with(wide, "add")));
    fixture.host.ensure_network(&dmz()).await.unwrap();
    fixture.host.ensure_network(&dmz()).await.unwrap();
    fixture.host.remove_network(&dmz().name).await.unwrap();
    ip("link delete other");
    fixture.end().await;
}

fn with(rival: &str, verb: &str) -> String {
    let (kind, value) = rival.split_once(' ').unwrap();
    format!("{kind} {verb} {value} dev other")
}

/// Each prefix knows its own networks only; the kernel knows all.
#[tokio::test]
#[ignore = "needs root: namespaces"]
async fn a_subnet_of_another_prefix_is_refused() {
    let first = Fixture::new().await;
    let beside = Sandbox::beside();
    let second = Host::open(beside.paths.clone()).await.unwrap();
    let message = busy(second.ensure_network(&network()).await);
    assert!(message.contains(first.sandbox.paths.tag().as_str()), "{message}");
    assert_eq!(second.networks().unwrap(), []);
    drop(second);
    drop(beside);
    first.end().await;
}

/// A network that is there goes on, and all who look say what is wrong with it.
#[tokio::test]
#[ignore = "needs root: namespaces"]
async fn a_link_that_comes_later_is_told() {
    let fixture = Fixture::new().await;
    ip("link add other type bridge");
    ip("address add 10.99.0.9/24 dev other");
    let message = busy(fixture.host.ensure_network(&network()).await);
    assert!(message.contains("`other`"), "{message}");
    busy(fixture.host.apply_network(&NetworkSpec { nat: false, ..network() }).await);
    assert_eq!(fixture.host.networks().unwrap(), [network()]);
    let report = fixture.host.recover().await.unwrap();
    assert!(!report.changed() && !report.complete(), "{report:?}");
    let [failure] = &report.failures[..] else { panic!("{report:?}") };
    assert!(failure.contains("`other`") && failure.contains("10.99.0.0/24"), "{failure}");
    let told = subnets(&fixture).await;
    assert_eq!(told.0, Finding::Limited);
    assert!(
        told.1.contains("`other`") && told.2.unwrap().contains("ip address delete 10.99.0.9/24"),
        "{}",
        told.1
    );

    ip("link delete other");
    assert!(fixture.host.recover().await.unwrap().complete());
    assert_eq!(subnets(&fixture).await.0, Finding::Good);
    fixture.end().await;
}

/// What `doctor` says: finding, detail, remedy.
async fn subnets(fixture: &Fixture) -> (Finding, String, Option<String>) {
    let report = Doctor::examine(&fixture.sandbox.paths).await;
    let check = report.checks.into_iter().find(|check| check.subject == "subnets").unwrap();
    (check.finding, check.detail, check.remedy)
}
