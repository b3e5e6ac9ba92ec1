//! Where the contract's tests play: one engine with an empty store of a cluster of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use docklet::name::ClusterName;
use docklet::state::{ClusterStore, EmbeddedSpec, Fault};

/// An engine with an empty store.
pub(crate) trait Stage: Sized {
    async fn begin() -> Self;
    /// The store.
    fn store(&self) -> ClusterStore;
    /// The same store by another way: another connection, where an engine has such.
    async fn another(&self) -> ClusterStore;
}

fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A cluster that no other test has.
pub(crate) fn cluster() -> ClusterName {
    ClusterName::new(format!("test-{}-{}", std::process::id(), number())).expect("name")
}

/// A directory that goes with the test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("state");
        let path = base.join(format!("{}-{}", std::process::id(), number()));
        std::fs::create_dir_all(&path).expect("a directory of its own");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (base, name) = (self.0.parent().expect("parent"), self.0.file_name().expect("name"));
        if let Err(error) = docklet::storage::remove_tree(base, name.as_ref()) {
            assert!(std::thread::panicking(), "{error}");
        }
    }
}

/// The engine of one machine.
pub(crate) struct Embedded {
    store: ClusterStore,
    _scratch: Scratch,
}

impl Stage for Embedded {
    async fn begin() -> Self {
        let scratch = Scratch::new();
        let spec = EmbeddedSpec::new(scratch.path().join("store"), cluster());
        let store = ClusterStore::embedded(&spec).await.expect("open");
        Self { store, _scratch: scratch }
    }

    fn store(&self) -> ClusterStore {
        self.store.clone()
    }

    async fn another(&self) -> ClusterStore {
        self.store.clone()
    }
}

/// An engine behind a bad way: answers are late, and watches break off now and then.
pub(crate) struct Faulty<S> {
    stage: S,
    breaker: tokio::task::JoinHandle<()>,
    store: ClusterStore,
}

fn late(call: u64) -> Option<Fault> {
    call.is_multiple_of(3).then(|| Fault::Late(Duration::from_millis(call % 7)))
}

impl<S: Stage> Stage for Faulty<S> {
    async fn begin() -> Self {
        let stage = S::begin().await;
        let (store, faults) = stage.store().with_faults();
        faults.plan(late);
        let line = faults.clone();
        let breaker = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(37)).await;
                line.break_watches();
            }
        });
        Self { stage, breaker, store }
    }

    fn store(&self) -> ClusterStore {
        self.store.clone()
    }

    async fn another(&self) -> ClusterStore {
        let (store, faults) = self.stage.another().await.with_faults();
        faults.plan(late);
        store
    }
}

impl<S> Drop for Faulty<S> {
    fn drop(&mut self) {
        self.breaker.abort();
    }
}
