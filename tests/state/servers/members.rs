//! The store on three members of one etcd, of which one or two are killed, stopped or cut off.

use std::collections::BTreeSet;
use std::time::Duration;

use docklet::Error;
use docklet::state::{ClusterStore, EtcdSpec, Notice, Scope, Transaction};

use super::faults::{ends, hasty};
use super::proxy::{Cuts, proxy};
use super::server::{Server, port};
use crate::contract::{Note, batch, key, note, soon};
use crate::stage::cluster;

/// Three members, and ways between them, and to them, that can be cut.
pub(crate) struct Members {
    pub(crate) servers: Vec<Server>,
    /// Where each is reached by the others, and by clients.
    ways: Vec<[String; 2]>,
    cuts: Cuts,
}

impl Members {
    pub(crate) async fn start() -> Self {
        let cuts = Cuts::default();
        let peers: Vec<_> = (0..3).map(|_| port()).collect();
        let urls: Vec<String> = peers.iter().map(|peer| proxy(*peer, &cuts)).collect();
        let all: Vec<String> = (0..3).map(|n| format!("m{n}={}", urls[n])).collect();
        let all = all.join(",");
        let mut servers = Vec::new();
        for n in 0..3 {
            let (name, listen) = (format!("m{n}"), format!("http://{}", peers[n]));
            let mut server = Server::prepare(
                "http",
                &[
                    ["--name", &*name],
                    ["--listen-peer-urls", &*listen],
                    ["--initial-advertise-peer-urls", &*urls[n]],
                    ["--initial-cluster", &*all],
                ]
                .concat(),
            );
            server.launch();
            servers.push(server);
        }
        for server in &mut servers {
            server.ready().await;
        }
        let ways = (0..3).map(|n| [urls[n].clone(), proxy(servers[n].listens(), &cuts)]);
        let ways = ways.collect();
        Self { servers, ways, cuts }
    }

    /// How to reach them, `first` before the others.
    pub(crate) fn spec(&self, first: usize) -> EtcdSpec {
        hasty(EtcdSpec::new(cluster(), (0..3).map(|n| &*self.ways[(first + n) % 3][1])))
    }

    /// What this one knows: who leads, and who it is itself.
    fn status(&self, member: usize) -> [u64; 2] {
        let status = self.servers[member].etcdctl(&["endpoint", "status", "-w", "json"]);
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        let status = &status[0]["Status"];
        [&status["leader"], &status["header"]["member_id"]].map(|id| id.as_u64().expect("id"))
    }

    pub(crate) fn leader(&self) -> usize {
        (0..3).find(|member| self.status(*member)[0] == self.status(*member)[1]).expect("a leader")
    }

    /// Nothing goes to or from this one any more, not even its clients' words.
    fn cut_off(&self, member: usize) {
        for url in &self.ways[member] {
            self.cuts.cut(url);
        }
    }
}

