//! A simulated master: it sees the store late, leads if it can, and decides by the library's functions.

use std::time::Duration;

use docklet::cluster::decide::{Absences, Decision, Moment, View, due};

use super::store::{self, OFFICE, Store};

pub(crate) struct Master {
    pub(crate) number: usize,
    /// Whether its process runs.
    pub(crate) up: bool,
    /// Whether it reaches the store.
    pub(crate) connected: bool,
    /// What it leads with. `None`: it does not, as far as it knows.
    office: Option<Office>,
}

struct Office {
    fence: u64,
    until: Duration,
    view: View,
    /// The revision up to which `view` shows the store.
    seen: u64,
    absences: Absences,
}

impl Master {
    pub(crate) fn new(number: usize) -> Self {
        Self { number, up: true, connected: true, office: None }
    }

    pub(crate) fn kill(&mut self) {
        self.up = false;
        self.office = None;
    }

    fn reaches(&self) -> bool {
        self.up && self.connected
    }

    /// Whether it can decide, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        self.up && self.office.is_some()
    }

    pub(crate) fn view(&self) -> Option<&View> {
        self.office.as_ref().map(|office| &office.view)
    }

    /// Takes or keeps the office. Who gets it anew reads everything.
    pub(crate) fn campaign(&mut self, store: &mut Store, now: Duration) {
        if self.office.as_ref().is_some_and(|office| office.until <= now) {
            self.office = None;
        }
        if !self.reaches() {
            return;
        }
        let Some(fence) = store.lead(self.number, now) else {
            self.office = None;
            return;
        };
        match &mut self.office {
            Some(office) if office.fence == fence => office.until = now + OFFICE,
            _ => {
                let (view, seen) = (store.view.clone(), store.revision);
                self.office =
                    Some(Office { fence, until: now + OFFICE, view, seen, absences: Absences::default() });
            }
        }
    }

    /// Sees changes up to `revision`, if it reaches the store.
    pub(crate) fn see(&mut self, store: &Store, revision: u64) {
        let reaches = self.reaches();
        let Some(office) = self.office.as_mut().filter(|_| reaches) else { return };
        while office.seen < revision {
            let index = usize::try_from(office.seen).expect("few");
            store::apply(&mut office.view, &store.changes[index]);
            office.seen += 1;
        }
    }

    /// Decides all that is due, with a clock that shows `clock`.
    pub(crate) fn decide(&mut self, store: &mut Store, clock: Moment) {
        for _ in 0..50 {
            let Some(office) = self.office.as_mut().filter(|_| self.up && self.connected) else { return };
            office.absences.note(&office.view, clock);
            let decisions = due(&office.view, &office.absences, clock, &store.timing);
            if decisions.is_empty() || !decisions.iter().all(|decision| self.commit(store, decision)) {
                return;
            }
        }
        panic!("master {} decides without an end", self.number);
    }

    /// What somebody asks for, by `decide`; whether it was done.
    pub(crate) fn ask(
        &mut self,
        store: &mut Store,
        clock: Moment,
        decide: impl FnOnce(&View, (&Absences, Moment)) -> Option<Decision>,
    ) -> bool {
        let reaches = self.reaches();
        let Some(office) = self.office.as_ref().filter(|_| reaches) else { return false };
        let decision = decide(&office.view, (&office.absences, clock));
        decision.is_some_and(|decision| self.commit(store, &decision))
    }

    /// Carries a decision out. One that is refused means that it sees too little: it reads everything anew, or does not lead.
    fn commit(&mut self, store: &mut Store, decision: &Decision) -> bool {
        let office = self.office.as_mut().expect("who decides leads");
        if !store.commit(self.number, office.fence, decision) {
            let leads =
                store.leader.is_some_and(|(holder, fence, _)| (holder, fence) == (self.number, office.fence));
            if leads {
                (office.view, office.seen) = (store.view.clone(), store.revision);
            } else {
                self.office = None;
            }
            return false;
        }
        // Its own change, and what others changed before it, in their order.
        let revision = store.revision;
        self.see(store, revision);
        true
    }
}
