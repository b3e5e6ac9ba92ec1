//! What each step takes: the library's own spans, collected.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::span::{Attributes, Id};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

/// The durations of each kind of span, in the order in which they first ended.
#[derive(Clone, Default)]
pub(crate) struct Steps(Arc<Mutex<BTreeMap<&'static str, Vec<Duration>>>>);

/// Starts collecting, for the whole process.
pub(crate) fn record() -> Steps {
    let steps = Steps::default();
    let subscriber = tracing_subscriber::registry().with(Collect(steps.clone()));
    tracing::subscriber::set_global_default(subscriber).expect("the only subscriber");
    steps
}

impl Steps {
    /// What a step took the last time.
    pub(crate) fn last(&self, step: &str) -> Option<Duration> {
        self.0.lock().expect("lock").get(step)?.last().copied()
    }

    pub(crate) fn clear(&self) {
        self.0.lock().expect("lock").clear();
    }

    pub(crate) fn print(&self) {
        println!("\nsteps (some pass at the same time)      median   times");
        let mut rows: Vec<_> = self.0.lock().expect("lock").clone().into_iter().collect();
        rows.iter_mut().for_each(|(_, durations)| durations.sort());
        rows.sort_by_key(|(_, durations)| std::cmp::Reverse(durations[durations.len() / 2]));
        for (name, durations) in rows {
            let median = durations[durations.len() / 2].as_secs_f64() * 1e3;
            println!("  {name:<36} {median:>8.2} ms {:>6}", durations.len());
        }
    }

    /// What waiting for the disk costs: the library's flushes, per pair of a launch and a removal.
    pub(crate) fn print_durability(&self, pairs: usize) {
        let flushes = self.0.lock().expect("lock").get("flush").cloned().unwrap_or_default();
        let (count, total) = (flushes.len() / pairs, flushes.iter().sum::<Duration>().as_secs_f64() * 1e3);
        let each = total / f64::from(u32::try_from(pairs).expect("a sane number"));
        println!(
            "\ndurability: {count} flushes per launch and removal, {each:.2} ms together (some pass while others work)"
        );
    }
}

struct Collect(Steps);

struct Started(Instant);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collect {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with("docklet")
    }

    fn on_new_span(&self, _: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(Started(Instant::now()));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(Started(start)) = span.extensions_mut().remove::<Started>() else { return };
        self.0.0.lock().expect("lock").entry(span.name()).or_default().push(start.elapsed());
    }
}
