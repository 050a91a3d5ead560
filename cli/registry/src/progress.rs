//! Bars on a terminal, one a blob; elsewhere nothing.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use vctx_storage::image::Digest;

/// All bars.
pub(crate) struct Progress {
    all: MultiProgress,
    bars: Mutex<HashMap<Digest, ProgressBar>>,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Progress {
        let shown = !quiet && std::io::stderr().is_terminal();
        let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Progress { all: MultiProgress::with_draw_target(target), bars: Mutex::default() }
    }

    /// A blob begins to come or go.
    pub(crate) fn begin(&self, digest: &Digest, size: u64) {
        self.bar(digest, size).set_position(0);
    }

    /// So much of it is there.
    pub(crate) fn have(&self, digest: &Digest, bytes: u64) {
        self.bar(digest, bytes).set_position(bytes);
    }

    pub(crate) fn says(&self, digest: &Digest, word: &'static str) {
        self.bar(digest, 0).set_message(word);
    }

    pub(crate) fn done(&self, digest: &Digest, size: u64, word: &'static str) {
        let bar = self.bar(digest, size);
        bar.set_position(size);
        bar.finish_with_message(word);
    }

    pub(crate) fn end(&self) {
        // What is on the screen stays; a terminal that has gone away is no matter.
        let _ = self.all.println("");
    }

    fn bar(&self, digest: &Digest, size: u64) -> ProgressBar {
        let mut bars = self.bars.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let new = || {
            let style =
                ProgressStyle::with_template("{prefix} {bar:30} {bytes:>10} of {total_bytes:<10} {msg}");
            let bar = self.all.add(ProgressBar::new(size));
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(digest.hex()[..12].to_owned());
            bar
        };
        bars.entry(digest.clone()).or_insert_with(new).clone()
    }
}
