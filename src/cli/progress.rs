//! A progress line.

use std::io::{self, IsTerminal, Write};

use super::print;

/// The width of a bar, in characters.
const BAR: usize = 24;

/// Rewrites its line on a terminal; otherwise prints a new line each time.
pub(super) struct ProgressLine {
    is_terminal: bool,
}

impl ProgressLine {
    pub(super) fn new() -> Self {
        Self {
            is_terminal: io::stdout().is_terminal(),
        }
    }

    /// Whether the line is rewritten, so that frequent updates do not fill the output.
    pub(super) fn is_rewritten(&self) -> bool {
        self.is_terminal
    }

    pub(super) async fn show(&self, line: &str) {
        write(match self.is_terminal {
            true => format!("\r\x1b[2K{line}"),
            false => format!("{line}\n"),
        })
        .await;
    }

    /// Ends the line. Further output goes below it.
    pub(super) async fn leave(&self) {
        if self.is_terminal {
            write("\n".to_owned()).await;
        }
    }
}

/// Writes to standard output, on a thread of its own: a reader that stands still holds up neither
/// the worker nor its signals. The work does not depend on its progress being shown.
async fn write(text: String) {
    let writing = tokio::task::spawn_blocking(move || {
        let _shown = print(&text).and_then(|()| io::stdout().flush());
    });
    let _ended = writing.await;
}

/// A bar that is filled to the share of `done` in `all`.
pub(super) fn bar(done: u64, all: u64) -> String {
    let share = done as f64 / all.max(1) as f64;
    let filled = ((share * BAR as f64) as usize).min(BAR);
    format!("[{}{}]", "#".repeat(filled), "-".repeat(BAR - filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_filled_by_its_share_and_never_overflows() {
        assert_eq!(bar(0, 0), format!("[{}]", "-".repeat(24)));
        assert_eq!(bar(1, 2), format!("[{}{}]", "#".repeat(12), "-".repeat(12)));
        assert_eq!(bar(9, 3), format!("[{}]", "#".repeat(24)));
    }
}