/// Puts numbers under keys of their own until it is told to end. What was done for certain, and what may have been.
async fn write(store: ClusterStore, end: tokio::sync::watch::Receiver<bool>) -> [BTreeSet<String>; 2] {
    let [mut done, mut unknown] = [BTreeSet::new(), BTreeSet::new()];
    for n in 0.. {
        if *end.borrow() {
            break;
        }
        let key = key(format!("n/{n:05}"));
        let put = Transaction::new().if_absent(&key).put(&key, &note(n.to_string())).expect("put");
        match ends("put", store.commit(put)).await {
            Ok(_) => done.insert(key.to_string()),
            Err(Error::OutcomeUnknown { .. }) => unknown.insert(key.to_string()),
            Err(Error::Unavailable { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
    }
    [done, unknown]
}

/// A writer, a watch and a lease go through what `fault` does to the leader, which is the member they talk to.
async fn through(fault: impl AsyncFnOnce(&mut Members, usize)) {
    let mut members = Members::start().await;
    let leader = members.leader();
    let [id, _] = members.status(leader);
    let spec = members.spec(leader);
    let store = ClusterStore::etcd(&spec).await.expect("connect");
    let mut watch = store.watch(Scope::beneath("n").expect("scope")).await.expect("watch");
    let lease = store.lease(Duration::from_secs(15)).await.expect("lease");
    let put = Transaction::new().put_leased(&key("leased"), &note("x"), lease.id()).expect("put");
    store.commit(put).await.expect("commit");

    let (end, ended) = tokio::sync::watch::channel(false);
    let writer = tokio::spawn(write(store.clone(), ended));
    soon("the first of the numbers", async { batch(&mut watch).await }).await;
    fault(&mut members, leader).await;
    // Someone else, who asks the others, sees the numbers go on.
    let other = EtcdSpec { cluster: spec.cluster.clone(), ..members.spec((leader + 1) % 3) };
    let other = soon("the others", async {
        loop {
            if let Ok(store) = ClusterStore::etcd(&other).await {
                break store;
            }
        }
    });
    let other = other.await;
    let mut seen = other.watch(Scope::beneath("n").expect("scope")).await.expect("watch");
    soon("numbers after the fault", async {
        for _ in 0..20 {
            batch(&mut seen).await;
        }
    })
    .await;
    assert_ne!(members.status((leader + 1) % 3)[0], id, "the others have a leader of their own");
    let renewed = lease.remaining();
    let kept = async {
        while lease.remaining() <= renewed {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the lease to be kept", kept).await;

    end.send_replace(true);
    let [done, unknown] = writer.await.expect("writer");
    let page = other.list::<Note>(&Scope::beneath("n").expect("scope")).await.expect("list");
    let found: BTreeSet<String> = page.entries.iter().map(|entry| entry.key.to_string()).collect();
    assert!(done.is_subset(&found), "done, and lost: {:?}", done.difference(&found));
    let odd: Vec<_> = found.iter().filter(|key| !done.contains(*key) && !unknown.contains(*key)).collect();
    assert!(odd.is_empty(), "never done, and there: {odd:?}");

    // The first watch tells each of them once, the one it began with left out.
    let mut told: Vec<(u64, String)> = Vec::new();
    let last = page.entries.iter().map(|entry| entry.modified).max().expect("numbers");
    while told.last().is_none_or(|(revision, _)| *revision < last.0) {
        let next = batch(&mut watch).await;
        told.extend(next.changes.iter().map(|change| (next.revision.0, change.key().to_string())));
    }
    let expected: BTreeSet<_> =
        page.entries.iter().map(|entry| (entry.modified.0, entry.key.to_string())).skip(1).collect();
    assert_eq!(told.iter().cloned().collect::<BTreeSet<_>>(), expected);
    assert_eq!(told.len(), expected.len(), "told twice");
    assert!(lease.is_held());
    assert!(store.get::<Note>(&key("leased")).await.expect("get").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leader_is_replaced() {
    through(async |members, leader| members.servers[leader].kill()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stands_still_is_replaced() {
    through(async |members, leader| members.servers[leader].stop().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_is_replaced() {
    through(async |members, leader| members.cut_off(leader)).await;
}

/// Cut off from the others only, it still answers its clients: it must not answer them with what is no longer so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_followers_is_left() {
    through(async |members, leader| members.cuts.cut(&members.ways[leader][0])).await;
}

/// Without most of the members nothing is done, and it is said in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_quorum_is_told() {
    let mut members = Members::start().await;
    let last = (members.leader() + 1) % 3;
    let store = ClusterStore::etcd(&members.spec(last)).await.expect("connect");
    store.put(&key("a"), &note("1")).await.expect("put");
    let mut watch = store.watch(Scope::All).await.expect("watch");
    let lost: Vec<usize> = (0..3).filter(|member| *member != last).collect();
    for member in &lost {
        members.servers[*member].kill();
    }
    for _ in 0..3 {
        let read = ends("get", store.get::<Note>(&key("a"))).await;
        assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
        let put = ends("put", store.put(&key("b"), &note("1"))).await;
        assert!(matches!(put, Err(Error::Unavailable { .. } | Error::OutcomeUnknown { .. })), "{put:?}");
        let lease = ends("lease", store.lease(Duration::from_secs(60))).await;
        assert!(matches!(lease, Err(Error::Unavailable { .. } | Error::OutcomeUnknown { .. })), "{lease:?}");
    }
    let notice = soon("an interruption", watch.next()).await.expect("watch");
    assert!(matches!(notice, Notice::Interrupted { .. }), "{notice:?}");
    members.servers[lost[0]].launch();
    let written = async { while store.put(&key("c"), &note("1")).await.is_err() {} };
    soon("two of three to be enough", written).await;
    while batch(&mut watch).await.changes[0].key().as_str() != "c" {}
}

/// A holder that is cut off knows that its lease is lost before the others see its key go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_holder_is_away_ends() {
    let cuts = Cuts::default();
    let server = Server::start().await;
    let way = proxy(server.listens(), &cuts);
    let spec = hasty(server.spec(&cluster()));
    let others = ClusterStore::etcd(&spec).await.expect("connect");
    let holder = EtcdSpec { endpoints: vec![way.clone()], ..spec };
    let holder = ClusterStore::etcd(&holder).await.expect("connect");
    let lease = holder.lease(Duration::from_secs(4)).await.expect("lease");
    let put = Transaction::new().put_leased(&key("a"), &note("mine"), lease.id()).expect("put");
    holder.commit(put).await.expect("commit");
    let mut watch = others.watch(Scope::All).await.expect("watch");
    cuts.cut(&way);
    soon("the lease to be lost", lease.lost()).await;
    let deleted = batch(&mut watch).await;
    assert_eq!(crate::contract::told(&deleted), ["-a"]);
    assert!(!lease.is_held());
    cuts.heal();
    soon("the holder to be back", async { while holder.get::<Note>(&key("a")).await.is_err() {} }).await;
    assert!(!lease.is_held(), "what is lost stays lost");
}

/// A member that only learns yet answers no client: it is named, and another one is asked.
#[tokio::test]
async fn a_learner_is_passed_over() {
    let voter = Server::start().await;
    let listens = format!("http://{}", port());
    let added = voter.etcdctl(&["member", "add", "learner", "--learner", "--peer-urls", &listens]);
    let all = added.lines().find_map(|line| line.strip_prefix("ETCD_INITIAL_CLUSTER=")).expect("its members");
    let mut learner = Server::prepare(
        "http",
        &[
            ["--name", "learner"],
            ["--listen-peer-urls", &*listens],
            ["--initial-advertise-peer-urls", &*listens],
            ["--initial-cluster", all.trim_matches('"')],
            ["--initial-cluster-state", "existing"],
        ]
        .concat(),
    );
    learner.restart().await;
    let alone = hasty(learner.spec(&cluster()));
    let error = ends("connect", ClusterStore::etcd(&alone)).await.expect_err("it only learns");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(docklet::error::Chain(&error).to_string().contains("learner"), "{error}");

    let both = EtcdSpec { endpoints: vec![learner.endpoint().into(), voter.endpoint().into()], ..alone };
    let store = ClusterStore::etcd(&both).await.expect("the other answers");
    let mut watch = store.watch(Scope::All).await.expect("watch");
    store.put(&key("a"), &note("1")).await.expect("put");
    assert_eq!(crate::contract::told(&batch(&mut watch).await), ["a=1"]);
}
