//! When leases end, by `CLOCK_BOOTTIME` (`man 2 clock_gettime`). It is kept in memory: who opens the store gives each its whole time.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// By id: the time to live, and when it is over.
    leases: HashMap<u64, (Duration, Duration)>,
    order: BTreeSet<(Duration, u64)>,
}

impl Deadlines {
    pub(super) fn insert(&mut self, id: u64, time_to_live: Duration, now: Duration) {
        self.remove(id);
        let end = now + time_to_live;
        self.leases.insert(id, (time_to_live, end));
        self.order.insert((end, id));
    }

    /// Gives it its whole time again, and tells it. `None` if there is no such lease.
    pub(super) fn renew(&mut self, id: u64, now: Duration) -> Option<Duration> {
        let (time_to_live, _) = *self.leases.get(&id)?;
        self.insert(id, time_to_live, now);
        Some(time_to_live)
    }

    pub(super) fn remove(&mut self, id: u64) {
        if let Some((_, end)) = self.leases.remove(&id) {
            self.order.remove(&(end, id));
        }
    }

    /// Forgets those that are not among `leases`, and begins with those that are new.
    pub(super) fn reconcile(&mut self, leases: &[(u64, Duration)], now: Duration) {
        let gone: Vec<u64> =
            self.leases.keys().copied().filter(|id| leases.iter().all(|lease| lease.0 != *id)).collect();
        gone.into_iter().for_each(|id| self.remove(id));
        for (id, time_to_live) in leases {
            if !self.leases.contains_key(id) {
                self.insert(*id, *time_to_live, now);
            }
        }
    }

    /// Those whose time is over.
    pub(super) fn due(&self, now: Duration) -> Vec<u64> {
        self.order.iter().take_while(|(end, _)| *end <= now).map(|(_, id)| *id).collect()
    }

    /// How long until the first is over.
    pub(super) fn next(&self, now: Duration) -> Option<Duration> {
        self.order.first().map(|(end, _)| end.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_is_due_when_its_time_is_over_and_not_before() {
        let mut deadlines = Deadlines::default();
        deadlines.insert(1, 5 * SECOND, 10 * SECOND);
        deadlines.insert(2, 3 * SECOND, 10 * SECOND);
        assert_eq!(deadlines.next(11 * SECOND), Some(2 * SECOND));
        assert_eq!(deadlines.due(12 * SECOND), Vec::<u64>::new());
        assert_eq!(deadlines.due(13 * SECOND), [2]);
        assert_eq!(deadlines.due(20 * SECOND), [2, 1]);
    }

    #[test]
    fn a_renewed_lease_has_its_whole_time_and_a_removed_one_none() {
        let mut deadlines = Deadlines::default();
        deadlines.insert(1, 5 * SECOND, 10 * SECOND);
        assert_eq!(deadlines.renew(1, 14 * SECOND), Some(5 * SECOND));
        assert_eq!(deadlines.due(18 * SECOND), Vec::<u64>::new());
        assert_eq!(deadlines.due(19 * SECOND), [1]);
        deadlines.remove(1);
        assert_eq!(deadlines.renew(1, 15 * SECOND), None);
        assert_eq!(deadlines.next(15 * SECOND), None);
    }
}
