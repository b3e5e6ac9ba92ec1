//! A whole Debian, as `mmdebstrap` packs it: imported, and booted by its own systemd.

use std::path::Path;
use std::time::Duration;

use docklet::host::{ContainerSpec, Host, Init};
use docklet::lxc::{Exec, HaltSignal};
use docklet::storage::{ImageOptions, ImageSource};

use crate::kernel;
use crate::sandbox::Sandbox;

#[tokio::test]
#[ignore = "needs root: containers; and once per clone the network: makes target/debian/root.tar"]
async fn debian_boots_and_halts_by_itself() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Before the sandbox, which has no network.
    kernel::run(root.join("scripts/debian-root.sh").to_str().expect("UTF-8"), [""; 0]);
    let sandbox = Sandbox::new();
    let host = Host::open(sandbox.paths.clone()).await.expect("open");
    let before = host.inventory().await.expect("inventory");
    let source = ImageSource::Tar(root.join("target/debian/root.tar"));
    let name = "debian".parse().expect("name");
    host.images().import(&source, &name, &ImageOptions::default(), &mut |_| {}).expect("import");

    let spec = ContainerSpec {
        init: Init { halt_signal: HaltSignal::SYSTEMD_HALT, ..Init::default() },
        ..ContainerSpec::new("debian".parse().expect("name"), name)
    };
    let container = host.launch(spec).await.expect("launch").spec.name;
    let run = async |command: &[&str]| {
        let exec = Exec { timeout: Some(Duration::from_secs(120)), ..Exec::new(command.iter().copied()) };
        let output = host.exec(&container, exec).await.expect("exec");
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    };
    // It waits until all that is to be started has been; asked too early it cannot reach systemd, and says nothing.
    let mut state = String::new();
    for _ in 0..100 {
        state = run(&["/bin/systemctl", "is-system-running", "--wait"]).await;
        if !state.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let failed = run(&["/bin/systemctl", "--failed", "--no-legend", "--plain"]).await;
    assert_eq!((state.as_str(), failed.as_str()), ("running", ""));
    assert_eq!(run(&["/bin/cat", "/proc/1/comm"]).await, "systemd");
    assert_eq!(
        run(&["/bin/systemctl", "is-active", "multi-user.target", "dbus.service"]).await,
        "active\nactive"
    );
    assert_eq!(run(&["/usr/bin/systemd-detect-virt"]).await, "lxc");
    assert_eq!(
        run(&["/usr/bin/stat", "-c", "%a %U:%G", "/usr/bin/passwd", "/tmp"]).await,
        "4755 root:root\n1777 root:root"
    );

    // Its own set-uid programs work, with its own PAM.
    run(&["/usr/bin/passwd", "--delete", "root"]).await;
    let su = ["/usr/sbin/runuser", "-u", "nobody", "--", "/usr/bin/su", "-c", "/usr/bin/id -u"];
    assert_eq!(run(&su).await, "0");
    run(&["/bin/sh", "-c", "echo 'nobody ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/nobody"]).await;
    let sudo = ["/usr/sbin/runuser", "-u", "nobody", "--", "/usr/bin/sudo", "-n", "/usr/bin/id", "-u"];
    assert_eq!(run(&sudo).await, "0");
    assert!(host.get(&container).expect("container").ids.is_some());

    // What systemd does on the way down is there when it comes up again: it was not just killed.
    let unit =
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\nExecStop=/bin/touch /halted\n";
    run(&["/bin/sh", "-c", "printf \"$0\" >/etc/systemd/system/bye.service", unit]).await;
    assert_eq!(run(&["/bin/systemctl", "start", "bye"]).await, "");
    assert_eq!(run(&["/usr/bin/find", "/halted"]).await, "");
    host.stop(&container, Duration::from_secs(60)).await.expect("stop");
    host.start(&container).await.expect("start");
    assert_eq!(run(&["/usr/bin/find", "/halted"]).await, "/halted");
    host.stop(&container, Duration::from_secs(60)).await.expect("stop");
    host.remove(&container).await.expect("remove");
    host.images().remove(&"debian".parse().expect("name")).expect("remove the image");
    assert_eq!(before.diff(&host.inventory().await.expect("inventory")).to_string(), "");
}
