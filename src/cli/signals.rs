//! SIGTERM, SIGINT and SIGHUP.

use std::future::pending;
use std::{fs, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The exit code after a second signal: 128 and SIGINT.
pub(super) const INTERRUPTED: i32 = 130;

/// The signals that stop the process.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// `None` if the process was started to outlive its terminal, as by `nohup`.
    hang_up: Option<Signal>,
}

impl StopSignals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: match is_ignored(SignalKind::hangup()) {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    /// Waits for the next signal, and returns its name.
    pub(super) async fn next(&mut self) -> &'static str {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = hang_up => "SIGHUP",
        }
    }
}

/// Whether the process was started with `kind` ignored. Where the system does not tell, it was not.
fn is_ignored(kind: SignalKind) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    is_in_mask(&status, kind.as_raw_value())
}

fn is_in_mask(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_is_ignored_is_in_the_mask() {
        let status = "Name:\thuddle\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000004002\n";
        assert!(is_in_mask(status, 1));
        assert!(!is_in_mask(status, 2));
        assert!(is_in_mask(status, 13));
        assert!(!is_in_mask("", 1));
    }
}
