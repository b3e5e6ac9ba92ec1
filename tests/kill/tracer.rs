//! Runs a program under `ptrace`, numbers the calls that change the host over all its threads or all its child
//! processes, and kills at one of them.
//!
//! Numbered calls are let through one at a time, so that "before call N" means that exactly the N - 1 calls before
//! it took effect, and "after call N" that N did. Only calls that may wait for another thread or process are not
//! waited for.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process;
use crate::ptrace::{self, Event, Follow, Resume, Side, Tid};
use crate::syscalls::{Decoder, may_wait_for_others};

/// Whose calls are numbered, and who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The program's own calls; the program is killed, its child processes are never traced.
    Own,
    /// The calls of the processes it starts, up to a container's init; the one that makes the call is killed.
    Runtime,
    /// The same calls; the program is killed at that moment, and the others go on.
    Orphan,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::Own, Self::Runtime, Self::Orphan];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Runtime => "runtime",
            Self::Orphan => "orphan",
        }
    }
}

/// The side of a call at which to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// The call has no effect.
    Before,
    /// The call has had its effect, and nothing was done since.
    After,
}

/// A place to kill at: a number, from 1, and a side.
pub(crate) type Strike = (usize, Moment);

/// A numbered call.
#[derive(Debug)]
pub(crate) struct NumberedCall {
    /// Its name and arguments.
    pub(crate) text: String,
    /// Whether the kernel refused it, so that it changed nothing.
    pub(crate) refused: bool,
}

/// What a traced run came to.
pub(crate) struct Outcome {
    /// The numbered calls in their order, up to the kill.
    pub(crate) calls: Vec<NumberedCall>,
    /// Whether the run came to the place to kill at.
    pub(crate) struck: bool,
    /// How the program ended, as `wait` gives it.
    pub(crate) status: i32,
}

struct Tracee {
    process: Tid,
    /// The call it is in.
    inside: Option<Inside>,
}

struct Inside {
    number: i64,
    args: [u64; 6],
    /// Its number if it changes the host.
    point: Option<usize>,
}

/// A thread held at the entry of a call until the call before it has ended.
struct Held {
    tid: Tid,
    text: String,
}

struct Tracer {
    program: Tid,
    /// The program's process namespace.
    namespace: Option<PathBuf>,
    mode: Mode,
    strike: Option<Strike>,
    tracees: HashMap<Tid, Tracee>,
    decoder: Decoder,
    calls: Vec<NumberedCall>,
    /// The thread in a numbered call.
    busy: Option<Tid>,
    held: VecDeque<Held>,
    /// The thread that came to the place to kill at. It is stopped there.
    hit: Option<Tid>,
    status: Option<i32>,
}

/// Traces `program`, a child that waits for `go`, to its end. Afterwards nothing is traced.
pub(crate) fn run(program: Tid, mode: Mode, strike: Option<Strike>, go: impl FnOnce()) -> Outcome {
    let mut tracer = Tracer {
        program,
        namespace: process::pid_namespace(program),
        mode,
        strike,
        tracees: HashMap::new(),
        decoder: Decoder::default(),
        calls: Vec::new(),
        busy: None,
        held: VecDeque::new(),
        hit: None,
        status: None,
    };
    tracer.attach();
    go();
    while tracer.status.is_none() && tracer.hit.is_none() {
        let (tid, event) = ptrace::wait().expect("the program has not ended");
        tracer.handle(tid, event);
    }
    tracer.release();
    Outcome {
        calls: tracer.calls,
        struck: tracer.hit.is_some(),
        status: tracer.status.expect("release waits for it"),
    }
}

