//! What people do without this library: a configuration written by hand, `lxc-start -d`, `lxc-stop -k`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// One container of bare LXC: what docklet asks of LXC for one of its own, but with an overlay on the host's own file system,
/// and a veth pair and a user namespace that LXC makes.
pub(crate) struct Bare {
    lxc_path: PathBuf,
}

const NAME: &str = "bare";
const BRIDGE: &str = "barebr0";

/// What docklet prepares for LXC, and these settings are about.
const PREPARED: [&str; 5] =
    ["lxc.rootfs.", "lxc.net.", "lxc.namespace.share.", "lxc.cgroup.dir.", "lxc.mount.entry"];

impl Bare {
    /// `docklets` is the configuration that docklet wrote for a container whose root of the id map is `root`.
    pub(crate) fn new(dir: &Path, layer: &Path, docklets: &str, root: u32) -> Self {
        let container = dir.join(NAME);
        for part in ["upper", "work"] {
            fs::create_dir_all(container.join(part)).expect("directory");
        }
        let lower = dir.join("lower");
        run("cp", &["-a", text(layer), text(&lower)]);
        run("chown", &["-R", "-h", &format!("{root}:{root}"), text(&lower), text(&container.join("upper"))]);
        let mut config = format!(
            "lxc.rootfs.path = overlay:{}:{}\nlxc.net.0.type = veth\nlxc.net.0.link = {BRIDGE}\nlxc.net.0.flags = up\n\
             lxc.net.0.ipv4.address = 10.76.0.2/24\nlxc.net.0.ipv4.gateway = 10.76.0.1\nlxc.log.file = {}\n",
            lower.display(),
            container.join("upper").display(),
            container.join("log").display(),
        );
        for file in ["hosts", "resolv.conf"] {
            fs::write(lower.join("etc").join(file), "").expect("target");
            config.push_str(&format!("lxc.mount.entry = /etc/{file} etc/{file} none bind,ro 0 0\n"));
        }
        for line in docklets.lines().filter(|line| !PREPARED.iter().any(|key| line.starts_with(key))) {
            config.push_str(&format!("{line}\n"));
        }
        fs::write(container.join("config"), config).expect("configuration");
        run("ip", &["link", "add", BRIDGE, "type", "bridge"]);
        run("ip", &["address", "add", "10.76.0.1/24", "dev", BRIDGE]);
        run("ip", &["link", "set", BRIDGE, "up"]);
        Self { lxc_path: dir.to_owned() }
    }

    /// `rest` passes before each.
    pub(crate) fn start_and_stop(&self, rest: Duration) -> (Duration, Duration) {
        let path = text(&self.lxc_path);
        thread::sleep(rest);
        let started = Instant::now();
        // Without `newuidmap`, which would want these ids in `/etc/subuid`: root needs neither.
        let mut start = Command::new("/usr/bin/lxc-start");
        let status = start.env("PATH", "/nonexistent").args(["-P", path, "-n", NAME, "-d"]).status();
        assert!(status.is_ok_and(|status| status.success()), "lxc-start");
        let start = started.elapsed();
        thread::sleep(rest);
        let started = Instant::now();
        run("lxc-stop", &["-P", path, "-n", NAME, "-k"]);
        (start, started.elapsed())
    }

    pub(crate) fn end(&self) {
        run("ip", &["link", "delete", BRIDGE]);
        // liblxc leaves the group through which its monitor goes when it ends, in each hierarchy.
        let roots = fs::read_dir("/sys/fs/cgroup").expect("control groups").filter_map(Result::ok);
        for root in roots.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]) {
            // Of others that something is in, the kernel removes none.
            let _ = fs::remove_dir(root.join("lxc.pivot"));
        }
    }
}

/// Shows this network namespace's links in `/sys`, where LXC looks for its bridge; control groups stay.
pub(crate) fn enter_sysfs() {
    let aside = std::env::temp_dir().join(format!("docklet-bench-cgroup-{}", std::process::id()));
    fs::create_dir(&aside).expect("directory");
    let aside = aside.to_str().expect("UTF-8");
    run("mount", &["--rbind", "/sys/fs/cgroup", aside]);
    run("mount", &["-t", "sysfs", "sysfs", "/sys"]);
    run("mount", &["--rbind", aside, "/sys/fs/cgroup"]);
    run("umount", &["--lazy", aside]);
    fs::remove_dir(aside).expect("remove the directory");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

pub(crate) fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}
