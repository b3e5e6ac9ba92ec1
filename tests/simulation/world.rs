//! A simulated cluster: what happens when, and what goes wrong. Every history follows from its seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use docklet::cluster::decide::{Moment, Order, Permit, Step, may_run, orders, over_at};
use docklet::cluster::records::{
    ContainerId, ContainerState, ContainerStatus, Epoch, NodeId, NodeLost, Timing, VirtualClusterId,
};
use docklet::name::ObjectId;

use super::faults::Heal;
use super::machine::{Begun, Machine, Worker};
use super::master::Master;
use super::random::Random;
use super::store::{Change, Store};
use super::{check, faults, users};

/// How long a history has faults, and how long it may take to become quiet.
pub(crate) const TROUBLE: Duration = Duration::from_secs(120);
pub(crate) const QUIET: Duration = Duration::from_secs(120);

pub(crate) enum Event {
    /// A master keeps or takes the office, and decides.
    Campaign(usize),
    /// A master sees what the store was at this revision.
    See(usize, u64),
    /// A worker asks for its orders, keeps its lease, and says what there is.
    Poll(usize, u64),
    /// A worker's request reaches a master.
    Request(usize, Request),
    /// The answer reaches the worker's process that asked.
    Answer(usize, u64, Answer),
    /// A step is done, if the machine has not been restarted since.
    Done {
        node: usize,
        boot: u64,
        process: u64,
        id: ContainerId,
        begun: Begun,
    },
    /// A fencer wakes.
    Fence(usize),
    User,
    Fault,
    /// Something that went wrong ends.
    Heal(Heal),
}

/// What a worker's process asks a master, with when it was sent by its own clock.
pub(crate) struct Request {
    process: u64,
    master: usize,
    sent: Moment,
    epoch: Option<Epoch>,
    statuses: Vec<(ContainerId, ContainerStatus)>,
}

