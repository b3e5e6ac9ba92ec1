//! What `Host::list` costs beside many containers: `cargo bench --bench list [COUNT]`, as root. Half of the containers run, the
//! others are stopped.
//!
//! Its side to compare with is one `lxc-info` for each container, which is how a program without this library asks. Time is
//! elapsed time; the median of all rounds, and the slowest, are printed. `strace -c -f` on it tells the system calls.

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use docklet::host::{ContainerSpec, RootVolume};
use docklet::paths::Paths;
use nix::sched::{CloneFlags, unshare};

#[path = "../examples/parts/busybox.rs"]
mod busybox;
#[path = "parts/generous.rs"]
mod generous;

const ROUNDS: usize = 50;

fn main() {
    // Threads of the runtime that is made later are in it, too.
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).expect("root is needed: unshare");
    run("mount", &["--make-rprivate", "/"]);
    let count = std::env::args().find_map(|count| count.parse().ok()).unwrap_or(200);
    let prefix = PathBuf::from(format!("/var/tmp/docklet-test-{}-list", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("runtime").block_on(measure(&prefix, count));
    let name = prefix.file_name().expect("name");
    docklet::storage::remove_tree(Path::new("/var/tmp"), Path::new(name)).expect("remove the prefix");
}

async fn measure(prefix: &Path, count: usize) {
    let paths = Paths::new(prefix).expect("prefix");
    let host = generous::open(paths.clone()).await;
    busybox::ensure(host.images(), &"busybox".parse().expect("name")).expect("image");
    let volume = RootVolume { size_bytes: 16 << 20, ..RootVolume::default() };
    for number in 0..count {
        let name = format!("c{number}").parse().expect("name");
        let spec = ContainerSpec { volume, ..ContainerSpec::new(name, "busybox".parse().expect("name")) };
        let info = host.launch(spec).await.expect("launch");
        if number % 2 == 1 {
            host.stop(&info.spec.name, Duration::ZERO).await.expect("stop");
        }
    }
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let list = host.list().expect("list");
        times.push(begin.elapsed());
        assert_eq!(list.len(), count);
    }
    print("Host::list", count, &mut times);
    let list = host.list().expect("list");
    let begin = Instant::now();
    for info in &list {
        let path = paths.containers();
        let mut command = Command::new("lxc-info");
        command
            .args(["-s", "-n", info.id.as_str(), "-P"])
            .arg(path)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // What it says of a container that is down is an error.
        let _ = command.status().expect("lxc-info");
    }
    print("lxc-info for each", count, &mut [begin.elapsed()]);
    for info in list {
        host.remove(&info.spec.name).await.expect("remove");
    }
}

fn print(what: &str, count: usize, times: &mut [Duration]) {
    times.sort_unstable();
    let (median, slowest) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what}: {count} containers, median {median:.2?}, slowest {slowest:.2?}");
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().expect(program);
    assert!(status.success(), "{program} {arguments:?}: {status}");
}
