//! What containers are told of names.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use docklet::host::{ContainerSpec, NetworkSpec, Privilege, Resolver};
use docklet::name::ContainerName;
use docklet::storage::ImageBuilder;

use super::fixture::{Fixture, network, spec};
use super::interfaces::{dmz, interfaces};
use crate::kernel;

/// The names in a container's hosts file, but its own loopback's.
async fn names(fixture: &Fixture, name: &ContainerName) -> Vec<String> {
    let text = fixture.sh(name, "cat /etc/hosts").await;
    let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim_end);
    let mut names: Vec<String> =
        lines.filter(|line| !line.contains("localhost")).map(str::to_owned).collect();
    names.sort();
    names
}

/// Containers of one network find each other by name, as they come and go, through the file that was mounted at first.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn containers_of_a_network_know_each_other() {
    let fixture = Fixture::new().await;
    fixture.host.ensure_network(&dmz()).await.unwrap();
    let both = interfaces(&[("eth0", &network()), ("eth1", &dmz())]);
    let specs = [
        spec("one"),
        spec("two"),
        ContainerSpec { interfaces: both, ..spec("three") },
        ContainerSpec { interfaces: interfaces(&[("eth0", &dmz())]), ..spec("four") },
    ];
    let [one, two, three, four] = specs.each_ref().map(|spec| spec.name.clone());
    for spec in specs {
        fixture.host.launch(spec).await.unwrap();
    }
    assert_eq!(names(&fixture, &one).await, ["10.99.0.2 one", "10.99.0.3 two", "10.99.0.4 three"]);
    assert_eq!(
        names(&fixture, &three).await,
        [
            "10.97.0.2 three",
            "10.97.0.3 four",
            "10.99.0.2 one",
            "10.99.0.3 two",
            "10.99.0.4 three",
            "fd00:97::2 three",
            "fd00:97::3 four"
        ]
    );
    assert_eq!(
        names(&fixture, &four).await,
        ["10.97.0.2 three", "10.97.0.3 four", "fd00:97::2 three", "fd00:97::3 four"]
    );
    fixture.sh(&one, "ping -c 1 -w 5 two").await;
    fixture.sh(&three, "ping -c 1 -w 5 four").await;
    // It cannot be written to inside.
    fixture.sh(&one, "! (echo x >> /etc/hosts)").await;

    let pid = fixture.host.runtime(&one).unwrap().init_pid().unwrap().unwrap();
    let inode = || fs::metadata(format!("/proc/{pid}/root/etc/hosts")).unwrap().ino();
    let before = inode();
    fixture.host.stop(&two, Duration::ZERO).await.unwrap();
    assert_eq!(names(&fixture, &one).await.len(), 3, "one that is down keeps its name and its address");
    fixture.host.remove(&two).await.unwrap();
    assert_eq!(names(&fixture, &one).await, ["10.99.0.2 one", "10.99.0.4 three"]);
    fixture.host.apply_interfaces(&three, interfaces(&[("eth1", &dmz())])).await.unwrap();
    assert_eq!(names(&fixture, &one).await, ["10.99.0.2 one"]);
    assert_eq!(names(&fixture, &three).await.len(), 4);
    fixture.host.apply_interfaces(&one, interfaces(&[("eth0", &network()), ("eth1", &dmz())])).await.unwrap();
    assert!(names(&fixture, &four).await.contains(&"10.97.0.4 one".to_owned()));
    fixture.sh(&one, "ping -c 1 -w 5 four").await;
    assert_eq!(inode(), before);

    // What somebody else wrote there is put right.
    let id = fixture.host.get(&one).unwrap().id;
    let file = fixture.sandbox.paths.containers().join(id.as_str()).join("hosts");
    let good = names(&fixture, &one).await;
    fs::write(&file, "10.99.0.66 four\n").unwrap();
    let report = fixture.host.recover().await.unwrap();
    assert_eq!(report.names, std::slice::from_ref(&one));
    assert_eq!(names(&fixture, &one).await, good);
    assert!(!fixture.host.recover().await.unwrap().changed());
    for name in [one, three, four] {
        fixture.host.remove(&name).await.unwrap();
    }
    fixture.host.remove_network(&dmz().name).await.unwrap();
    fixture.end().await;
}