pub(crate) struct Answer {
    sent: Moment,
    /// `None`: its lease is over, or it is no node any more.
    lease: Option<(Epoch, u64, BTreeMap<ContainerId, Order>)>,
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) random: Random,
    pub(crate) store: Store,
    pub(crate) masters: Vec<Master>,
    pub(crate) machines: Vec<Machine>,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, Event>,
    scheduled: u64,
    ids: u64,
    /// How many times each container that waits for its node was made from its own image.
    pub(crate) launched: BTreeMap<ContainerId, u64>,
    /// How many times it may have been: once, and once more each time its user wanted it anew.
    pub(crate) allowed: BTreeMap<ContainerId, u64>,
    /// Virtual clusters that were created, for users to go on with.
    pub(crate) created: Vec<VirtualClusterId>,
    /// Whether what happens is printed.
    pub(crate) told: bool,
    /// How many times a container was started.
    pub(crate) runs: u64,
    /// How many times somebody asked for something that was done.
    pub(crate) granted: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let timing = Timing::default();
        let view = users::first_view(&mut random);
        let mut rate = || 990 + u32::try_from(random.below(21)).expect("small");
        let machines = view.nodes.keys().map(|id| Machine::new(id.clone(), rate())).collect();
        let masters = (0..2).map(Master::new).collect();
        let mut world = Self {
            now: Duration::ZERO,
            random,
            store: Store::new(view, timing),
            masters,
            machines,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            scheduled: 0,
            ids: 1 << 20,
            launched: BTreeMap::new(),
            allowed: BTreeMap::new(),
            created: Vec::new(),
            told: false,
            runs: 0,
            granted: 0,
        };
        for master in 0..world.masters.len() {
            world.after(Duration::ZERO, Event::Campaign(master));
        }
        for node in 0..world.machines.len() {
            world.after(Duration::ZERO, Event::Poll(node, 0));
        }
        world.after(Duration::from_secs(1), Event::User);
        world.after(Duration::from_secs(3), Event::Fault);
        world
    }

    pub(crate) fn after(&mut self, time: Duration, event: Event) {
        self.scheduled += 1;
        self.queue.push(Reverse((self.now + time, self.scheduled)));
        self.events.insert(self.scheduled, event);
    }

    pub(crate) fn new_id(&mut self) -> ObjectId {
        self.ids += 1;
        ObjectId::new(format!("{:016x}", self.ids)).expect("an id")
    }

    /// Lets it all happen until `end`.
    pub(crate) fn run(&mut self, end: Duration) {
        while let Some(Reverse((at, number))) =
            self.queue.peek().copied().filter(|Reverse((at, _))| *at <= end)
        {
            self.queue.pop();
            self.now = at;
            let revision = self.store.revision;
            self.store.tick(at);
            let event = self.events.remove(&number).expect("it was scheduled");
            self.happen(event);
            if self.store.revision != revision {
                self.print(revision);
                self.tell();
                check::records(self);
            }
        }
        self.now = end;
    }

    /// Prints what was changed after `revision`.
    fn print(&self, revision: u64) {
        if !self.told {
            return;
        }
        for change in &self.store.changes[usize::try_from(revision).expect("few")..] {
            match change {
                Change::Decided(decision) => println!("{:?} {}", self.now, decision.reason),
                Change::Came(node, epoch) => println!("{:?} {node} came, {epoch:?}", self.now),
                Change::Went(node) => println!("{:?} {node} went", self.now),
                Change::Said(node, container, status) => {
                    println!(
                        "{:?} {node} says {container} {:?} fence {}",
                        self.now, status.state, status.fence
                    );
                }
            }
        }
    }

    /// Masters see a change some time after it was made.
    fn tell(&mut self) {
        for master in 0..self.masters.len() {
            let late = self.random.millis(1, 300);
            self.after(late, Event::See(master, self.store.revision));
        }
    }

    /// How long a message is on its way. Some are overtaken.
    fn way(&mut self) -> Duration {
        let most = if self.random.percent(5) { 8_000 } else { 300 };
        self.random.millis(1, most)
    }

    pub(crate) fn master_clock(&self, master: usize) -> Moment {
        // The second master's clock runs fast.
        Moment(self.now * (1000 + 10 * u32::try_from(master).expect("few")) / 1000)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Campaign(master) => {
                let again = self.random.millis(500, 1500);
                self.after(again, Event::Campaign(master));
                let clock = self.master_clock(master);
                self.masters[master].campaign(&mut self.store, self.now);
                self.masters[master].decide(&mut self.store, clock);
            }
            Event::See(master, revision) => {
                let clock = self.master_clock(master);
                self.masters[master].see(&self.store, revision);
                self.masters[master].decide(&mut self.store, clock);
            }
            Event::Poll(node, process) => self.poll(node, process),
            Event::Request(node, request) => self.request(node, request),
            Event::Answer(node, process, answer) => self.answer(node, process, answer),
            Event::Done { node, boot, process, id, begun } => self.done((node, boot, process), id, begun),
            Event::Fence(node) => {
                let now = self.now;
                self.machines[node].fence(now);
            }
            Event::User => users::act(self),
            Event::Fault => faults::happen(self),
            Event::Heal(heal) => faults::heal(self, heal),
        }
    }

    /// A worker's process begins, or begins anew.
    pub(crate) fn start_worker(&mut self, node: usize) {
        let process = self.scheduled;
        self.machines[node].worker = Some(Worker { process, ..Worker::default() });
        self.after(Duration::from_millis(50), Event::Poll(node, process));
    }

    fn poll(&mut self, node: usize, process: u64) {
        let (again, way) = (self.random.millis(1500, 2500), self.way());
        let master = usize::try_from(self.random.below(2)).expect("small");
        let machine = &mut self.machines[node];
        if machine.worker.as_ref().is_none_or(|worker| worker.process != process) {
            return;
        }
        let sent = machine.clock(self.now);
        let statuses = machine.statuses();
        let Some(worker) = machine.active() else {
            self.after(again, Event::Poll(node, process));
            return;
        };
        let request = Request { process, master, sent, epoch: worker.epoch, statuses };
        self.after(again, Event::Poll(node, process));
        if !self.random.percent(3) {
            self.after(way, Event::Request(node, request));
        }
    }

    /// Any master answers a worker, leading or not.
    fn request(&mut self, node: usize, request: Request) {
        let (machine, master) = (&self.machines[node], &self.masters[request.master]);
        if !machine.connected || !master.up || !master.connected {
            return;
        }
        let id = machine.id.clone();
        let epoch = match request.epoch {
            None => self.store.register(&id, self.now),
            Some(epoch) => self.store.keep(&id, epoch, self.now).then_some(epoch),
        };
        for (container, status) in request.statuses {
            self.store.hear(&id, &container, status);
        }
        let lease = epoch.map(|epoch| (epoch, self.store.revision, orders(&self.store.view, &id)));
        let way = self.way();
        if !self.random.percent(3) {
            self.after(way, Event::Answer(node, request.process, Answer { sent: request.sent, lease }));
        }
    }

    fn answer(&mut self, node: usize, process: u64, answer: Answer) {
        let timing = self.store.timing;
        let machine = &mut self.machines[node];
        let is_connected = machine.connected;
        let Some(worker) = machine.active().filter(|worker| is_connected && worker.process == process) else {
            return;
        };
        let Some((epoch, revision, orders)) = answer.lease else {
            // It comes anew with its next request. Until then it has what lease it has.
            worker.epoch = None;
            return;
        };
        if worker.epoch.is_some_and(|known| known != epoch) && worker.epoch > Some(epoch) {
            return;
        }
        worker.epoch = Some(epoch);
        if revision >= worker.revision {
            (worker.revision, worker.orders) = (revision, orders);
        }
        let over_at = machine.permit.over_at.max(over_at(&timing, answer.sent, timing.lease));
        machine.permit = Permit { epoch, over_at };
        // The fencer wakes when it is over, and a little late.
        let wake = machine.when(over_at).saturating_sub(self.now);
        let late = self.random.millis(0, 1000);
        self.after(wake + late, Event::Fence(node));
        self.work(node);
    }

    /// The worker begins what it has to do.
    pub(crate) fn work(&mut self, node: usize) {
        let view = &self.store.view;
        let policy = |id: &ContainerId| {
            let mut clusters = view.virtual_clusters.values();
            let member = clusters.find_map(|cluster| cluster.members.get(id));
            member.map_or(NodeLost::Wait, |member| member.spec.node_lost)
        };
        let begun = self.machines[node].begin(policy);
        let process = self.machines[node].worker.as_ref().map_or(0, |worker| worker.process);
        let boot = self.machines[node].boots;
        for (id, begun) in begun {
            let takes = self.random.millis(20, 3000);
            self.after(takes, Event::Done { node, boot, process, id, begun });
        }
    }

    fn done(&mut self, (node, boot, process): (usize, u64, u64), id: ContainerId, begun: Begun) {
        let machine = &mut self.machines[node];
        if machine.boots != boot {
            return;
        }
        let Some(worker) = machine.worker.as_mut().filter(|worker| worker.process == process) else { return };
        if worker.stopped {
            self.after(Duration::from_secs(1), Event::Done { node, boot, process, id, begun });
            return;
        }
        worker.busy.remove(&id);
        self.carry_out(node, &id, &begun);
        self.work(node);
    }

    /// A step has its effect, unless it is too late for it.
    pub(crate) fn carry_out(&mut self, node: usize, id: &ContainerId, begun: &Begun) {
        let machine = &self.machines[node];
        let Begun { step, order, epoch, node_lost } = begun;
        let now = machine.clock(self.now);
        if *node_lost == NodeLost::Restart && !may_run(step, *epoch, &machine.permit, now) {
            return;
        }
        if self.told {
            println!("{:?} {} {id} {step:?} {order:?}", self.now, machine.id);
        }
        check::data(self, node, id, step, *node_lost);
        self.machines[node].carry_out(id, begun);
        self.runs += u64::from(matches!(step, Step::Launch | Step::Start));
        check::runs_once(self, id);
    }

    /// Those that run `id` now.
    pub(crate) fn running(&self, id: &ContainerId) -> Vec<&NodeId> {
        let runs = |machine: &&Machine| {
            machine.containers.get(id).is_some_and(|container| container.state == ContainerState::Running)
        };
        self.machines.iter().filter(runs).map(|machine| &machine.id).collect()
    }
}
