//! A container's root does what it can before it is started again.

use std::fs;
use std::time::{Duration, Instant};

use docklet::error::Chain;
use docklet::host::Privilege;
use docklet::lxc::{Exec, MountEntry};

use super::fixture::{Fixture, spec};
use crate::kernel;

/// What LXC opens or mounts on as root of the host is swapped for a link, a fifo or a device: the start is refused at
/// once or does no harm; nothing is written, mounted or opened elsewhere.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_root_made_of_traps_leads_nowhere() {
    traps_lead_nowhere(Privilege::default()).await;
}

/// The same with a root that can make devices, and whose mounts are made by root of the host.
#[tokio::test]
#[ignore = "needs root: namespaces, mounts, LXC"]
async fn a_privileged_root_made_of_traps_leads_nowhere() {
    traps_lead_nowhere(Privilege::Privileged).await;
}

async fn traps_lead_nowhere(privilege: Privilege) {
    let fixture = Fixture::new().await;
    let outside = fixture.sandbox.dir("outside");
    fs::create_dir(outside.join("pts")).unwrap();
    let source = fixture.sandbox.dir("source");
    fs::write(source.join("file"), "").unwrap();
    let mut spec = spec("trap");
    spec.limits.cpu = None;
    spec.privilege = privilege;
    spec.mounts = vec![
        MountEntry::bind(source.join("file"), "/mnt/file").unwrap().create_file(),
        MountEntry::bind(&source, "/mnt/dir").unwrap().create_dir(),
    ];
    let to = outside.display();
    let link = |path: &str| format!("umount -l {path}; rm -rf {path}; ln -s {to} {path}");
    let fifo = |path: &str| format!("umount -l {path}; rm -rf {path}; mkfifo {path}");
    // The kernel's log, of which opening shows nothing: a watchdog or a tape would be worse.
    let device = |path: &str| format!("umount -l {path}; rm -rf {path}; mknod {path} c 1 11");
    let mut cases = vec![
        (format!("ln -s {to}/planted /.lxc_keep"), "/.lxc_keep"),
        (fifo("/.lxc_keep"), "/.lxc_keep"),
        (device("/.lxc_keep"), "/.lxc_keep"),
        (fifo("/mnt/file"), "/mnt/file"),
        (device("/mnt/file"), "/mnt/file"),
        (link("/mnt/file"), "/mnt/file"),
        (link("/mnt/dir"), "/mnt/dir"),
        ("rm /sbin/init; mkfifo /sbin/init".to_owned(), "/sbin/init"),
        (format!("rm -rf /etc; ln -s {to} /etc"), ""),
    ];
    for path in ["/dev", "/proc", "/sys"] {
        cases.extend([(link(path), path), (fifo(path), path), (device(path), path)]);
    }
    if privilege != Privilege::Privileged {
        cases.retain(|(script, _)| !script.contains("mknod"));
    }
    for (script, refused) in cases {
        fixture.host.launch(spec.clone()).await.unwrap();
        let exec = Exec { timeout: Some(Duration::from_secs(20)), ..Exec::new(["/bin/sh", "-c", &script]) };
        fixture.host.exec(&spec.name, exec).await.unwrap();
        fixture.host.stop(&spec.name, Duration::ZERO).await.unwrap();
        let begin = Instant::now();
        let started = fixture.host.start(&spec.name).await.map(drop);
        assert!(begin.elapsed() < Duration::from_secs(10), "{script}: {:?}", begin.elapsed());
        match started {
            Ok(()) => assert_eq!(refused, "", "{script}"),
            Err(error) => {
                let message = Chain(&error).to_string();
                assert!(!refused.is_empty() && message.contains(refused), "{script}: {message}");
            }
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{script}");
        assert_eq!(fs::read_dir(outside.join("pts")).unwrap().count(), 0, "{script}");
        assert_eq!(kernel::mounts_beneath(&outside), Vec::<String>::new(), "{script}");
        fixture.host.remove(&spec.name).await.unwrap();
    }
    fixture.end().await;
}
