//! Sources and targets that somebody exchanges for links while containers start: nothing of the host is shown but what was
//! asked for, and where.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use docklet::Error;
use docklet::error::Chain;
use docklet::lxc::{Container, LxcConfig, MountEntry};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::kernel;
use crate::sandbox::Sandbox;
use crate::scripted_root;

/// How many starts meet the exchange at least.
const STARTS: usize = 200;

/// Exchanges `path` and `link` all the time, as somebody does who may write to the directory, until it is dropped. Then `path`
/// is what it was.
struct Exchange<'scope> {
    stop: &'scope AtomicBool,
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn exchange(path: &Path, link: &Path, stop: &AtomicBool, count: &AtomicUsize) {
    while !stop.load(Ordering::Relaxed) || count.load(Ordering::Relaxed) % 2 == 1 {
        renameat_with(CWD, path, CWD, link, RenameFlags::EXCHANGE).expect("exchange");
        count.fetch_add(1, Ordering::Relaxed);
        // Now and then it stays long enough for a start to get past its checks.
        let pause = if count.load(Ordering::Relaxed).is_multiple_of(3) { 50 } else { 900 };
        thread::sleep(Duration::from_micros(pause));
    }
}

/// What init of a running container sees at `target`, through the host.
fn inside(container: &Container, target: &str) -> PathBuf {
    let init = container.init_pid().unwrap().expect("it runs");
    PathBuf::from(format!("/proc/{init}/root{target}"))
}

/// Starts containers while `path` and `link` change places; `look` looks at each one that runs.
fn starts(
    container: &Container,
    config: impl Fn() -> Result<LxcConfig, Error>,
    path: &Path,
    link: &Path,
    look: impl Fn(),
) {
    let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut started, mut refused) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| exchange(path, link, &stop, &count));
        let _end = Exchange { stop: &stop };
        // On a busy machine it takes more of them to see both ends.
        while started + refused < STARTS || started == 0 || refused == 0 {
            assert!(started + refused < 50 * STARTS, "{started} started, {refused} were refused");
            match config().and_then(|config| container.start(&config)) {
                Ok(_) => {
                    look();
                    started += 1;
                    container.kill().unwrap();
                }
                Err(error) => {
                    let message = Chain(&error).to_string();
                    let known = match &error {
                        Error::Invalid { .. } => message.contains("runs through a symbolic link"),
                        Error::NotFound { .. } | Error::Differs { .. } => true,
                        // LXC found a link where there was none a moment ago.
                        Error::Command { .. } => true,
                        _ => false,
                    };
                    assert!(known, "{message}");
                    refused += 1;
                }
            }
        }
    });
}

/// A source that is exchanged for a link to what the container must not see.
#[test]
#[ignore = "needs root: containers"]
fn mount_races_a_source_that_becomes_a_link() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let (home, secret) = (sandbox.dir("home"), sandbox.dir("secret"));
    fs::create_dir(home.join("data")).unwrap();
    fs::write(home.join("data/name"), "data").unwrap();
    fs::write(secret.join("name"), "secret").unwrap();
    symlink(&secret, home.join("link")).unwrap();
    let container = scripted_root::container(&sandbox);
    let config = || {
        let mut config = scripted_root::config(&root);
        config.mount(MountEntry::bind(home.join("data"), "/data")?.create_dir())?;
        Ok(config)
    };
    starts(&container, config, &home.join("data"), &home.join("link"), || {
        assert_eq!(fs::read_to_string(inside(&container, "/data/name")).unwrap(), "data");
    });
    scripted_root::end(&sandbox);
}

/// The same with a directory above the source, and with a file.
#[test]
#[ignore = "needs root: containers"]
fn mount_races_a_way_that_becomes_a_link() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let (home, secret) = (sandbox.dir("home"), sandbox.dir("secret"));
    fs::create_dir_all(home.join("data/deep")).unwrap();
    fs::create_dir(secret.join("deep")).unwrap();
    fs::write(home.join("data/deep/name"), "data").unwrap();
    fs::write(secret.join("deep/name"), "secret").unwrap();
    symlink(&secret, home.join("link")).unwrap();
    let container = scripted_root::container(&sandbox);
    let config = || {
        let mut config = scripted_root::config(&root);
        config
            .mount(MountEntry::bind(home.join("data/deep/name"), "/etc/name")?.read_only().create_file())?;
        Ok(config)
    };
    starts(&container, config, &home.join("data"), &home.join("link"), || {
        assert_eq!(fs::read_to_string(inside(&container, "/etc/name")).unwrap(), "data");
    });
    scripted_root::end(&sandbox);
}

