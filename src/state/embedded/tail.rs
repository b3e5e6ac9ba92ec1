//! The last revisions in memory, shared by all who watch: a commit is read back from the file by nobody who is up to date.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::change::{Batch, Change};

/// How many revisions it keeps.
const BATCHES_MAX: usize = 4_096;
/// How many bytes of values it keeps.
const BYTES_MAX: usize = 16 << 20;
/// The most that is given out at once.
const SLICE_MAX: usize = 256;

/// Revisions without a gap up to the last that is durable.
#[derive(Debug, Default)]
pub(super) struct Tail {
    batches: VecDeque<(usize, Arc<Batch>)>,
    bytes: usize,
}

impl Tail {
    pub(super) fn push(&mut self, batch: Batch) {
        let size = batch.changes.iter().map(weight).sum();
        self.bytes += size;
        self.batches.push_back((size, Arc::new(batch)));
        while self.batches.len() > BATCHES_MAX || (self.bytes > BYTES_MAX && self.batches.len() > 1) {
            self.forget_first();
        }
    }

    /// Forgets what was before `revision`.
    pub(super) fn compact(&mut self, revision: u64) {
        while self.batches.front().is_some_and(|(_, batch)| batch.revision.0 < revision) {
            self.forget_first();
        }
    }

    /// Some revisions from `from` on. `None` if it does not go back so far.
    pub(super) fn since(&self, from: u64) -> Option<Vec<Arc<Batch>>> {
        let first = self.batches.front()?.1.revision.0;
        let skipped = usize::try_from(from.checked_sub(first)?).ok()?;
        Some(self.batches.iter().skip(skipped).take(SLICE_MAX).map(|(_, batch)| Arc::clone(batch)).collect())
    }

    fn forget_first(&mut self) {
        if let Some((size, _)) = self.batches.pop_front() {
            self.bytes -= size;
        }
    }
}

fn weight(change: &Change) -> usize {
    change.key().as_str().len()
        + match change {
            Change::Put(entry) => entry.value.as_bytes().len(),
            Change::Deleted(_) => 0,
        }
}
