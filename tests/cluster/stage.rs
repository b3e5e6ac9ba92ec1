//! A cluster on one store: its settings, its user, its nodes, and masters that run until they are dropped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use docklet::Error;
use docklet::cluster::decide::{Decision, View, What, Write};
use docklet::cluster::master::{self, Master, MasterRecord, NodeLease};
use docklet::cluster::records::{
    ContainerId, ContainerState, ContainerStatus, MemberSpec, Node, NodeId, NodeLost, Quota, Report,
    Resources, Role, Schedule, Settings, Size, Timing, User, UserId,
};
use docklet::host::RestartPolicy;
use docklet::name::ObjectId;
use docklet::state::{ClusterStore, EmbeddedSpec};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn id(number: u64) -> ObjectId {
    ObjectId::new(format!("{number:016x}")).unwrap()
}

pub(crate) fn new_id() -> ObjectId {
    id(1000 + number())
}

pub(crate) fn user() -> UserId {
    UserId(id(1))
}

pub(crate) fn node(number: u64) -> NodeId {
    NodeId(id(100 + number))
}

/// As fast as leases can be.
pub(crate) const TIMING: Timing = Timing {
    lease: Duration::from_secs(2),
    margin: Duration::from_millis(500),
    fence: Duration::from_millis(500),
};

pub(crate) fn settings() -> Settings {
    Settings {
        id: id(7),
        name: "lab".parse().unwrap(),
        networks: "10.0.0.0/16".parse().unwrap(),
        network_prefix_len: 24,
        timing: TIMING,
    }
}

/// A store in a directory that goes with the test.
pub(crate) struct Stage {
    pub(crate) store: ClusterStore,
    directory: PathBuf,
}

impl Stage {
    /// An empty store.
    pub(crate) async fn empty() -> Self {
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster");
        let directory = base.join(format!("{}-{}", std::process::id(), number()));
        std::fs::create_dir_all(&directory).unwrap();
        let spec = EmbeddedSpec::new(directory.join("store"), "lab".parse().unwrap());
        Self { store: ClusterStore::embedded(&spec).await.unwrap(), directory }
    }

    /// A cluster with a user, and without nodes.
    pub(crate) async fn begin() -> Self {
        let stage = Self::empty().await;
        master::init(&stage.store, &settings()).await.unwrap();
        stage
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let (base, name) = (self.directory.parent().unwrap(), self.directory.file_name().unwrap());
        if let Err(error) = docklet::storage::remove_tree(base, name.as_ref()) {
            assert!(std::thread::panicking(), "{error}");
        }
    }
}

/// A master that runs.
pub(crate) struct Running {
    pub(crate) master: Master,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<docklet::Result<()>>,
}

impl Running {
    pub(crate) async fn begin(store: &ClusterStore, url: &str) -> Self {
        let master = Master::open(store.clone(), MasterRecord { url: url.to_owned() }).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let runs = master.clone();
        let task = tokio::spawn(async move { runs.run(async { drop(stopped.await) }).await });
        Self { master, stop: Some(stop), task }
    }

    /// Stops it, and waits for its end.
    pub(crate) async fn end(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        (&mut self.task).await.unwrap().unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> docklet::Result<()> {
        (&mut self.task).await.unwrap()
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) fn kill(&self) {
        self.task.abort();
    }

    /// Has it decided, as soon as it leads.
    pub(crate) async fn decide<T: Send + 'static>(
        &self,
        decide: impl FnMut(&View) -> docklet::Result<(T, Option<Decision>)> + Clone + Send + 'static,
    ) -> docklet::Result<T> {
        loop {
            let mut decide = decide.clone();
            match self.master.decide(move |view, _| decide(view)).await {
                Err(Error::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
                end => return end,
            }
        }
    }

    /// Waits until its view is as `wanted`.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&View) -> bool) {
        for _ in 0..1500 {
            if self.master.look(&wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("it never came to this: {what}; it is {:#?}", self.master.look(View::clone));
    }

    /// A user, and `count` nodes with room for two containers each.
    pub(crate) async fn populate(&self, count: u64) {
        let quota = Quota { containers: Some(8), ..Quota::default() };
        let owner = User { id: user(), name: "ann".parse().unwrap(), role: Role::User, quota };
        let mut writes = vec![Write::User(owner)];
        writes.extend((1..=count).map(|number| {
            Write::Node(Node {
                id: node(number),
                name: format!("n{number}").parse().unwrap(),
                address: [192, 0, 2, u8::try_from(number).unwrap()].into(),
                labels: BTreeMap::new(),
                capacity: Resources { cpu_millis: 2000, memory_bytes: 200, disk_bytes: 4000, containers: 4 },
                schedule: Schedule::Open,
            })
        }));
        let decision = Decision { writes, absent: BTreeMap::new(), reason: "populated".to_owned() };
        self.decide(move |_| Ok(((), Some(decision.clone())))).await.unwrap();
    }
}

pub(crate) fn specs(count: usize) -> Vec<MemberSpec> {
    let spec = |number| MemberSpec {
        name: format!("m{number}").parse().unwrap(),
        image: "base".parse().unwrap(),
        size: Size { cpu_millis: 1000, memory_bytes: 100, disk_bytes: 1000 },
        forwards: Vec::new(),
        labels: BTreeMap::new(),
        node_lost: NodeLost::Restart,
        restart: RestartPolicy::default(),
    };
    (0..count).map(spec).collect()
}

/// A worker without a host: it says that what it is ordered is done.
pub(crate) struct SimulatedWorker {
    pub(crate) id: NodeId,
    pub(crate) lease: NodeLease,
    reports: u64,
}

impl SimulatedWorker {
    pub(crate) async fn begin(master: &Master, id: NodeId) -> Self {
        let lease = master.register(&id).await.unwrap();
        Self { id, lease, reports: 0 }
    }

    /// Works again and again, and comes anew if its lease is over, until the task is aborted.
    pub(crate) fn go_on(mut self, master: &Master) -> JoinHandle<()> {
        let master = master.clone();
        tokio::spawn(async move {
            loop {
                if let Err(Error::NotFound { .. }) = master.keep(self.lease.lease).await {
                    self.lease = master.register(&self.id).await.unwrap();
                }
                self.work(&master).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    }

    /// Keeps its lease, and says that all is as ordered: what that is.
    pub(crate) async fn work(&mut self, master: &Master) -> BTreeMap<ContainerId, ContainerState> {
        master.keep(self.lease.lease).await.unwrap();
        let orders = master.orders(&self.id).await.unwrap().orders;
        self.reports += 1;
        let report = Report { epoch: self.lease.epoch, number: self.reports };
        let said = orders.iter().map(|(id, order)| {
            let (state, saved) = match &order.what {
                What::Run => (ContainerState::Running, None),
                What::Stop => (ContainerState::Stopped, None),
                What::Save(image) => (ContainerState::Stopped, Some(image.clone())),
                What::Remove => (ContainerState::Absent, None),
            };
            (id.clone(), ContainerStatus { report, fence: order.fence, state, saved, reason: None })
        });
        let said: BTreeMap<_, _> = said.collect();
        master.report(&self.id, &said).await.unwrap();
        said.into_iter().map(|(id, status)| (id, status.state)).collect()
    }
}
