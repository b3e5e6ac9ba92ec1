//! Other processes of this test program, which have a store open, and are killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use docklet::name::ClusterName;
use docklet::state::{ClusterStore, EmbeddedSpec, Transaction};

use crate::contract::{Note, key, note};
use crate::stage::Scratch;

/// Which file the process is to open.
const FILE: &str = "DOCKLET_TEST_STORE";

pub(super) fn cluster() -> ClusterName {
    ClusterName::new("other-process").expect("name")
}

pub(super) fn spec(path: &Path) -> EmbeddedSpec {
    EmbeddedSpec::new(path, cluster())
}

/// A process that writes to a store, and tells what is done.
pub(super) struct Writer {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Writer {
    pub(super) fn begin(path: &Path) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(["--exact", "own::process::what_a_killed_process_told_is_there", "--nocapture"])
            .env(FILE, path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("spawn");
        let lines = BufReader::new(child.stdout.take().expect("pipe"));
        Self { child, lines }
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next number that it tells. `None` once it has ended.
    pub(super) fn next(&mut self) -> Option<u64> {
        loop {
            let mut line = String::new();
            if self.lines.read_line(&mut line).expect("pipe") == 0 || !line.ends_with('\n') {
                return None;
            }
            if let Ok(number) = line.trim().parse() {
                return Some(number);
            }
        }
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Run again by itself, with [`FILE`], it is the process that writes.
#[tokio::test]
async fn what_a_killed_process_told_is_there() {
    if let Some(path) = std::env::var_os(FILE) {
        return write_until_killed(Path::new(&path)).await;
    }
    let scratch = Scratch::new();
    let path = scratch.path().join("store");
    let mut writer = Writer::begin(&path);
    let told: Vec<_> = (0..20).map_while(|_| writer.next()).collect();
    assert_eq!(told, (1..=20).collect::<Vec<_>>());
    writer.kill();
    let store = ClusterStore::embedded(&spec(&path)).await.expect("open");
    assert!(count(&store).await >= 20);
}

async fn count(store: &ClusterStore) -> u64 {
    let found = store.get::<Note>(&key("a")).await.expect("get");
    found.map_or(0, |entry| entry.value.text.parse().expect("number"))
}

/// Counts on in `a` and `b`, always together, in `c/0` to `c/9` by turns, and tells each number once it is durable.
async fn write_until_killed(path: &Path) {
    let store = ClusterStore::embedded(&spec(path)).await.expect("open");
    let lease = store.lease(std::time::Duration::from_secs(60)).await.expect("lease");
    let mut count = count(&store).await;
    loop {
        count += 1;
        let value = note(count.to_string());
        let third = key(format!("c/{}", count % 10));
        let both = Transaction::new().put(&key("a"), &value).and_then(|t| t.put(&key("b"), &value));
        let all = both.and_then(|t| t.put_leased(&third, &value, lease.id())).expect("transaction");
        store.commit(all).await.expect("commit");
        let mut told = std::io::stdout().lock();
        told.write_all(format!("{count}\n").as_bytes()).and_then(|()| told.flush()).expect("tell");
    }
}
