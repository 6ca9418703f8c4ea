//! The queue between the threads that log and standard error.
//!
//! A line is put into the queue without waiting, and a thread of its own writes it. Standard error
//! may be a full disk, a closed pipe, or a pipe whose reader stands still: then lines are dropped
//! and counted, and the worker goes on. When a line can be written again, the log says how many are
//! missing.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The bytes of lines that wait. Beyond them, lines are dropped.
const CAPACITY_BYTES: usize = 1 << 20;
/// How long the thread waits for a line before it looks for something else to report.
const IDLE: Duration = Duration::from_secs(10);
/// The delay before another attempt on a standard error that does not block.
const WOULD_BLOCK_RETRY: Duration = Duration::from_millis(10);

/// Lines on their way to standard error.
#[derive(Debug, Default)]
pub(super) struct LineQueue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<String>,
    bytes: usize,
    is_writing: bool,
    dropped: Dropped,
    /// Dropped lines that the log does not mention yet.
    unmentioned: u64,
}

/// Lines that were dropped since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The queue was full, because standard error takes nothing.
    pub queue_full: u64,
    /// Standard error refused them.
    pub write_failed: u64,
    /// Their call site had written too many.
    pub suppressed: u64,
}

impl LineQueue {
    /// Adds a line, or drops it if too many wait. Never waits for standard error.
    pub(super) fn push(&self, line: String) {
        let mut state = self.state();
        if state.bytes + line.len() > CAPACITY_BYTES {
            state.dropped.queue_full += 1;
            state.unmentioned += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        drop(state);
        self.changed.notify_all();
    }

    pub(super) fn dropped(&self) -> Dropped {
        self.state().dropped
    }

    /// Waits until every line is written or dropped, at most for `limit`.
    pub(super) fn flush(&self, limit: Duration) {
        let is_busy = |state: &mut State| !state.lines.is_empty() || state.is_writing;
        let _state_and_timeout = self
            .changed
            .wait_timeout_while(self.state(), limit, is_busy)
            .unwrap_or_else(PoisonError::into_inner);
    }

    /// Writes lines to `output` without end. `missing` makes the line that says how many were
    /// dropped, and `idle` is called between lines and while there are none.
    pub(super) fn write_to(
        &self,
        output: impl Write,
        missing: impl Fn(u64) -> String,
        idle: impl Fn(),
    ) {
        let mut output = LineWriter::new(output);
        loop {
            self.write_next(&mut output, &missing);
            idle();
        }
    }

    /// Waits for a line, and writes or drops it. Ends without one after [`IDLE`].
    fn write_next<W: Write>(&self, output: &mut LineWriter<W>, missing: impl Fn(u64) -> String) {
        let is_empty = |state: &mut State| state.lines.is_empty();
        let (mut state, _timeout) = self
            .changed
            .wait_timeout_while(self.state(), IDLE, is_empty)
            .unwrap_or_else(PoisonError::into_inner);
        let line = state.lines.pop_front();
        state.bytes -= line.as_ref().map_or(0, String::len);
        state.is_writing = true;
        let unmentioned = state.unmentioned;
        drop(state);

        let is_mentioned = unmentioned > 0 && output.write_line(&missing(unmentioned)).is_ok();
        let has_failed = line.is_some_and(|line| output.write_line(&line).is_err());

        let mut state = self.state();
        state.is_writing = false;
        if is_mentioned {
            state.unmentioned -= unmentioned;
        }
        if has_failed {
            state.dropped.write_failed += 1;
            state.unmentioned += 1;
        }
        drop(state);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn take(&self) -> String {
        let mut state = self.state();
        state.bytes = 0;
        state.lines.drain(..).collect()
    }
}

/// Writes whole lines. After a line that was cut off, the next one begins on a new line.
struct LineWriter<W> {
    output: W,
    is_within_line: bool,
}

impl<W: Write> LineWriter<W> {
    fn new(output: W) -> Self {
        Self {
            output,
            is_within_line: false,
        }
    }

    fn write_line(&mut self, line: &str) -> io::Result<()> {
        if self.is_within_line {
            self.write(b"\n")?;
        }
        self.write(line.as_bytes())
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.is_within_line = bytes.get(written - 1) != Some(&b'\n');
                    bytes = bytes.get(written..).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process has made the terminal or the pipe non-blocking. Waiting here is
                // the same as a write that blocks.
                Err(error) if error.kind() == ErrorKind::WouldBlock => wait(WOULD_BLOCK_RETRY),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the thread of the log has nothing else to do"
)]
fn wait(delay: Duration) {
    std::thread::sleep(delay);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// A disk with so many bytes left.
    struct Disk {
        left: usize,
        written: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.left);
            if taken == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.left -= taken;
            self.written.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn missing(lines: u64) -> String {
        format!("{lines} missing\n")
    }

    #[test]
    fn lines_that_do_not_fit_on_a_full_disk_are_counted_and_mentioned_once_there_is_room() {
        let queue = LineQueue::default();
        let disk = Disk {
            left: 8,
            written: Vec::new(),
        };
        let mut output = LineWriter::new(disk);
        for line in ["first\n", "second\n", "third\n"] {
            queue.push(line.to_owned());
            queue.write_next(&mut output, missing);
        }
        assert_eq!(queue.dropped().write_failed, 2);

        output.output.left = 100;
        for line in ["fourth\n", "fifth\n"] {
            queue.push(line.to_owned());
            queue.write_next(&mut output, missing);
        }
        let text = String::from_utf8(output.output.written).unwrap();
        assert_eq!(text, "first\nse\n2 missing\nfourth\nfifth\n");
        assert_eq!(queue.dropped().write_failed, 2);
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_waiting() {
        // No thread takes lines from this queue.
        let queue = LineQueue::default();
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..2000 {
            queue.push(line.clone());
        }
        assert_eq!(queue.dropped().queue_full, 2000 - 1024);
        assert_eq!(queue.take().len(), CAPACITY_BYTES);
    }

    #[test]
    fn a_flush_waits_for_the_lines_that_are_on_their_way() {
        let queue = Arc::new(LineQueue::default());
        let writer = queue.clone();
        queue.push("line\n".to_owned());
        let thread = std::thread::spawn(move || {
            let mut output = LineWriter::new(Vec::new());
            writer.write_next(&mut output, missing);
            output.output
        });
        queue.flush(Duration::from_secs(60));
        assert!(!queue.state().is_writing && queue.state().lines.is_empty());
        assert_eq!(thread.join().unwrap(), b"line\n");
    }
}
