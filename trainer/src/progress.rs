//! What a person sees while a long command runs: bars with the time left and remarks, all on stderr.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Talk to the person at the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Say nothing at all.
    pub quiet: bool,
}

impl Progress {
    /// A bar over `length` items, or an invisible one.
    pub fn bar(&self, what: &str, length: usize) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template(
            "{prefix} [{bar:30}] {pos}/{len}, {elapsed} gone, {eta} left {msg}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(length as u64)
            .with_style(style)
            .with_prefix(what.to_string());
        bar.enable_steady_tick(Duration::from_millis(500));
        bar
    }

    /// A remark, on its own line.
    pub fn say(&self, remark: &str) {
        if !self.quiet {
            eprintln!("{remark}");
        }
    }
}
