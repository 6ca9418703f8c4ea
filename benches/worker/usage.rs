//! What a process has used: time of the clock, time of the processor, memory.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// What a measured stretch of work took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub(crate) elapsed: Duration,
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// The largest resident set of the process so far, in bytes.
    pub(crate) peak: u64,
}

impl Usage {
    pub(crate) fn processor(&self) -> Duration {
        self.user + self.system
    }
}

/// The beginning of a measured stretch of this process's work.
pub(crate) struct Meter {
    started: Instant,
    processor: [Duration; 2],
}

impl Meter {
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
            processor: processor_time(),
        }
    }

    /// What this process has used since the start.
    pub(crate) fn read(&self) -> Usage {
        let [user, system] = processor_time();
        Usage {
            elapsed: self.started.elapsed(),
            user: user - self.processor[0],
            system: system - self.processor[1],
            peak: memory_of("self").1,
        }
    }
}

/// The current and the largest resident set of a process, in bytes. `process` is its number, or
/// `self`.
pub(crate) fn memory_of(process: &str) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        let kib = line.split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() * 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// The processor time of this process so far, as user and as system. Linux counts it in hundredths
/// of a second.
fn processor_time() -> [Duration; 2] {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name of the program, in parentheses, may contain any characters.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields: Vec<&str> = fields.split_whitespace().collect();
    [11, 12].map(|index| Duration::from_millis(fields[index].parse::<u64>().unwrap() * 10))
}
