//! What people do without this library: a configuration written by hand, `lxc-start -d`, `lxc-stop -k`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use docklet::cgroup::{Setting, Version};

/// One container of bare LXC: overlay root on the host's own file system, LXC's own veth on a bridge, the same limits.
pub(crate) struct Bare {
    lxc_path: PathBuf,
}

const NAME: &str = "bare";
const BRIDGE: &str = "barebr0";

impl Bare {
    pub(crate) fn new(dir: &Path, lower: &Path, limits: &[Setting]) -> Self {
        let container = dir.join(NAME);
        for part in ["upper", "work"] {
            fs::create_dir_all(container.join(part)).expect("directory");
        }
        let mut config = format!(
            "lxc.rootfs.path = overlay:{}:{}\nlxc.uts.name = {NAME}\nlxc.net.0.type = veth\nlxc.net.0.link = {BRIDGE}\n\
             lxc.net.0.flags = up\nlxc.net.0.ipv4.address = 10.76.0.2/24\nlxc.net.0.ipv4.gateway = 10.76.0.1\n\
             lxc.mount.auto = proc:mixed sys:mixed\nlxc.pty.max = 16\nlxc.tty.max = 0\n\
             lxc.log.file = {}\nlxc.init.cmd = /sbin/init\n",
            lower.display(),
            container.join("upper").display(),
            container.join("log").display(),
        );
        for Setting { version, file, value, .. } in limits {
            let key = if *version == Version::V1 { "lxc.cgroup" } else { "lxc.cgroup2" };
            config.push_str(&format!("{key}.{file} = {value}\n"));
        }
        fs::write(container.join("config"), config).expect("configuration");
        run("ip", &["link", "add", BRIDGE, "type", "bridge"]);
        run("ip", &["address", "add", "10.76.0.1/24", "dev", BRIDGE]);
        run("ip", &["link", "set", BRIDGE, "up"]);
        Self { lxc_path: dir.to_owned() }
    }

    pub(crate) fn start_and_stop(&self) -> (Duration, Duration) {
        let path = self.lxc_path.to_str().expect("UTF-8");
        let started = Instant::now();
        run("lxc-start", &["-P", path, "-n", NAME, "-d"]);
        let start = started.elapsed();
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

pub(crate) fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(status.success(), "{program} {arguments:?}: {status}");
}
