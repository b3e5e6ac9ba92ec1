//! What placing a container takes among 1,000 nodes with 10,000 containers, and what a virtual cluster of six takes to be admitted. No root:
//! `cargo bench --features cluster --bench placement`. Each is done a hundred times in turns; medians.

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use docklet::cluster::decide::{Absences, Moment, Need, Usage, View, admission, due, place};
use docklet::cluster::records::{
    Epoch, MemberSpec, Node, NodeId, NodeLost, Presence, Quota, Resources, Role, Schedule, Size, Timing,
    User, UserId,
};
use docklet::host::RestartPolicy;
use docklet::name::ObjectId;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const NODES: u64 = 1_000;
const CLUSTERS: u64 = 1_000;
const MEMBERS: u64 = 10;
const ROUNDS: usize = 100;
/// What a placement may take.
const WANTED: Duration = Duration::from_micros(100);

fn id(number: u64) -> ObjectId {
    ObjectId::new(format!("{number:016x}")).expect("an id")
}

fn specs(count: u64) -> Outcome<Vec<MemberSpec>> {
    let size = Size { cpu_millis: 500, memory_bytes: 512 << 20, disk_bytes: 4 << 30 };
    let spec = |number| {
        Ok(MemberSpec {
            name: format!("m{number}").parse()?,
            image: "base".parse()?,
            size,
            forwards: Vec::new(),
            labels: BTreeMap::new(),
            node_lost: NodeLost::Wait,
            restart: RestartPolicy::default(),
        })
    };
    (0..count).map(spec).collect()
}

/// All nodes, a user, and as many virtual clusters as there are.
fn view(new_id: &mut dyn FnMut() -> ObjectId) -> Outcome<(View, UserId)> {
    let mut view = View::new("10.0.0.0/8".parse()?, 24);
    let owner = UserId(new_id());
    let user = User { id: owner.clone(), name: "user".parse()?, role: Role::User, quota: Quota::default() };
    view.users.insert(owner.clone(), user);
    for number in 0..NODES {
        let id = NodeId(new_id());
        let capacity =
            Resources { cpu_millis: 32_000, memory_bytes: 64 << 30, disk_bytes: 1 << 40, containers: 200 };
        let node = Node {
            id: id.clone(),
            name: format!("n{number}").parse()?,
            address: [192, 0, 2, 1].into(),
            labels: BTreeMap::new(),
            capacity,
            schedule: Schedule::Open,
        };
        view.nodes.insert(id.clone(), node);
        view.epochs.insert(id.clone(), Epoch(1));
        view.presences.insert(id, Presence { epoch: Epoch(1) });
    }
    for number in 0..CLUSTERS {
        let name = format!("c{number}").parse()?;
        let (_, decision) = admission::create(&view, &owner, name, specs(MEMBERS)?, new_id)?;
        view.apply(&decision);
    }
    Ok((view, owner))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() -> Outcome {
    let mut number = 0;
    let mut new_id = || {
        number += 1;
        id(number)
    };
    let (view, owner) = view(&mut new_id)?;
    let usage = Usage::of(&view);
    let spec = specs(1)?.remove(0);
    let (mut placed, mut admitted, mut looked) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let need = Need { spec: &spec, not_on: &[], beside: &BTreeMap::new() };
        black_box(place(&usage, &need)?);
        placed.push(begin.elapsed());

        let (name, six) = ("new".parse()?, specs(6)?);
        let begin = Instant::now();
        black_box(admission::create(&view, &owner, name, six, &mut new_id)?);
        admitted.push(begin.elapsed());

        let begin = Instant::now();
        assert!(due(&view, &Absences::default(), Moment::default(), &Timing::default()).is_empty());
        looked.push(begin.elapsed());
    }
    let (placed, admitted, looked) = (median(placed), median(admitted), median(looked));
    println!("{NODES} nodes, {} containers on them", CLUSTERS * MEMBERS);
    println!("one container placed       {placed:>10.1?}   (wanted: at most {WANTED:?})");
    println!("a virtual cluster of six   {admitted:>10.1?}");
    println!("a look for what is due     {looked:>10.1?}");
    Ok(())
}
