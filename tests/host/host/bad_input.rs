//! What is refused, in which words, and that the host is as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use docklet::error::Chain;
use docklet::host::{Attachment, ContainerSpec, Host, Init, NetworkSpec};
use docklet::lxc::MountEntry;
use docklet::name::{ContainerName, LinkName};
use docklet::net::Mtu;
use docklet::paths::Paths;

use super::fixture::{Fixture, eth0, network, spec};
use crate::kernel;

/// Each wrong specification is refused with its reason, and nothing is on the host afterwards.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn wrong_specifications_are_refused() {
    let mut fixture = Fixture::new().await;
    let dir = fixture.sandbox.dir("source");
    let file = dir.join("file");
    fs::write(&file, "x").unwrap();
    let submounted = fixture.sandbox.dir("submounted");
    fs::create_dir(submounted.join("inner")).unwrap();
    kernel::run("mount", ["-t", "tmpfs", "none", submounted.join("inner").to_str().unwrap()]);
    fixture.before = fixture.host.inventory().await.unwrap();

    let with_mount = |mount: MountEntry| ContainerSpec { mounts: vec![mount], ..spec("bad") };
    let with_init = |init: &str| ContainerSpec {
        init: Init { command: vec![init.to_owned()], ..Init::default() },
        ..spec("bad")
    };
    let with_size = |size_bytes: u64| {
        let mut spec = spec("bad");
        spec.volume.size_bytes = size_bytes;
        spec
    };
    let with_address = |address: &str| ContainerSpec {
        interfaces: eth0(Attachment {
            addresses: vec![address.parse().unwrap()],
            ..Attachment::new(network().name)
        }),
        ..spec("bad")
    };
    let bind = |source: &Path, target: &str| MountEntry::bind(source, target).unwrap();
    let cases: Vec<(ContainerSpec, &[&str])> = vec![
        (
            ContainerSpec { image: "absent".parse().unwrap(), ..spec("bad") },
            &["image `absent` does not exist"],
        ),
        (with_init("/sbin/absent"), &["init command", "/sbin/absent", "no such program"]),
        (with_init("/etc"), &["init command", "no such program"]),
        (with_init("/etc/passwd"), &["init command", "no such program"]),
        (with_init("sbin/init"), &["init command", "absolute"]),
        (
            ContainerSpec { init: Init { command: vec![], ..Init::default() }, ..spec("bad") },
            &["init command"],
        ),
        (with_size(0), &["size", "0"]),
        (with_size(1), &["size"]),
        (with_size(u64::MAX), &["size"]),
        (with_address("10.1.1.1"), &["10.1.1.1", "must be in the network"]),
        (with_address("10.99.0.1"), &["gateway"]),
        (with_address("10.99.0.255"), &["broadcast"]),
        (
            ContainerSpec { interfaces: eth0(Attachment::new("absent".parse().unwrap())), ..spec("bad") },
            &["network `absent` does not exist"],
        ),
        (with_mount(bind(&dir.join("absent"), "/mnt").create_dir()), &["absent", "exist"]),
        (with_mount(bind(&file, "/mnt/x").create_dir()), &["is not a directory", "create_file()"]),
        (with_mount(bind(&dir, "/mnt/x").create_file()), &["is a directory", "create_dir()"]),
        (with_mount(bind(&submounted, "/mnt/x").create_dir()), &["has submounts", ".recursive()"]),
        (
            ContainerSpec {
                mounts: vec![bind(&dir, "/mnt/x").create_dir(), bind(&dir, "/mnt/x").create_dir()],
                ..spec("bad")
            },
            &["/mnt/x", "already"],
        ),
        (
            ContainerSpec { environment: [("A\nlxc.x".to_owned(), "1".to_owned())].into(), ..spec("bad") },
            &["environment"],
        ),
    ];
    for (spec, words) in cases {
        let shown = format!("{spec:?}");
        let error = fixture.host.launch(spec).await.expect_err(&shown);
        let message = Chain(&error).to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}\nwants {words:?}\n{shown}");
        assert_eq!(fixture.changes().await, "", "{message}");
    }
    kernel::run("umount", [submounted.join("inner")]);
    fixture.before = fixture.host.inventory().await.unwrap();
    fixture.end().await;
}

