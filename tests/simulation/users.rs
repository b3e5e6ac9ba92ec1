//! What users and administrators of a simulated cluster ask for.

use std::collections::{BTreeMap, BTreeSet};

use docklet::cluster::decide::View;
use docklet::cluster::decide::admission;
use docklet::cluster::records::{
    ContainerId, ContainerState, ContainerStatus, MemberSpec, Node, NodeId, NodeLost, Quota, Resources, Role,
    Schedule, Size, User, UserId, VirtualClusterId, Wish,
};
use docklet::host::{Forward, RestartPolicy};
use docklet::name::ObjectId;

use super::random::Random;
use super::world::{Event, TROUBLE, World};

fn id(number: u64) -> ObjectId {
    ObjectId::new(format!("{number:016x}")).expect("an id")
}

/// Two users, and two to five nodes.
pub(crate) fn first_view(random: &mut Random) -> View {
    let mut view = View::new("10.0.0.0/20".parse().expect("a subnet"), 26);
    for number in 1..=2 {
        let user = User {
            id: UserId(id(number)),
            name: format!("user{number}").parse().expect("a name"),
            role: Role::User,
            quota: Quota { containers: Some(4 + random.below(10)), addresses: Some(10), ..Quota::default() },
        };
        view.users.insert(user.id.clone(), user);
    }
    for number in 0..2 + random.below(4) {
        let node = Node {
            id: NodeId(id(100 + number)),
            name: format!("node{number}").parse().expect("a name"),
            address: [192, 0, 2, u8::try_from(number).expect("few")].into(),
            labels: if random.percent(60) { BTreeMap::from([ssd()]) } else { BTreeMap::new() },
            capacity: Resources {
                cpu_millis: 1000 * (2 + random.below(4)),
                memory_bytes: 100 * (3 + random.below(5)),
                disk_bytes: 1000 * (3 + random.below(5)),
                containers: 3 + random.below(4),
            },
            schedule: Schedule::Open,
        };
        view.nodes.insert(node.id.clone(), node);
    }
    view
}

fn ssd() -> (docklet::name::Label, docklet::name::Label) {
    ("disk".parse().expect("a label"), "ssd".parse().expect("a label"))
}

fn specs(world: &mut World) -> Vec<MemberSpec> {
    let count = 1 + world.random.below(4);
    (0..count)
        .map(|_| {
            let number = world.random.below(1000);
            let random = &mut world.random;
            let size = Size {
                cpu_millis: 100 + random.below(1000),
                memory_bytes: 10 + random.below(100),
                disk_bytes: 100 + random.below(1000),
            };
            let port = u16::try_from(8000 + random.below(3)).expect("a port");
            MemberSpec {
                name: format!("m{number}").parse().expect("a name"),
                image: "base".parse().expect("a name"),
                size,
                forwards: if random.percent(10) {
                    vec![Forward::tcp(port, 80).expect("ports")]
                } else {
                    vec![]
                },
                labels: if random.percent(15) { BTreeMap::from([ssd()]) } else { BTreeMap::new() },
                node_lost: if random.percent(60) { NodeLost::Restart } else { NodeLost::Wait },
                restart: RestartPolicy::default(),
            }
        })
        .collect()
}

/// Somebody asks the leading master for something, and the next one will.
pub(crate) fn act(world: &mut World) {
    if world.now >= TROUBLE {
        return;
    }
    let next = world.random.millis(300, 6000);
    world.after(next, Event::User);
    let Some(master) = world.masters.iter().position(super::master::Master::leads) else { return };
    let clock = world.master_clock(master);
    let kind = world.random.below(20);
    let cluster = world.random.pick(&world.created).cloned();
    let node = world
        .random
        .pick(&world.machines.iter().map(|machine| machine.id.clone()).collect::<Vec<_>>())
        .cloned();
    let node = node.expect("there is one");
    let members = cluster.as_ref().map(|cluster| some_members(world, master, cluster)).unwrap_or_default();
    let specs = specs(world);
    let user = UserId(id(1 + world.random.below(2)));
    let name = format!("c{}", world.random.below(6)).parse().expect("a name");
    let size = specs[0].size;
    let first = world.new_id();
    let mut number = u64::from_str_radix(first.as_str(), 16).expect("hexadecimal");
    let mut new_id = || {
        number += 1 << 32;
        id(number)
    };
    let mut created = None;
    let timing = world.store.timing;
    // Who forces it knows that the machine does not come back.
    let is_dead = world.machines.iter().any(|machine| machine.id == node && machine.dead);
    let mut again = BTreeSet::new();
    let World { masters, store, .. } = world;
    let granted = masters[master].ask(store, clock, |view, (absences, now)| {
        let known = || cluster.clone();
        match kind {
            0..=6 => {
                let (id, decision) = admission::create(view, &user, name, specs, &mut new_id).ok()?;
                created = Some(id);
                Some(decision)
            }
            7 | 8 => admission::scale_out(view, &known()?, specs, &mut new_id).ok(),
            9 | 10 => admission::scale_in(view, &known()?, &members).ok(),
            11 => admission::remove(view, &known()?),
            12 => admission::set_running(view, &known()?, &members, false).ok(),
            13..=14 => {
                let cluster = &view.virtual_clusters.get(&known()?)?.members;
                let is_gone = |id: &&ContainerId| {
                    let missing = |status: &ContainerStatus| status.state == ContainerState::Missing;
                    cluster.get(*id).is_some_and(|member| {
                        let node = member.node.as_ref();
                        let answer = node.and_then(|node| view.answer(node, id, member.placed));
                        member.lost || answer.is_some_and(missing)
                    })
                };
                again.extend(members.iter().filter(is_gone).cloned());
                admission::set_running(view, &known()?, &members, true).ok()
            }
            15 => admission::resize(view, &known()?, members.first()?, size).ok(),
            16 => admission::set_schedule(view, &node, Schedule::Drain).ok(),
            17 | 18 => admission::set_schedule(view, &node, Schedule::Open).ok(),
            _ => {
                let decision = admission::remove_node(view, &node, is_dead, (absences, now, &timing)).ok()?;
                (!decision.writes.is_empty()).then_some(decision)
            }
        }
    });
    if granted {
        world.granted += 1;
        world.created.extend(created);
        for id in again {
            *world.allowed.entry(id).or_default() += 1;
        }
    }
}

fn some_members(world: &mut World, master: usize, cluster: &VirtualClusterId) -> BTreeSet<ContainerId> {
    let view = world.masters[master].view().expect("it leads");
    let members: Vec<_> = view
        .virtual_clusters
        .get(cluster)
        .map(|cluster| {
            cluster.members.iter().filter(|(_, m)| m.wish != Wish::Remove).map(|(id, _)| id.clone()).collect()
        })
        .unwrap_or_default();
    members.into_iter().filter(|_| world.random.percent(60)).collect()
}