/// A target in a directory that another container may write to, too, exchanged for a link out of the root.
#[test]
#[ignore = "needs root: containers"]
fn mount_races_a_target_that_becomes_a_link() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let (shared, lower, outside) = (sandbox.dir("shared"), sandbox.dir("lower"), sandbox.dir("outside"));
    fs::create_dir(shared.join("on")).unwrap();
    fs::write(lower.join("name"), "lower").unwrap();
    // As it is seen from the place where LXC puts the root together, and from inside.
    symlink(&outside, shared.join("link")).unwrap();
    let container = scripted_root::container(&sandbox);
    let config = || {
        let mut config = scripted_root::config(&root);
        config.mount(MountEntry::bind(&shared, "/data/shared")?)?;
        config.mount(MountEntry::bind(&lower, "/data/shared/on/new")?.create_dir())?;
        Ok(config)
    };
    fs::create_dir(root.join("data/shared")).unwrap();
    starts(&container, config, &shared.join("on"), &shared.join("link"), || {
        let init = container.init_pid().unwrap().expect("it runs");
        let mounts = fs::read_to_string(format!("/proc/{init}/mountinfo")).unwrap();
        let shown = mounts.lines().filter(|line| line.contains("/scratch/lower ")).collect::<Vec<_>>();
        // What it was mounted on was no link; that directory may be called otherwise by now.
        let places = [" /data/shared/on/new ", " /data/shared/link/new "];
        assert!(shown.len() == 1 && places.iter().any(|place| shown[0].contains(place)), "{shown:?}");
    });
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was made where the link leads");
    assert_eq!(kernel::mounts_beneath(&outside), Vec::<String>::new());
    scripted_root::end(&sandbox);
}

/// A mount that comes while the container runs, and the container's root exchanges its target all the time.
#[test]
#[ignore = "needs root: containers"]
fn mount_races_a_target_inside_that_becomes_a_link() {
    let sandbox = Sandbox::new();
    let root = scripted_root::root(&sandbox, "a");
    let (lower, secret) = (sandbox.dir("lower"), sandbox.dir("secret"));
    fs::write(lower.join("name"), "lower").unwrap();
    fs::create_dir_all(root.join("data/on/deep")).unwrap();
    fs::create_dir_all(root.join("data/elsewhere/deep")).unwrap();
    symlink("/data/elsewhere", root.join("data/link")).unwrap();
    let container = scripted_root::container(&sandbox);
    let mut config = scripted_root::config(&root);
    config.mount(MountEntry::bind(&secret, "/secret").unwrap().create_dir()).unwrap();
    container.start(&config).unwrap();
    let entry = MountEntry::bind(&lower, "/data/on/deep").unwrap().create_dir();
    let (on, link) = (inside(&container, "/data/on"), inside(&container, "/data/link"));
    let shown = || {
        let mounts = fs::read_to_string(inside(&container, "/proc/1/mountinfo")).unwrap();
        let lines = mounts.lines().filter(|line| line.contains("/scratch/lower "));
        lines.map(|line| line.split(' ').nth(4).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (mut done, mut refused) = (0, 0);
    while done + refused < STARTS || done == 0 || refused == 0 {
        assert!(done + refused < 50 * STARTS, "{done} mounted, {refused} were refused");
        let (stop, count) = (AtomicBool::new(false), AtomicUsize::new(0));
        let result = thread::scope(|scope| {
            scope.spawn(|| exchange(&on, &link, &stop, &count));
            let _end = Exchange { stop: &stop };
            container.ensure_mount(&entry)
        });
        // The names are again what they were.
        match result {
            Ok(()) => {
                assert_eq!(shown(), ["/data/on/deep"]);
                container.remove_mount(&entry).unwrap();
                done += 1;
            }
            Err(error) => {
                let known = error.to_string().contains("runs through a symbolic link")
                    || matches!(error, Error::Differs { .. });
                assert!(known, "{}", Chain(&error));
                refused += 1;
            }
        }
        assert_eq!(shown(), Vec::<String>::new());
    }
    container.kill().unwrap();
    scripted_root::end(&sandbox);
}