/// What a mount entry says by itself is checked without a host.
#[test]
fn wrong_mount_entries_do_not_exist() {
    for (source, target, words) in [
        ("relative", "/mnt", ["relative", "absolute"]),
        ("/srv/../etc", "/mnt", ["/srv/../etc", ".."]),
        ("/srv", "mnt", ["mnt", "absolute"]),
        ("/srv", "/mnt/../etc", ["/mnt/../etc", ".."]),
        ("/srv", "/", ["\"/\"", "root"]),
    ] {
        let message = MountEntry::bind(source, target).unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
}

/// Names that are too long or odd do not exist either.
#[test]
fn wrong_names_do_not_exist() {
    for bad in ["x".repeat(65), "a b".to_owned(), "../x".to_owned(), "a\n".to_owned(), String::new()] {
        let message = ContainerName::new(bad).unwrap_err().to_string();
        assert!(message.starts_with("invalid container name"), "{message}");
    }
    let message = LinkName::new("sixteen-bytes-xx").unwrap_err().to_string();
    assert!(message.contains("1 to 15 bytes"), "{message}");
}

/// A target that a link in the root would lead elsewhere is refused, and nothing is made where it leads.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_planted_link_leads_nowhere() {
    let fixture = Fixture::new().await;
    let outside = fixture.sandbox.dir("outside");
    let mut spec = spec("trap");
    fixture.host.launch(spec.clone()).await.unwrap();
    fixture.sh(&spec.name, &format!("rm -r /srv; ln -s {} /srv", outside.display())).await;
    fixture.host.remove(&spec.name).await.unwrap();
    // The same, planted in the image.
    fixture
        .host
        .images()
        .build(&"trap".parse().unwrap(), |root| {
            root.copy_file(Path::new("/bin/busybox"), Path::new("sbin/init"), 0o755)?;
            root.symlink(Path::new("srv"), &outside)
        })
        .unwrap();
    spec.image = "trap".parse().unwrap();
    spec.mounts = vec![MountEntry::bind(fixture.sandbox.dir("source"), "/srv/planted").unwrap().create_dir()];
    let error = fixture.host.launch(spec.clone()).await.unwrap_err();
    let message = Chain(&error).to_string();
    assert!(message.contains("/srv") && message.contains("link"), "{message}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(fixture.changes().await, "");
    fixture.end().await;
}

async fn rules_and_links(fixture: &Fixture) -> [BTreeSet<String>; 2] {
    let inventory = fixture.host.inventory().await.unwrap();
    [inventory.nft, inventory.links]
}

/// What is wrong with an interface is told with its name, and who has what is taken; nothing changes.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn wrong_interfaces_are_named() {
    let fixture = Fixture::new().await;
    let [one, two] = ["one", "two"].map(spec);
    let address = fixture.host.launch(one.clone()).await.unwrap().address().unwrap().ip();
    let asked = fixture.host.launch(two.clone()).await.unwrap();
    let before = rules_and_links(&fixture).await;
    let attachment = || Attachment::new(network().name);
    let with_address = |ip: &str| Attachment { addresses: vec![ip.parse().unwrap()], ..attachment() };
    for (attachment, words) in [
        (with_address("10.99.0.1"), "is the network's gateway, for interface `eth0`"),
        (with_address("10.98.0.1"), "must be in the network 10.99.0.0/24, for interface `eth0`"),
        (with_address(&address.to_string()), "of network `lan` is busy: container `one` has it"),
        (
            Attachment { mtu: Some(Mtu::new(1501).unwrap()), ..attachment() },
            "must be at most 1500, as network `lan` has it, for interface `eth0`",
        ),
    ] {
        let error = fixture.host.apply_interfaces(&two.name, eth0(attachment)).await.unwrap_err();
        assert!(error.to_string().ends_with(words), "{error}");
        assert_eq!(fixture.host.get(&two.name).unwrap(), asked);
    }
    let small = Attachment { mtu: Some(Mtu::new(1400).unwrap()), ..attachment() };
    fixture.host.apply_interfaces(&two.name, eth0(small)).await.unwrap();
    let smaller = NetworkSpec { mtu: Some(Mtu::new(1300).unwrap()), ..network() };
    let message = fixture.host.apply_network(&smaller).await.unwrap_err().to_string();
    assert_eq!(
        message,
        "invalid MTU \"1400\": must be at most 1300, as network `lan` has it, for interface `eth0` of container `two`"
    );
    assert_eq!(rules_and_links(&fixture).await, before);
    for name in [one.name, two.name] {
        fixture.host.remove(&name).await.unwrap();
    }
    fixture.end().await;
}

/// Networks that cannot be are refused; a bridge of somebody else's is left alone.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn wrong_networks_are_refused() {
    let fixture = Fixture::new().await;
    let other = |gateway: &str| NetworkSpec {
        name: "other".parse().unwrap(),
        gateways: vec![gateway.parse().unwrap()],
        ..network()
    };
    for (spec, words) in [
        (other("10.99.0.129/25"), ["overlaps", "network `lan`"]),
        (other("10.1.1.1/31"), ["10.1.1.", "prefix"]),
        (NetworkSpec { mtu: Some(Mtu::new(600).unwrap()), ..other("fd00::1/64") }, ["mtu", "600"]),
        (
            NetworkSpec { gateways: vec!["10.99.0.2/24".parse().unwrap()], ..network() },
            ["differs", "10.99.0.1/24"],
        ),
    ] {
        let message =
            Chain(&fixture.host.ensure_network(&spec).await.unwrap_err()).to_string().to_lowercase();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
        assert_eq!(fixture.changes().await, "", "{message}");
    }
    fixture.end().await;
}

