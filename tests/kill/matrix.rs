//! Runs a subject once to learn its calls, then once for each place to kill it at.

use std::time::{Duration, Instant};

use crate::sandbox::Sandbox;
use crate::snapshot::Snapshot;
use crate::subjects::{Subject, settled};
use crate::tracer::{Mode, Moment, NumberedCall, Outcome, Strike};

/// Which places to try.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Choice {
    /// Every one.
    Full,
    /// As many as there is time for, evenly spread.
    Sample(Duration),
    /// This one.
    One(Strike),
}

/// How many kills turned out how.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    /// Places that were not tried.
    pub(crate) ignored: usize,
    /// Places that a run did not come to: it made fewer calls than the first one.
    pub(crate) unreached: usize,
}

/// Tries one subject in one mode.
pub(crate) struct Matrix<'a> {
    pub(crate) subject: &'a Subject,
    pub(crate) mode: Mode,
    /// What the names of the sandboxes' prefixes begin with.
    pub(crate) base: &'a str,
    bench: Option<(Sandbox, Snapshot)>,
    tally: Tally,
}

impl<'a> Matrix<'a> {
    pub(crate) fn new(subject: &'a Subject, mode: Mode, base: &'a str) -> Self {
        Self { subject, mode, base, bench: None, tally: Tally::default() }
    }

    /// Learns the calls; then tries those chosen, or lists them if nothing is.
    pub(crate) fn run(mut self, choice: Option<Choice>) -> Tally {
        let begin = Instant::now();
        let title = format!("{} {}", self.subject.name, self.mode.name());
        let calls = match self.attempt(None) {
            Ok(outcome) => outcome.calls,
            Err(reason) => {
                println!("{title}: FAILED without a kill: {reason}");
                self.tally.failed += 1;
                Vec::new()
            }
        };
        let effective: Vec<usize> = (1..=calls.len()).filter(|point| !calls[point - 1].refused).collect();
        let places = match choice {
            None => {
                for (index, NumberedCall { text, refused }) in calls.iter().enumerate() {
                    println!("{title} {:4} {text}{}", index + 1, if *refused { " (refused)" } else { "" });
                }
                Vec::new()
            }
            Some(Choice::Full) => places(&effective),
            Some(Choice::Sample(_)) => spread(&effective),
            Some(Choice::One(strike)) => vec![strike],
        };
        let mut tried = 0;
        for strike in &places {
            // At least one: a sample of nothing proves nothing.
            if let Some(Choice::Sample(time)) = choice
                && tried > 0
                && begin.elapsed() >= time
            {
                break;
            }
            tried += 1;
            match self.attempt(Some(*strike)) {
                Ok(outcome) if outcome.struck => self.tally.passed += 1,
                Ok(_) => self.tally.unreached += 1,
                Err(reason) => {
                    self.tally.failed += 1;
                    println!("{title} {} {:?}: FAILED: {reason}", strike.0, strike.1);
                }
            }
        }
        if let Some((sandbox, _)) = self.bench.take() {
            sandbox.destroy();
        }
        self.tally.ignored = places.len() - tried;
        let Tally { passed, failed, ignored, unreached } = self.tally;
        println!(
            "{title}: {} calls of {} took effect, {passed} kills passed, {failed} failed, {ignored} not tried, {unreached} not reached, {:.1?}",
            effective.len(),
            calls.len(),
            begin.elapsed()
        );
        self.tally
    }

    /// One run, killed or not, and the judgement on it.
    fn attempt(&mut self, strike: Option<Strike>) -> Result<Outcome, String> {
        let (sandbox, baseline) = match self.bench.take() {
            Some(bench) => bench,
            None => self.new_bench()?,
        };
        let mut last = None;
        let result = self
            .subject
            .before
            .iter()
            .try_for_each(|name| sandbox.operate(name).map(drop))
            .and_then(|()| sandbox.trace(self.subject.program, self.mode, strike))
            .and_then(|outcome| {
                last =
                    strike.and_then(|(point, _)| outcome.calls.get(point - 1).map(|call| call.text.clone()));
                self.subject.judge(&sandbox, &baseline, strike, &outcome).map(|()| outcome)
            });
        if result.is_ok() {
            // Its state has been proven to be the baseline's.
            self.bench = Some((sandbox, baseline));
        } else {
            sandbox.destroy();
        }
        result.map_err(|reason| match last {
            Some(call) => format!("at {call}: {reason}"),
            None => reason,
        })
    }

    fn new_bench(&mut self) -> Result<(Sandbox, Snapshot), String> {
        let sandbox = Sandbox::new(self.base);
        match self.subject.once.iter().try_for_each(|name| sandbox.operate(name).map(drop)) {
            Ok(()) => {
                let baseline = settled(&sandbox);
                Ok((sandbox, baseline))
            }
            Err(reason) => {
                sandbox.destroy();
                Err(reason)
            }
        }
    }
}

/// Both sides of every call that took effect, in order. A call that was refused is like none.
fn places(effective: &[usize]) -> Vec<Strike> {
    effective.iter().flat_map(|point| [(*point, Moment::Before), (*point, Moment::After)]).collect()
}

/// The same places in an order of which any beginning is evenly spread, and alternates between before and after.
fn spread(effective: &[usize]) -> Vec<Strike> {
    // Counting with the bits reversed: 0, 1/2, 1/4, 3/4, 1/8, …
    let size = effective.len().next_power_of_two();
    let bits = size.trailing_zeros();
    let reversed = (0..size).map(|n| if bits == 0 { 0 } else { n.reverse_bits() >> (usize::BITS - bits) });
    let points: Vec<usize> = reversed.filter_map(|n| effective.get(n).copied()).collect();
    let sides = [Moment::Before, Moment::After];
    (0..2)
        .flat_map(|pass| {
            points.iter().enumerate().map(move |(index, point)| (*point, sides[(index + pass) % 2]))
        })
        .collect()
}
