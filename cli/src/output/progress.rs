//! Progress bars: on standard error, only on a terminal, gone when the work is done.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a spinner turns while nothing else moves.
const TICK: Duration = Duration::from_millis(120);

/// Work under way.
#[derive(Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar for `total` steps, or a spinner where the total is not known (0).
    pub(super) fn new(visible: bool, total: u64, what: &str) -> Self {
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target((total > 0).then_some(total), target);
        let template = if total > 0 {
            "{msg:<28} {bar:30} {human_pos}/{human_len} {eta}"
        } else {
            "{spinner} {msg} {elapsed}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        if visible {
            bar.enable_steady_tick(TICK);
        }
        Self(bar)
    }

    /// So many steps are done.
    pub(crate) fn at(&self, done: u64) {
        self.0.set_position(done);
    }

    /// There are so many steps after all.
    pub(crate) fn total(&self, total: u64) {
        self.0.set_length(total);
        if let Ok(style) = ProgressStyle::with_template("{msg:<28} {bar:30} {human_pos}/{human_len} {eta}") {
            self.0.set_style(style);
        }
    }

    /// Does something on the screen while the bar is out of the way.
    pub(crate) fn aside<T>(&self, f: impl FnOnce() -> T) -> T {
        self.0.suspend(f)
    }

    /// What is being done now.
    pub(crate) fn say(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