/// Without nftables a network is refused, with NAT or without: it would not be kept apart. Nothing of it is there.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts"]
async fn without_nftables_there_is_no_network() {
    let sandbox = crate::sandbox::Sandbox::new();
    let host = Host::open(sandbox.paths.clone()).await.unwrap();
    let before = host.inventory().await.unwrap();
    kernel::run("mount", ["--bind", "/dev/null", "/usr/sbin/nft"]);
    let error = host.ensure_network(&network()).await.unwrap_err();
    let without = host.ensure_network(&NetworkSpec { nat: false, ..network() }).await.unwrap_err();
    let report = host.recover().await.unwrap();
    kernel::unmount("/usr/sbin/nft");
    for error in [error, without] {
        assert!(Chain(&error).to_string().contains("nft"), "{error}");
    }
    assert!(host.networks().unwrap().is_empty() && report.complete(), "{report:?}");
    assert_eq!(before.diff(&host.inventory().await.unwrap()).to_string(), "");
}

/// A prefix on a file system without room refuses the container; nothing is left there.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn no_room_is_said_before_it_hurts() {
    let sandbox = crate::sandbox::Sandbox::new();
    let small = sandbox.dir("small");
    kernel::run("mount", ["-t", "tmpfs", "-o", "size=32m", "none", small.to_str().unwrap()]);
    let host = Host::open(Paths::new(&small).unwrap()).await.unwrap();
    crate::busybox::ensure(host.images(), &"busybox".parse().unwrap()).unwrap();
    let before = host.inventory().await.unwrap();
    let error = host.launch(ContainerSpec { interfaces: BTreeMap::new(), ..spec("big") }).await.unwrap_err();
    let message = Chain(&error).to_string();
    assert!(message.contains("space") || message.contains("room"), "{message}");
    assert_eq!(before.diff(&host.inventory().await.unwrap()).to_string(), "");
    drop(host);
    kernel::unmount(&small);
}

/// Prefixes that cannot be used.
#[test]
#[ignore = "needs root: namespaces"]
fn wrong_prefixes_are_refused() {
    let sandbox = crate::sandbox::Sandbox::new();
    let dir = sandbox.dir("prefix");
    let read_only = dir.join("read-only");
    fs::create_dir(&read_only).unwrap();
    kernel::run("mount", ["-t", "tmpfs", "-o", "ro", "none", read_only.to_str().unwrap()]);
    fs::write(dir.join("file"), "").unwrap();
    symlink("nowhere", dir.join("dangling")).unwrap();
    for (prefix, words) in [
        (read_only.clone(), ["read-only", "Read-only file system"]),
        (read_only.join("new"), ["new", "Read-only file system"]),
        (dir.join("file"), ["file", "not a directory"]),
        (dir.join("dangling"), ["dangling", "exists"]),
        ("relative".into(), ["relative", "absolute"]),
    ] {
        let error = Paths::new(&prefix).unwrap_err();
        let message = Chain(&error).to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }
    kernel::unmount(&read_only);
}

/// Without root, and without LXC, the program says so in one line and stops.
#[test]
#[ignore = "needs root: to give it up"]
fn without_root_it_says_so() {
    let sandbox = crate::sandbox::Sandbox::new();
    // Built by the same cargo, beside this test; copied to where everybody can reach it.
    let built = std::env::current_exe().unwrap().parent().unwrap().join("../examples/quickstart");
    let program = format!("/var/tmp/docklet-quickstart-{}", std::process::id());
    fs::copy(&built, &program).unwrap_or_else(|e| panic!("{}: {e}; cargo build --examples", built.display()));
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", &program])
        .env("FS_PREFIX", sandbox.paths.prefix().join("other"))
        .output();
    fs::remove_file(&program).unwrap();
    let output = output.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("root"), "{said}");
}

/// Without LXC the host says which package is missing.
#[test]
#[ignore = "needs root: mounts"]
fn without_lxc_it_says_so() {
    let sandbox = crate::sandbox::Sandbox::new();
    let built = std::env::current_exe().unwrap().parent().unwrap().join("../examples/quickstart");
    let empty = sandbox.dir("empty");
    for dir in ["/usr/bin", "/usr/lib/x86_64-linux-gnu/lxc"] {
        assert!(Path::new(dir).is_dir());
    }
    kernel::run("mount", ["--bind", "/dev/null", "/usr/bin/lxc-start"]);
    let output = Command::new(&built).env("FS_PREFIX", &empty).env("PATH", &empty).output().unwrap();
    kernel::unmount("/usr/bin/lxc-start");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(said.contains("apt install lxc"), "{said}");
}