impl Tracer {
    /// Seizes every thread that is there already.
    fn attach(&mut self) {
        let mut processes = vec![self.program];
        if self.mode != Mode::Own {
            // A runtime that an earlier run started, but not what runs inside a container.
            let here = process::others().into_iter();
            processes.extend(here.filter(|p| *p != self.program && self.is_outside(*p)));
        }
        let follow = if self.mode == Mode::Own { Follow::Threads } else { Follow::Everything };
        for process in processes {
            for tid in process::threads(process) {
                if ptrace::seize(tid, follow).is_ok() {
                    self.tracees.insert(tid, Tracee { process, inside: None });
                    ptrace::interrupt(tid);
                }
            }
        }
        // Each is made to stop at its next call before the program is let go.
        let mut stopping: Vec<Tid> = self.tracees.keys().copied().collect();
        while !stopping.is_empty() {
            let (tid, event) = ptrace::wait().expect("the program has not ended");
            stopping.retain(|other| *other != tid);
            self.handle(tid, event);
        }
    }

    /// Whether a process is not inside a container.
    fn is_outside(&self, process: Tid) -> bool {
        process::pid_namespace(process) == self.namespace
    }

    fn is_numbered(&self, process: Tid) -> bool {
        (process == self.program) == (self.mode == Mode::Own)
    }

    fn resume(&self, tid: Tid, signal: i32) {
        let numbered = self.tracees.get(&tid).is_some_and(|tracee| self.is_numbered(tracee.process));
        ptrace::resume(tid, if numbered { Resume::ToCall } else { Resume::Free }, signal);
    }

    fn handle(&mut self, tid: Tid, event: Event) {
        match event {
            Event::Ended(status) => self.ended(tid, status),
            Event::Call => match ptrace::call(tid) {
                Some(Side::Entry { number, args }) => self.enter(tid, number, args),
                Some(Side::Exit { result }) => self.leave(tid, result),
                None => self.resume(tid, 0),
            },
            Event::Child(child) => {
                self.meet(child);
                self.resume(tid, 0);
            }
            Event::Program { before } => self.became_program(tid, before),
            Event::Interrupted => {
                self.meet(tid);
                match self.tracees.get(&tid) {
                    Some(tracee) if self.mode == Mode::Own && tracee.process != self.program => {
                        self.let_go(tid, 0)
                    }
                    _ => self.resume(tid, 0),
                }
            }
            Event::Signal(signal) => self.resume(tid, signal),
        }
    }

    /// Takes in a thread that the kernel has begun to trace for us; one that has come and gone meanwhile is not.
    fn meet(&mut self, tid: Tid) {
        let own = Tid::try_from(std::process::id()).expect("pid");
        if process::tracer_of(tid) == Some(own) {
            let process = process::process_of(tid).unwrap_or(tid);
            self.tracees.entry(tid).or_insert(Tracee { process, inside: None });
        }
    }

    fn let_go(&mut self, tid: Tid, signal: i32) {
        ptrace::detach(tid, signal);
        self.tracees.remove(&tid);
    }

    fn ended(&mut self, tid: Tid, status: i32) {
        self.tracees.remove(&tid);
        self.held.retain(|held| held.tid != tid);
        if tid == self.program {
            self.status = Some(status);
        }
        self.no_longer_busy(tid);
    }

    fn enter(&mut self, tid: Tid, number: i64, args: [u64; 6]) {
        let text = self.decoder.enter(tid, number, &args);
        if let Some(tracee) = self.tracees.get_mut(&tid) {
            tracee.inside = Some(Inside { number, args, point: None });
        }
        match text {
            None => self.resume(tid, 0),
            Some(text) if self.busy.is_some() => self.held.push_back(Held { tid, text }),
            Some(text) => self.let_in(tid, text),
        }
    }

    /// Gives the call that `tid` is about to make its number.
    fn let_in(&mut self, tid: Tid, text: String) {
        self.calls.push(NumberedCall { text, refused: false });
        let point = self.calls.len();
        let Some(inside) = self.tracees.get_mut(&tid).and_then(|tracee| tracee.inside.as_mut()) else {
            return;
        };
        inside.point = Some(point);
        if !may_wait_for_others(inside.number) {
            self.busy = Some(tid);
        }
        if self.strike == Some((point, Moment::Before)) {
            self.hit = Some(tid);
        } else {
            self.resume(tid, 0);
        }
    }

