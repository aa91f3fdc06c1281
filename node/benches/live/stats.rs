//! How late things came, and how fast.

use std::time::Duration;

/// One run: how long it took, and how late each message was.
pub(super) struct Run {
    pub(super) count: u64,
    /// From the first message to the last.
    pub(super) took: Duration,
    /// Nanoseconds from a message's making to its arrival.
    pub(super) late: Vec<u64>,
}

impl Run {
    pub(super) fn per_second(&self) -> f64 {
        self.count as f64 / self.took.as_secs_f64()
    }

    /// The lateness below which this part of all is, in milliseconds.
    pub(super) fn late_ms(&mut self, part: f64) -> f64 {
        self.late.sort_unstable();
        let at = (self.late.len().saturating_sub(1) as f64 * part).round() as usize;
        self.late.get(at).map_or(f64::NAN, |ns| *ns as f64 / 1e6)
    }
}

pub(super) fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(f64::NAN)
}
