//! Runs a subject once to learn its calls, then once for each place to kill it at.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::sandbox::Sandbox;
use crate::snapshot::Snapshot;
use crate::subjects::{Subject, settled};
use crate::tracer::{Mode, Moment, Outcome, Strike};

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
    /// Beneath it each sandbox gets its prefix.
    pub(crate) base: PathBuf,
    bench: Option<(Sandbox, Snapshot)>,
    sandboxes: usize,
    tally: Tally,
}

impl<'a> Matrix<'a> {
    pub(crate) fn new(subject: &'a Subject, mode: Mode, base: PathBuf) -> Self {
        Self { subject, mode, base, bench: None, sandboxes: 0, tally: Tally::default() }
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
        let places = match choice {
            None => {
                calls.iter().enumerate().for_each(|(index, call)| println!("{title} {:4} {call}", index + 1));
                Vec::new()
            }
            Some(Choice::Full) => places(calls.len()),
            Some(Choice::Sample(_)) => spread(calls.len()),
            Some(Choice::One(strike)) => vec![strike],
        };
        let mut tried = 0;
        for strike in &places {
            if let Some(Choice::Sample(time)) = choice
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
            "{title}: {} calls, {passed} kills passed, {failed} failed, {ignored} not tried, {unreached} not reached, {:.1?}",
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
                last = strike.and_then(|(point, _)| outcome.calls.get(point - 1).cloned());
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
        self.sandboxes += 1;
        let number = self.sandboxes;
        let name = format!("{}-{}-{}-{number}", self.base.display(), self.subject.name, self.mode.name());
        let sandbox = Sandbox::new(name.as_ref());
        fs::create_dir(sandbox.scratch()).expect("scratch");
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

/// Every place of `calls` calls, in order.
fn places(calls: usize) -> Vec<Strike> {
    (1..=calls).flat_map(|point| [(point, Moment::Before), (point, Moment::After)]).collect()
}

/// The same places in an order of which any beginning is evenly spread, and alternates between before and after.
fn spread(calls: usize) -> Vec<Strike> {
    // Counting with the bits reversed: 0, 1/2, 1/4, 3/4, 1/8, …
    let size = calls.next_power_of_two();
    let bits = size.trailing_zeros();
    let reversed = (0..size).map(|n| if bits == 0 { 0 } else { n.reverse_bits() >> (usize::BITS - bits) });
    let points: Vec<usize> = reversed.filter(|n| *n < calls).map(|n| n + 1).collect();
    let sides = [Moment::Before, Moment::After];
    (0..2)
        .flat_map(|pass| {
            points.iter().enumerate().map(move |(index, point)| (*point, sides[(index + pass) % 2]))
        })
        .collect()
}
