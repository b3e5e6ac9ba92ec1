//! A process that holds a lock and is stopped for longer than its lease: it knows, and can write no more.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use docklet::Error;
use docklet::name::ClusterName;
use docklet::state::{ClusterStore, EtcdSpec, Held, Key, Lease, Transaction};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::server::Etcd;
use crate::contract::{Note, key, note, soon};
use crate::stage::Stage;

/// Which server the process is to use, and whose store there.
const SERVER: &str = "DOCKLET_TEST_SERVER";
const LEASE: Duration = Duration::from_secs(3);

async fn store(endpoint: &str, cluster: ClusterName) -> ClusterStore {
    ClusterStore::etcd(&EtcdSpec::new(cluster, [endpoint])).await.expect("connect")
}

async fn hold(store: &ClusterStore, time: Duration) -> (Lease, Held) {
    let lease = store.lease(time).await.expect("lease");
    let held = soon("the lock", store.lock(&lock(), &lease)).await.expect("lock");
    (lease, held)
}

fn lock() -> Key {
    key("lock")
}

fn work(held: &Held, text: &str) -> Transaction {
    Transaction::new().if_held(held.fence()).put(&key("work"), &note(text)).expect("put")
}

/// The other process, and what goes to it and comes from it.
struct Holder {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Holder {
    fn begin(stage: &Etcd) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "servers::holder::a_stopped_holder_is_fenced", "--nocapture"])
            .env(SERVER, format!("{} {}", stage.server.endpoint(), stage.cluster()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("spawn");
        let (orders, answers) = (child.stdin.take().expect("pipe"), child.stdout.take().expect("pipe"));
        Self { child, orders, answers: BufReader::new(answers) }
    }

    /// The rest of its next line that begins with `answer: `.
    fn answer(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.answers.read_line(&mut line).expect("pipe") > 0, "the holder has ended");
            if let Some(answer) = line.trim_end().strip_prefix("answer: ") {
                return answer.to_owned();
            }
        }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("kill");
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Run again by itself, with [`SERVER`], it is the holder.
#[tokio::test]
async fn a_stopped_holder_is_fenced() {
    match std::env::var(SERVER) {
        Ok(server) => hold_until_told(&server).await,
        Err(_) => stop_a_holder().await,
    }
}

async fn stop_a_holder() {
    let stage = Etcd::begin().await;
    let store = stage.store();
    let mut holder = Holder::begin(&stage);
    assert_eq!(holder.answer(), "held");
    holder.signal(Signal::SIGSTOP);
    // Somebody else waits, and has it once the lease is over.
    let (_lease, held) = hold(&store, Duration::from_secs(600)).await;
    store.commit(work(&held, "new")).await.expect("commit");
    holder.signal(Signal::SIGCONT);
    writeln!(holder.orders, "go on").expect("pipe");
    assert_eq!(holder.answer(), "lost before it was told to go on: true");
    assert_eq!(holder.answer(), "its write is refused: true");
    assert_eq!(store.get::<Note>(&key("work")).await.expect("get").expect("there").value.text, "new");
    store.commit(work(&held, "newer")).await.expect("it is still held");
}

/// The other process.
#[allow(clippy::print_stdout, reason = "it speaks to the test")]
async fn hold_until_told(server: &str) {
    let (endpoint, cluster) = server.split_once(' ').expect("endpoint and cluster");
    let store = store(endpoint, cluster.parse().expect("cluster")).await;
    let (_lease, held) = hold(&store, LEASE).await;
    store.commit(work(&held, "old")).await.expect("while it is held");
    println!("answer: held");
    // On a thread of its own, so that the lease is kept until the process is stopped.
    let order = || std::io::stdin().read_line(&mut String::new());
    tokio::task::spawn_blocking(order).await.expect("thread").expect("an order");
    println!("answer: lost before it was told to go on: {}", !held.is_held());
    let written = store.commit(work(&held, "late")).await;
    println!("answer: its write is refused: {}", matches!(written, Err(Error::Conflict { .. })));
}