    fn leave(&mut self, tid: Tid, result: i64) {
        let inside = self.tracees.get_mut(&tid).and_then(|tracee| tracee.inside.take());
        if let Some(inside) = inside {
            self.decoder.leave(tid, inside.number, &inside.args, result);
            if let Some(point) = inside.point {
                self.calls[point - 1].refused = result < 0;
                if self.strike == Some((point, Moment::After)) {
                    self.hit = Some(tid);
                    return;
                }
            }
        }
        self.no_longer_busy(tid);
        self.resume(tid, 0);
    }

    fn no_longer_busy(&mut self, tid: Tid) {
        if self.busy == Some(tid) {
            self.busy = None;
        }
        while self.busy.is_none() && self.hit.is_none() {
            let Some(next) = self.held.pop_front() else { break };
            self.let_in(next.tid, next.text);
        }
    }

    /// After `execve` only one thread is left, and it has the id of the first one.
    fn became_program(&mut self, tid: Tid, before: Tid) {
        let state = self.tracees.remove(&before);
        self.tracees.retain(|_, tracee| tracee.process != tid);
        self.held.retain(|held| self.tracees.contains_key(&held.tid));
        if self.busy == Some(before) {
            self.busy = Some(tid);
        }
        self.tracees.insert(tid, state.unwrap_or(Tracee { process: tid, inside: None }));
        // Further in is what the container runs.
        if self.is_outside(tid) {
            self.resume(tid, 0);
        } else {
            self.let_go(tid, 0);
            self.no_longer_busy(tid);
        }
    }

    /// Kills if there is something to kill, lets everything else go on untraced, and waits for the program's end.
    fn release(&mut self) {
        let victim = self.hit.map(|hit| match self.mode {
            Mode::Runtime => self.tracees[&hit].process,
            Mode::Own | Mode::Orphan => self.program,
        });
        if let Some(victim) = victim {
            // Whatever the victim's threads are about to do is not done: a call is not begun with a fatal signal
            // pending.
            kill(Pid::from_raw(victim), Signal::SIGKILL).expect("kill");
        }
        let is_victim = |tracee: &Tracee| Some(tracee.process) == victim;
        let stopped: Vec<Tid> = self.held.drain(..).map(|held| held.tid).chain(self.hit).collect();
        let mut at_victims_end = None;
        for tid in self.tracees.keys().copied().collect::<Vec<_>>() {
            if is_victim(&self.tracees[&tid]) {
                // It dies, stopped or not.
            } else if self.hit == Some(tid) {
                // An orphan's next step is made after its parent's death.
                at_victims_end = self.hit;
            } else if stopped.contains(&tid) {
                self.let_go(tid, 0);
            } else {
                ptrace::interrupt(tid);
            }
        }
        loop {
            while self.status.is_none() || !self.tracees.is_empty() {
                let (tid, event) = ptrace::wait().expect("the program has not ended");
                match event {
                    Event::Ended(status) => {
                        self.ended(tid, status);
                        if Some(tid) == victim
                            && let Some(orphan) = at_victims_end.take()
                        {
                            self.let_go(orphan, 0);
                        }
                    }
                    _ if self.tracees.get(&tid).is_some_and(is_victim) => {
                        ptrace::resume(tid, Resume::Free, 0)
                    }
                    Event::Child(child) => {
                        self.meet(child);
                        self.let_go(tid, 0);
                    }
                    Event::Program { before } => {
                        self.tracees.remove(&before);
                        self.tracees.retain(|_, tracee| tracee.process != tid);
                        self.let_go(tid, 0);
                    }
                    Event::Signal(signal) => self.let_go(tid, signal),
                    Event::Call | Event::Interrupted => self.let_go(tid, 0),
                }
            }
            // A child of the victim that the kernel had begun to trace, and that we have not heard of.
            process::others().into_iter().for_each(|pid| self.meet(pid));
            if self.tracees.is_empty() {
                break;
            }
        }
    }
}
