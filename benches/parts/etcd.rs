//! An etcd to measure on, alone, on this machine's disk, and its client without this library.

use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Txn, TxnOp};

/// A server that ends with the benchmark, however that ends.
pub(crate) struct Server {
    process: Child,
    pub(crate) endpoint: String,
}

impl Server {
    /// On an address of this process.
    pub(crate) fn start(directory: &Path) -> Self {
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 64 | a, b, c);
        let [endpoint, peer] = [12_379, 12_380].map(|port| format!("http://{address}:{port}"));
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd"])
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .arg("--data-dir")
            .arg(directory)
            .stderr(Stdio::null())
            .spawn()
            .expect("start setpriv and etcd");
        while TcpStream::connect((address, 12_379)).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { process, endpoint }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.kill().expect("kill");
        self.process.wait().expect("wait");
    }
}

/// The client alone, without time-outs and all else.
pub(crate) struct Bare(Client);

impl Bare {
    pub(crate) async fn connect(server: &Server) -> Self {
        let client = Client::connect([&server.endpoint], Some(ConnectOptions::new())).await;
        Self(client.expect("connect"))
    }

    pub(crate) async fn put(&self, round: u32, value: Vec<u8>) {
        self.0.kv_client().put(format!("bare/alone/{round}"), value, None).await.expect("put");
    }

    /// A transaction that changes `keys` keys.
    pub(crate) async fn commit(&self, keys: usize, value: &[u8]) {
        let puts = (0..keys).map(|key| TxnOp::put(format!("bare/together/{key}"), value, None));
        let txn = Txn::new().and_then(puts.collect::<Vec<_>>());
        assert!(self.0.kv_client().txn(txn).await.expect("txn").succeeded());
    }
}
