//! What must hold at every moment of a history, and what must be true when it is quiet.

use std::collections::{BTreeMap, BTreeSet};

use docklet::cluster::decide::{Need, Step, Usage, orders, place, steps};
use docklet::cluster::records::{ContainerId, ContainerState, NodeId, NodeLost, Resource, Resources, Wish};

use super::world::World;

/// No container runs on two nodes.
pub(crate) fn runs_once(world: &World, id: &ContainerId) {
    let running = world.running(id);
    assert!(running.len() <= 1, "at {:?} container {id} runs on {running:?}", world.now);
}

/// What a container that waits for its node has written is never lost without its user's or an administrator's word.
pub(crate) fn data(world: &mut World, node: usize, id: &ContainerId, step: &Step, node_lost: NodeLost) {
    if node_lost != NodeLost::Wait {
        return;
    }
    let machine = &world.machines[node];
    let mut clusters = world.store.view.virtual_clusters.values();
    let Some(member) = clusters.find_map(|cluster| cluster.members.get(id)) else { return };
    match step {
        Step::Launch if member.saved.is_none() => {
            let launched = world.launched.entry(id.clone()).or_default();
            *launched += 1;
            let allowed = 1 + world.allowed.get(id).copied().unwrap_or_default();
            assert!(*launched <= allowed, "at {:?} container {id} is made anew", world.now);
        }
        Step::Remove if machine.containers.contains_key(id) && member.wish != Wish::Remove => {
            let is_elsewhere = member.node.as_ref() != Some(&machine.id) && member.saved.is_some();
            assert!(is_elsewhere, "at {:?} container {id} loses its data", world.now);
        }
        _ => {}
    }
}

/// No node and no quota is overdrawn, and no address is given out twice.
pub(crate) fn records(world: &World) {
    let view = &world.store.view;
    for node in view.nodes.values() {
        let members = view.virtual_clusters.values().flat_map(|cluster| cluster.members.values());
        let taken = members.fold(Resources::default(), |taken, member| {
            let is_here = |at: &Option<NodeId>| at.as_ref() == Some(&node.id);
            let taken =
                if is_here(&member.node) { taken.plus(&Resources::of(member.spec.size)) } else { taken };
            let taken =
                if is_here(&member.moving_to) { taken.plus(&Resources::of(member.spec.size)) } else { taken };
            let left = if member.remains.contains_key(&node.id) { member.spec.size.disk_bytes } else { 0 };
            Resources { disk_bytes: taken.disk_bytes + left, ..taken }
        });
        let lacks = node.capacity.lacks(&taken);
        let capacity = node.capacity;
        assert!(
            lacks.is_none(),
            "at {:?} node {} is overdrawn: {taken:?} of {capacity:?}",
            world.now,
            node.id
        );
    }
    let mut used = BTreeMap::<_, Resources>::new();
    let mut subnets = Vec::new();
    let mut numbers = BTreeSet::new();
    for cluster in view.virtual_clusters.values() {
        let network = &cluster.network;
        assert!(numbers.insert(network.vni.number()), "two networks are {}", network.vni);
        for other in &subnets {
            let (net, other): (docklet::net::IpNet, docklet::net::IpNet) = (network.subnet.net(), *other);
            assert!(
                !net.contains(&other.network()) && !other.contains(&net.network()),
                "{net} overlaps {other}"
            );
        }
        subnets.push(network.subnet.net());
        let mut addresses = BTreeSet::new();
        let members = cluster.members.values().map(|member| &member.address);
        for address in members.chain(network.gateways.values()) {
            assert!(addresses.insert(*address), "at {:?} two have {address}", world.now);
            assert!(network.subnet.contains(*address), "{address} is not in {}", network.subnet);
        }
        for node in cluster.nodes() {
            assert!(network.gateways.contains_key(node), "{node} has no address in {}", cluster.id);
        }
        for member in cluster.members.values().filter(|member| member.wish != Wish::Remove) {
            let sum = used.entry(cluster.owner.clone()).or_default();
            *sum = sum.plus(&Resources::of(member.spec.size));
        }
    }
    for (user, used) in used {
        let quota = view.users[&user].quota;
        for resource in Resource::ALL {
            let limit = quota.get(resource).unwrap_or(u64::MAX);
            assert!(used.get(resource) <= limit, "at {:?} user {user} has too much {resource}", world.now);
        }
    }
}

/// All is as wished, as far as there is room for it, and nothing is left of what nobody wishes.
pub(crate) fn quiet(world: &World) {
    let view = &world.store.view;
    let usage = Usage::of(view);
    for cluster in view.virtual_clusters.values() {
        for (id, member) in &cluster.members {
            let running = world.running(id);
            if let Some(node) = &member.node {
                let machine = world.machines.iter().find(|machine| machine.id == *node).expect("a machine");
                if machine.dead {
                    // It waits for its node, or there is room for it nowhere else.
                    let except: Vec<_> = member.nodes().collect();
                    let need = Need { spec: &member.spec, not_on: &except, beside: &BTreeMap::new() };
                    let waits = member.wish == Wish::Remove || member.spec.node_lost == NodeLost::Wait;
                    assert!(waits || place(&usage, &need).is_err(), "{id} is not started elsewhere");
                    continue;
                }
                assert_ne!(member.wish, Wish::Remove, "{id} is not removed from {node}");
                let status = view.answer(node, id, member.placed).map(|status| status.state);
                let expected = match (member.wish, status) {
                    _ if member.moving_to.is_some() => continue,
                    (_, Some(ContainerState::Missing)) | (Wish::Stop, _) => vec![],
                    _ => vec![node],
                };
                assert_eq!(running, expected, "{id}, which is to {:?}", member.wish);
            } else {
                assert!(running.is_empty(), "{id} has no node, and runs");
                let except: Vec<_> = member.nodes().collect();
                let need = Need { spec: &member.spec, not_on: &except, beside: &BTreeMap::new() };
                let room = place(&usage, &need).is_ok();
                let is_over = member.wish == Wish::Remove && member.remains.is_empty();
                assert!(!is_over, "{id} is not forgotten");
                assert!(member.lost || member.wish == Wish::Remove || !room, "{id} is not placed");
            }
            for node in member.remains.keys() {
                let machine = world.machines.iter().find(|machine| machine.id == *node).expect("a machine");
                assert!(machine.dead, "{id} is not removed from {node}");
            }
        }
    }
    for machine in
        world.machines.iter().filter(|machine| view.nodes.contains_key(&machine.id) && !machine.dead)
    {
        let orders = orders(view, &machine.id);
        for id in machine.containers.keys() {
            assert!(orders.contains_key(id), "{id} is left on {}", machine.id);
        }
        let left = steps(&orders, &machine.containers);
        assert!(left.is_empty(), "{} still has to do {left:?}", machine.id);
    }
}
