//! Real etcd servers on loopback (`man 1 etcd`), one process each, that end with the test, and with its process however it ends.
//!
//! etcd cannot listen on a port of the kernel's choice. So each test process has a loopback address of its own, and counts ports there.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use docklet::name::ClusterName;
use docklet::state::{ClusterStore, EtcdSpec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::contract::soon;
use crate::stage::{Scratch, Stage, cluster};

/// The address of this process: 127.64.0.0/10 has one for each process id.
pub(crate) fn address() -> Ipv4Addr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | a, b, c)
}

/// A port that nothing of this process has had.
pub(crate) fn port() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    SocketAddr::from((address(), NEXT.fetch_add(1, Ordering::Relaxed)))
}

/// One etcd, alone or a member of several.
pub(crate) struct Server {
    scratch: Scratch,
    args: Vec<String>,
    endpoint: String,
    /// Where it tells how it is, without TLS whatever its clients must use.
    health: SocketAddr,
    process: Option<Child>,
}

impl Server {
    /// A new one, without anything in it.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more arguments.
    pub(crate) async fn start_with(args: &[&str]) -> Self {
        let mut server = Self::prepare("http", args);
        server.restart().await;
        server
    }

    /// One that is not running yet.
    pub(crate) fn prepare(scheme: &str, args: &[&str]) -> Self {
        let (client, health) = (port(), port());
        let endpoint = format!("{scheme}://{client}");
        let scratch = Scratch::new();
        let data = scratch.path().join("data").display().to_string();
        let health_url = format!("http://{health}");
        let mut all: Vec<String> = [
            ["--data-dir", &data],
            ["--listen-client-urls", &endpoint],
            ["--advertise-client-urls", &endpoint],
            ["--listen-metrics-urls", &health_url],
        ]
        .concat()
        .iter()
        .map(ToString::to_string)
        .collect();
        if !args.contains(&"--initial-cluster") {
            let peer = format!("http://{}", port());
            let one = format!("default={peer}");
            let alone = [
                ["--listen-peer-urls", &peer],
                ["--initial-advertise-peer-urls", &peer],
                ["--initial-cluster", &one],
                // It has nobody to ask: it leads within a moment.
                ["--heartbeat-interval", "20"],
                ["--election-timeout", "200"],
            ];
            all.extend(alone.concat().iter().map(ToString::to_string));
        }
        all.extend(args.iter().map(ToString::to_string));
        Self { scratch, args: all, endpoint, health, process: None }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where it listens for clients.
    pub(crate) fn listens(&self) -> SocketAddr {
        self.endpoint.rsplit('/').next().and_then(|address| address.parse().ok()).expect("endpoint")
    }

    /// Starts the process, with the data it has.
    pub(crate) fn launch(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.scratch.path().join("log"));
        // The signal comes at the end of the thread that starts it, which is the test's own, or lives longer.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd"])
            .args(&self.args)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("log"))
            .spawn()
            .expect("start setpriv: install util-linux");
        self.process = Some(process);
    }

    /// Starts it, and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        self.launch();
        self.ready().await;
    }

    /// Waits until it answers.
    pub(crate) async fn ready(&mut self) {
        let healthy = async {
            while !self.is_healthy() {
                let process = self.process.as_mut().expect("running");
                if let Some(status) = process.try_wait().expect("wait") {
                    let log = std::fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default();
                    panic!("etcd ended ({status}); install etcd-server.\n{log}");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        soon("etcd to be healthy", healthy).await;
    }

    fn is_healthy(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.health)?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            write!(stream, "GET /health HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        ask().is_ok_and(|answer| answer.contains(r#""health":"true""#))
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("running");
        kill(Pid::from_raw(process.id().cast_signed()), signal).expect("signal");
    }

    /// Ends it at once, whatever it is doing (SIGKILL).
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("kill");
            process.wait().expect("wait");
        }
    }

    /// Another one takes its place, without anything in it, with this token of its cluster.
    pub(crate) async fn replace(&mut self, token: Option<&str>) {
        self.kill();
        docklet::storage::remove_tree(self.scratch.path(), "data".as_ref()).expect("remove its data");
        self.args.extend(token.iter().flat_map(|token| ["--initial-cluster-token", token]).map(String::from));
        self.restart().await;
    }

    /// It stands still, with all its connections (SIGSTOP), once this returns.
    pub(crate) async fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let still = async {
            while !self.stands_still() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        soon("etcd to stand still", still).await;
    }

    /// A thread that is on a processor learns of the signal a moment later.
    fn stands_still(&self) -> bool {
        let process = self.process.as_ref().expect("running").id();
        let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("tasks");
        tasks.map(|task| task.expect("task").path().join("stat")).all(|stat| {
            let stat = std::fs::read_to_string(stat).unwrap_or_default();
            stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
        })
    }

    /// It goes on (SIGCONT).
    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// What `etcdctl` says.
    pub(crate) fn etcdctl(&self, args: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.endpoint]).args(args);
        let output = command.output().expect("start etcdctl: install etcd-client");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {args:?}: {error}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// How to reach the store of `cluster` on it.
    pub(crate) fn spec(&self, cluster: &ClusterName) -> EtcdSpec {
        EtcdSpec::new(cluster.clone(), [self.endpoint()])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The engine on a server of the test's own.
pub(crate) struct Etcd {
    pub(crate) server: Server,
    spec: EtcdSpec,
    store: ClusterStore,
}

impl Etcd {
    pub(crate) fn cluster(&self) -> &ClusterName {
        &self.spec.cluster
    }
}

impl Stage for Etcd {
    async fn begin() -> Self {
        let server = Server::start().await;
        let spec = server.spec(&cluster());
        let store = ClusterStore::etcd(&spec).await.expect("connect");
        Self { server, spec, store }
    }

    fn store(&self) -> ClusterStore {
        self.store.clone()
    }

    async fn another(&self) -> ClusterStore {
        ClusterStore::etcd(&self.spec).await.expect("connect")
    }
}
