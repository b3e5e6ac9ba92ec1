//! One order explains what concurrent clients saw, whatever was done to their servers meanwhile.

use std::time::Duration;

use docklet::state::ClusterStore;

use super::faults::hasty;
use super::members::Members;
use super::server::Server;
use crate::linear::{Course, operations, run};
use crate::stage::cluster;

/// How often harm is done at most; in a short run less often, but not never.
const ROUNDS: u64 = 40;
const OPERATIONS_MIN: u64 = 600;
/// Longer than a request waits for its answer: what was asked of one that stands still may be done later.
const LONG: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_millis(300);

/// Harms one of the servers after another, each time in another way, as long as the course goes on.
async fn harm(servers: &mut [Server], course: &Course) {
    let every = (operations() / ROUNDS).max(OPERATIONS_MIN);
    let mut rounds = 0;
    while course.goes_on(every).await {
        let count = servers.len();
        let server = &mut servers[rounds % count];
        match (rounds / count) % 3 {
            0 => {
                server.kill();
                tokio::time::sleep(SHORT).await;
                server.launch();
            }
            which => {
                server.stop().await;
                tokio::time::sleep(if which == 1 { LONG } else { SHORT }).await;
                server.resume();
            }
        }
        server.ready().await;
        rounds += 1;
    }
    assert!(rounds >= 3, "harm was done {rounds} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_order_explains_everything_on_a_server_that_is_killed_and_stopped() {
    let server = Server::start().await;
    let spec = hasty(server.spec(&cluster()));
    let another = async || ClusterStore::etcd(&spec).await.expect("connect");
    let mut servers = [server];
    run(another, async |course: &Course| harm(&mut servers, course).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_order_explains_everything_on_members_that_are_killed_and_stopped() {
    let mut members = Members::start().await;
    let first = members.leader();
    let spec = members.spec(first);
    let another = async || ClusterStore::etcd(&spec).await.expect("connect");
    run(another, async |course: &Course| harm(&mut members.servers, course).await).await;
}
