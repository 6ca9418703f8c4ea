//! Limits the lines of each call site, so that events from outside that cause lines cannot fill the
//! log.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::callsite::Identifier;
use tracing::{Level, Metadata};

/// The lines that a call site may write at once.
const BURST: u32 = 50;
/// The time after which a call site may write one more line.
const REFILL: Duration = Duration::from_secs(1);
/// After this long without a line of the call site, its suppressed lines are reported.
const REPORT_AFTER: Duration = Duration::from_secs(10);

/// The call sites that have logged, each with the lines that it may still write.
#[derive(Debug, Default)]
pub(super) struct CallSites {
    sites: Mutex<HashMap<Identifier, CallSite>>,
    suppressed: AtomicU64,
}

#[derive(Debug)]
struct CallSite {
    metadata: &'static Metadata<'static>,
    left: u32,
    refilled_at: Instant,
    suppressed: u64,
}

/// Lines of a call site that were suppressed and not reported with a later one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Suppressed {
    pub(super) call_site: String,
    pub(super) level: Level,
    pub(super) lines: u64,
}

impl CallSites {
    /// Whether a line may be written. If so, returns the number of lines of its call site that were
    /// suppressed since the last one.
    ///
    /// An operator who asks for `debug` or `trace` wants all of it.
    pub(super) fn admit(&self, metadata: &'static Metadata<'static>, now: Instant) -> Option<u64> {
        if *metadata.level() > Level::INFO {
            return Some(0);
        }
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let site = sites
            .entry(metadata.callsite())
            .or_insert_with(|| CallSite {
                metadata,
                left: BURST,
                refilled_at: now,
                suppressed: 0,
            });
        site.refill(now);
        if site.left == 0 {
            site.suppressed += 1;
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        site.left -= 1;
        Some(std::mem::take(&mut site.suppressed))
    }

    /// All lines that were suppressed since the start.
    pub(super) fn suppressed(&self) -> u64 {
        self.suppressed.load(Ordering::Relaxed)
    }

    /// Takes what was suppressed and is not reported by a line of its own call site soon.
    pub(super) fn take_unreported(&self, now: Instant) -> Vec<Suppressed> {
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        let unreported = sites.values_mut().filter(|site| {
            let since = now.saturating_duration_since(site.refilled_at);
            site.suppressed > 0 && since >= REPORT_AFTER
        });
        unreported
            .map(|site| Suppressed {
                call_site: format!(
                    "{}:{}",
                    site.metadata.file().unwrap_or("unknown"),
                    site.metadata.line().unwrap_or(0)
                ),
                level: *site.metadata.level(),
                lines: std::mem::take(&mut site.suppressed),
            })
            .collect()
    }
}

impl CallSite {
    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.refilled_at);
        let due = u32::try_from(since.as_millis() / REFILL.as_millis()).unwrap_or(u32::MAX);
        if due > 0 {
            self.left = self.left.saturating_add(due).min(BURST);
            self.refilled_at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing::Callsite;
    use tracing::callsite::DefaultCallsite;
    use tracing::metadata::Kind;

    use super::*;

    #[test]
    fn a_call_site_writes_a_burst_then_one_line_a_second_and_says_how_many_it_suppressed() {
        static METADATA: Metadata<'static> = tracing::metadata! {
            name: "here",
            target: "test",
            level: Level::WARN,
            fields: &[],
            callsite: &SITE,
            kind: Kind::EVENT,
        };
        static SITE: DefaultCallsite = DefaultCallsite::new(&METADATA);
        let (sites, start) = (CallSites::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let burst = (0..1000).filter(|_| sites.admit(SITE.metadata(), start).is_some());
        assert_eq!(burst.count(), BURST as usize);
        assert_eq!(sites.admit(SITE.metadata(), at(1)), Some(950));
        assert_eq!(sites.admit(SITE.metadata(), at(1)), None);
        assert_eq!(sites.take_unreported(at(2)), []);
        let reported: Vec<_> = sites
            .take_unreported(at(11))
            .iter()
            .map(|s| s.lines)
            .collect();
        assert_eq!(reported, [1]);
        assert_eq!(sites.take_unreported(at(11)), []);
    }
}
