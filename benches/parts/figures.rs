//! What is told of many measurements.

use std::time::Duration;

/// The value that `percent` of them do not exceed, in milliseconds.
pub(crate) fn percentile(durations: &[Duration], percent: usize) -> f64 {
    let mut sorted = durations.to_vec();
    sorted.sort();
    sorted[(sorted.len() - 1) * percent / 100].as_secs_f64() * 1e3
}

/// How the medians of two sides are to each other.
pub(crate) fn ratio(ours: &[Duration], theirs: &[Duration]) -> f64 {
    percentile(ours, 50) / percentile(theirs, 50)
}