/// Whom a container asks: what its network says, or else the host's own servers but for stubs on a loopback address.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn resolvers_are_the_networks_or_the_hosts() {
    let fixture = Fixture::new().await;
    let dir = fixture.sandbox.dir("resolver");
    fs::write(dir.join("stub"), "nameserver 127.0.0.53\noptions edns0\nsearch example.org\n").unwrap();
    kernel::run("mount", ["--bind", dir.join("stub").to_str().unwrap(), "/etc/resolv.conf"]);
    kernel::run("mount", ["-t", "tmpfs", "none", "/run"]);
    fs::create_dir_all("/run/systemd/resolve").unwrap();
    fs::write("/run/systemd/resolve/resolv.conf", "nameserver 192.0.2.53\nnameserver 2001:db8::53\n")
        .unwrap();
    let spec = spec("one");
    fixture.host.launch(spec.clone()).await.unwrap();
    let lines = async || {
        let text = fixture.sh(&spec.name, "cat /etc/resolv.conf").await;
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.trim_end().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(lines().await, ["nameserver 192.0.2.53", "nameserver 2001:db8::53", "search example.org"]);
    let resolver =
        Resolver { servers: vec!["198.51.100.1".parse().unwrap()], search: vec!["lan".parse().unwrap()] };
    let told = NetworkSpec { resolver: Some(resolver), ..network() };
    fixture.host.apply_network(&told).await.unwrap();
    assert_eq!(lines().await, ["nameserver 198.51.100.1", "search lan"]);
    assert!(!fixture.host.recover().await.unwrap().changed());
    fixture.host.apply_network(&network()).await.unwrap();
    assert_eq!(lines().await.len(), 3);
    fixture.host.remove(&spec.name).await.unwrap();
    kernel::unmount("/run");
    kernel::unmount("/etc/resolv.conf");
    fixture.end().await;
}

/// Images in which something is in the way: a link, as Debian has it, and what only a hostile one has. The container runs, has
/// its names where there is a place for them, and nothing is touched outside of its root. Nor does what its own root puts there
/// keep it from being started again.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn whatever_is_in_the_way_does_no_harm() {
    let fixture = Fixture::new().await;
    let outside = fixture.sandbox.dir("outside");
    for file in ["hosts", "resolv.conf"] {
        fs::write(outside.join(file), "precious").unwrap();
    }
    let to = outside.to_str().unwrap().to_owned();
    let (hosts, climbing) = (format!("{to}/hosts"), format!("../../../../../../../../..{to}/hosts"));
    let links = [
        ("stub", "etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf", true),
        ("absolute", "etc/hosts", &*hosts, true),
        ("climbing", "etc/hosts", &*climbing, true),
        ("loop", "etc/hosts", "hosts", true),
        ("away", "etc", "/root", true),
        ("out", "etc", &*to, false),
    ];
    for (case, path, target, has_names) in links {
        build(&fixture, case, |root| root.symlink(path, target));
        check(&fixture, case, has_names, "true").await;
    }
    build(&fixture, "none", |_| Ok(()));
    check(&fixture, "none", true, "true").await;
    build(&fixture, "file", |root| root.write_file("etc", b"", 0o644));
    check(&fixture, "file", false, "true").await;
    build(&fixture, "directory", |root| root.directory("etc/hosts", 0o755));
    check(&fixture, "directory", true, "true").await;
    build(&fixture, "full", |root| root.write_file("etc/hosts/file", b"kept", 0o644));
    check(&fixture, "full", false, "true").await;
    for plant in ["mkfifo hosts", "mkdir -p hosts/full", &format!("ln -s {to}/hosts hosts")] {
        let script = format!("cd /etc && umount hosts && rm -r hosts && {plant}");
        check(&fixture, "none", true, &script).await;
        check_as(Privilege::Privileged, &fixture, "none", true, &script).await;
    }
    let script = "cd /etc && umount hosts && rm -r hosts && mknod hosts c 1 11";
    check_as(Privilege::Privileged, &fixture, "none", true, script).await;
    for file in ["hosts", "resolv.conf"] {
        assert_eq!(fs::read_to_string(outside.join(file)).unwrap(), "precious");
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 2);
    fixture.end().await;
}

/// A small root with something of its own.
fn build(fixture: &Fixture, case: &str, plant: impl FnOnce(&mut ImageBuilder) -> docklet::Result<()>) {
    let built = fixture.host.images().build(&format!("odd-{case}").parse().unwrap(), |root| {
        for dir in ["bin", "dev", "proc", "root", "run", "sbin", "sys"] {
            root.directory(dir, 0o755)?;
        }
        root.copy_file("/bin/busybox", "bin/busybox", 0o755)?;
        for command in ["sh", "cat", "true", "umount", "rm", "ln", "mkdir", "mkfifo", "mknod"] {
            root.symlink(Path::new("bin").join(command), "busybox")?;
        }
        root.symlink("sbin/init", "../bin/busybox")?;
        plant(root)
    });
    built.unwrap();
}

async fn check(fixture: &Fixture, case: &str, has_names: bool, script: &str) {
    check_as(Privilege::default(), fixture, case, has_names, script).await;
}

async fn check_as(privilege: Privilege, fixture: &Fixture, case: &str, has_names: bool, script: &str) {
    let spec = ContainerSpec { image: format!("odd-{case}").parse().unwrap(), privilege, ..spec("odd") };
    fixture.host.launch(spec.clone()).await.unwrap();
    if has_names {
        let hosts = fixture.sh(&spec.name, "cat /etc/hosts").await;
        assert!(hosts.contains("10.99.0.2 odd"), "{case}: {hosts}");
        fixture.sh(&spec.name, "cat /etc/resolv.conf").await;
    }
    fixture.sh(&spec.name, script).await;
    fixture.host.stop(&spec.name, Duration::ZERO).await.unwrap();
    fixture.host.start(&spec.name).await.unwrap();
    fixture.host.remove(&spec.name).await.unwrap();
}
