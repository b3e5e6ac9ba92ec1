//! Links that go, come and change their names while they are looked at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use docklet::Error;
use docklet::error::Chain;
use docklet::name::LinkName;
use docklet::net::{Bridge, Netlink, NetworkNamespace, Veth, VethSpec};

use crate::bridge::{self, show};
use crate::kernel;
use crate::sandbox::Sandbox;
use crate::veth::{ping, spec};

/// A thread that has `ip` carry out some lines, again and again until it is stopped; what fails is not minded.
struct Churn {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Churn {
    /// In the namespace that is pinned at `pin`, or here.
    fn start(file: PathBuf, pin: Option<&Path>, lines: &str) -> Self {
        fs::write(&file, lines.repeat(20)).unwrap();
        let words: Vec<String> = match pin {
            None => vec!["ip".to_owned()],
            Some(pin) => vec!["nsenter".to_owned(), format!("--net={}", pin.display()), "ip".to_owned()],
        };
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]).args(["-force", "-batch"]).arg(&file);
                command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()), "`ip` could not be run");
    }
}

/// Enough for a list that takes several answers of the kernel, some thirty links each.
const PORTS: u8 = 64;

/// Four programs add and remove links all the time. Each list is read whole all the same, and nobody takes what is there for
/// missing.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn lists_are_whole_while_links_come_and_go() {
    let sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let made = Bridge::ensure(&net, &bridge::spec(&["10.0.0.1/24", "fd00::1/64"])).await.unwrap();
    let dir = sandbox.dir("netns");
    let all: Vec<(NetworkNamespace, VethSpec)> = (1..=PORTS)
        .map(|n| {
            let name = LinkName::new(format!("dkvc{n}")).unwrap();
            (NetworkNamespace::ensure(&dir.join(n.to_string())).unwrap(), VethSpec { name, ..spec(n) })
        })
        .collect();
    let pairs: Vec<_> = all.iter().map(|(namespace, spec)| (namespace, spec)).collect();
    let veths = Veth::ensure_all(&net, &pairs).await.unwrap();
    let churns: Vec<_> = (0..4)
        .map(|n| {
            let lines = format!("link add churn{n} type ifb\nlink set churn{n} up\nlink del churn{n}\n");
            Churn::start(dir.join(format!("churn{n}")), None, &lines)
        })
        .collect();
    let count = usize::from(PORTS);
    for round in 0..20 {
        let again = Veth::ensure_all(&net, &pairs).await.unwrap_or_else(|e| panic!("{round}: {}", Chain(&e)));
        assert_eq!(again, veths, "{round}");
        assert!(again.iter().all(|veth| !veth.changed()), "{round}");
        assert_eq!(net.links_owned("docklet-test/veth/").await.unwrap().len(), count, "{round}");
        assert_eq!(made.ports(&net).await.unwrap().len(), count, "{round}");
    }
    drop(churns);
    for (namespace, spec) in all {
        Veth::remove(&net, &spec.name, &spec.owner).await.unwrap();
        NetworkNamespace::remove(namespace.path()).unwrap();
    }
    Bridge::remove(&net, &bridge::spec(&[]).name, &bridge::spec(&[]).owner).await.unwrap();
}

/// Ensures and applies a port again and again while a program is at it. What fails says that something is gone, busy, or
/// not what it should be; afterwards there is one pair, and it works.
async fn survives(net: &Netlink, pin: &Path, churn: Churn) {
    let namespace = NetworkNamespace::ensure(pin).unwrap();
    let mut refused = 0;
    for round in 0..60 {
        let result = match round % 3 {
            0 => Veth::ensure(net, &namespace, &spec(1)).await,
            1 => Veth::apply(net, &namespace, &spec(1)).await,
            _ => Veth::ensure_all(net, &[(&namespace, &spec(1))]).await.map(|mut veths| veths.remove(0)),
        };
        match result {
            Ok(_) => {}
            Err(Error::NotFound { .. } | Error::Busy { .. } | Error::Differs { .. }) => refused += 1,
            Err(error) => panic!("{round}: {}", Chain(&error)),
        }
    }
    assert!(refused < 60, "nothing ever succeeded");
    drop(churn);
    Veth::ensure(net, &namespace, &spec(1)).await.unwrap();
    assert_eq!(show("dkve1")["master"], "br0");
    assert_eq!(kernel::links().len(), 3, "{:?}", kernel::links());
    assert!(ping(pin, "10.0.0.1") && ping(pin, "fd00::1"));
    Veth::remove(net, &spec(1).name, &spec(1).owner).await.unwrap();
}

/// Root inside deletes its end and gives it other names; root outside takes the host's end and the bridge away, and gives
/// them other names.
#[tokio::test]
#[ignore = "needs root: network namespaces"]
async fn a_port_vanishes_at_any_moment() {
    let sandbox = Sandbox::new();
    let net = Netlink::connect().await.unwrap();
    let dir = sandbox.dir("netns");
    let pin = dir.join("1");
    NetworkNamespace::ensure(&pin).unwrap();
    Bridge::ensure(&net, &bridge::spec(&["10.0.0.1/24", "fd00::1/64"])).await.unwrap();
    for (number, (inside, lines)) in [
        (true, "link del eth0\n"),
        (true, "link set eth0 down\nlink set eth0 name eth7\nlink set eth7 name eth0\n"),
        (true, "link add eth0 type ifb\nlink del eth0\n"),
        (false, "link del dkve1\n"),
        (false, "link set dkve1 name stray\nlink set stray name dkve1\n"),
        (false, "link set dkve1 nomaster\nlink set dkve1 down\n"),
        (false, "link set br0 name bray\nlink set bray name br0\n"),
        (false, "link set dkve1 alias other\nlink set dkve1 alias docklet-test/veth/1\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let file = dir.join(format!("churn{number}"));
        let churn = Churn::start(file, inside.then_some(pin.as_path()), lines);
        survives(&net, &pin, churn).await;
        NetworkNamespace::remove(&pin).unwrap();
    }
    Bridge::remove(&net, &bridge::spec(&[]).name, &bridge::spec(&[]).owner).await.unwrap();
}
