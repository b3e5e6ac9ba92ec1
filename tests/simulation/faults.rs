//! What goes wrong in a history, and how it ends.

use std::time::Duration;

use docklet::cluster::records::ContainerState;

use super::machine::NONE;
use super::world::{Event, TROUBLE, World};

/// What ends.
pub(crate) enum Heal {
    Master(usize),
    MasterLink(usize),
    Link(usize),
    /// A stopped worker goes on, if it is still that process.
    Continue(usize, u64),
    StartWorker(usize),
    Boot(usize),
}

/// One thing goes wrong, and the next is on its way.
pub(crate) fn happen(world: &mut World) {
    if world.now >= TROUBLE {
        return;
    }
    let next = world.random.millis(500, 12_000);
    world.after(next, Event::Fault);
    let node = pick(world, world.machines.len());
    let master = pick(world, world.masters.len());
    // Short ones that leases outlive, and long ones that they do not.
    let most = if world.random.percent(50) { 8_000 } else { 60_000 };
    let time = world.random.millis(100, most);
    let kind = world.random.below(12);
    if world.told {
        println!("{:?} fault {kind} of node {node} or master {master} for {time:?}", world.now);
    }
    match kind {
        0 | 1 => {
            world.masters[master].kill();
            world.after(time, Event::Heal(Heal::Master(master)));
        }
        2 => {
            world.masters[master].connected = false;
            world.after(time, Event::Heal(Heal::MasterLink(master)));
        }
        3 => {
            for master in 0..world.masters.len() {
                world.masters[master].connected = false;
                world.after(time, Event::Heal(Heal::MasterLink(master)));
            }
        }
        4..=6 => {
            world.machines[node].connected = false;
            world.after(time, Event::Heal(Heal::Link(node)));
        }
        7 | 8 => {
            kill_worker(world, node);
            world.after(time, Event::Heal(Heal::StartWorker(node)));
        }
        9 => {
            if let Some(worker) = &mut world.machines[node].worker {
                worker.stopped = true;
                let process = worker.process;
                world.after(time, Event::Heal(Heal::Continue(node, process)));
            }
        }
        10 => {
            shut_down(world, node);
            if world.random.percent(10) {
                lose_disk(world, node);
            }
            world.after(time, Event::Heal(Heal::Boot(node)));
        }
        _ => {
            // For good: nothing of it comes back. One machine at most, and not the last.
            if world.machines.len() > 2 && world.machines.iter().all(|machine| !machine.dead) {
                shut_down(world, node);
                world.machines[node].dead = true;
                world.machines[node].containers.clear();
            }
        }
    }
}

fn pick(world: &mut World, count: usize) -> usize {
    usize::try_from(world.random.below(u64::try_from(count).expect("few"))).expect("few")
}

/// A worker's process is killed. What it was about to do has happened, or has not.
fn kill_worker(world: &mut World, node: usize) {
    let Some(worker) = world.machines[node].worker.take() else { return };
    for (id, begun) in &worker.busy {
        if world.random.percent(50) {
            world.carry_out(node, id, begun);
        }
    }
}

fn shut_down(world: &mut World, node: usize) {
    kill_worker(world, node);
    let machine = &mut world.machines[node];
    machine.boots += 1;
    machine.permit = NONE;
    for container in machine.containers.values_mut() {
        container.state = ContainerState::Stopped;
    }
}

/// It will come back with an empty disk. What it has not told anybody of yet may be made again.
fn lose_disk(world: &mut World, node: usize) {
    let machine = &mut world.machines[node];
    for id in std::mem::take(&mut machine.containers).into_keys() {
        let said = world.store.view.statuses.get(&(machine.id.clone(), id.clone()));
        if said.is_none_or(|status| status.state == ContainerState::Absent) {
            *world.allowed.entry(id).or_default() += 1;
        }
    }
}

pub(crate) fn heal(world: &mut World, heal: Heal) {
    match heal {
        Heal::Master(master) => world.masters[master].up = true,
        Heal::MasterLink(master) => world.masters[master].connected = true,
        Heal::Link(node) => world.machines[node].connected = true,
        Heal::Continue(node, process) => {
            let worker = world.machines[node].worker.as_mut();
            if let Some(worker) = worker.filter(|worker| worker.process == process) {
                worker.stopped = false;
            }
        }
        Heal::StartWorker(node) | Heal::Boot(node) => {
            let machine = &world.machines[node];
            if machine.worker.is_none() && !machine.dead {
                world.start_worker(node);
            }
        }
    }
}

/// All that can be mended is.
pub(crate) fn heal_all(world: &mut World) {
    for master in 0..world.masters.len() {
        heal(world, Heal::Master(master));
        heal(world, Heal::MasterLink(master));
    }
    for node in 0..world.machines.len() {
        heal(world, Heal::Link(node));
        heal(world, Heal::StartWorker(node));
        let process = world.machines[node].worker.as_ref().map(|worker| worker.process);
        if let Some(process) = process {
            heal(world, Heal::Continue(node, process));
        }
    }
    world.run(world.now + Duration::from_millis(1));
}
