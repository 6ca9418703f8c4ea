//! Repositories as wholes: fetch, compare, replay what was parked, discover.
//!
//! All work is in the tables, so the actors of this room may die at any time: their successors go on
//! from there.

mod actor;
pub mod backfill;
mod compare;
mod fetch;
pub mod host;
mod host_limiter;
mod job;
mod replay;
pub mod snapshot;
mod unconfirmed;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use url::Url;

pub use self::actor::{RepositoriesActor, RepositoriesMessage};
use self::host::Hosts;
pub use self::host_limiter::HostLimiters;
use self::host_limiter::NoSlot;
pub use self::job::JobLog;
use crate::actor::address::Address;
use crate::atproto::syntax::Nsid;
use crate::delivery::budget::Budget;
use crate::source::interest::Interest;
use crate::source::process::Processor;
use crate::source::process::verification::Verification;
use crate::store::repos::RepoStore;
use crate::telemetry::metrics::Metrics;

/// The first wait before a repository is tried again; it doubles up to `RETRY_MAX`.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(3600);
const RETRY_JITTER: f64 = 0.3;

/// What it takes to verify repositories, and to fetch them.
pub struct Repositories {
    pub processor: Arc<Processor>,
    pub verification: Arc<Verification>,
    pub hosts: Arc<dyn Hosts>,
    pub store: Arc<dyn RepoStore>,
    /// How each host is spared.
    pub host_limiters: HostLimiters,
    pub log: JobLog,
    /// Where repositories that are fetched are put for the time being.
    pub folder: PathBuf,
    /// The source over HTTP, which is asked where an account's own host gives no answer.
    pub source_http: Url,
    pub address: Address<RepositoriesMessage>,
    pub backfill: Backfill,
    pub idleness: Idleness,
    pub budget: Arc<Budget>,
    pub metrics: Metrics,
}

/// What [`Repositories`] are made of.
pub struct Parts {
    pub verification: Arc<Verification>,
    pub hosts: Arc<dyn Hosts>,
    pub store: Arc<dyn RepoStore>,
    pub folder: PathBuf,
    pub source_http: Url,
    pub backfill: Backfill,
}

/// Where to look for repositories, and which.
#[derive(Clone, Debug)]
pub struct Backfill {
    /// Whether it is asked for.
    pub is_wanted: bool,
    pub directory: Url,
    pub collections: Vec<Nsid>,
}

/// Whether there is nothing to do.
#[derive(Debug, Default)]
pub struct Idleness {
    /// The RepositoriesActor was called and has not come yet.
    is_called: AtomicBool,
    /// No repository is due, and nobody is at one.
    is_settled: AtomicBool,
    /// No repositories are being looked for.
    is_found: AtomicBool,
}

impl Idleness {
    /// Whether nothing is due and nothing is being looked for.
    pub fn is_idle(&self) -> bool {
        self.is_settled.load(Ordering::Acquire) && self.is_found.load(Ordering::Acquire)
    }

    fn set_found(&self, is_found: bool) {
        self.is_found.store(is_found, Ordering::Release);
    }
}

impl Repositories {
    pub fn new(parts: Parts, processor: Arc<Processor>, budget: Arc<Budget>) -> Arc<Self> {
        let Parts {
            verification,
            hosts,
            store,
            folder,
            source_http,
            backfill,
        } = parts;
        Arc::new(Self {
            metrics: processor.metrics.clone(),
            processor,
            verification,
            hosts,
            store,
            host_limiters: HostLimiters::default(),
            log: JobLog::default(),
            folder,
            source_http,
            address: Address::default(),
            backfill,
            idleness: Idleness::default(),
            budget,
        })
    }

    fn interest(&self) -> &Arc<Interest> {
        &self.processor.rules.interest
    }

    /// Says that a repository waits for somebody to see to it. Saying it again before anybody has come
    /// does nothing more.
    pub(crate) fn wake(&self) {
        self.idleness.is_settled.store(false, Ordering::Release);
        let is_called = self.idleness.is_called.swap(true, Ordering::AcqRel);
        if !is_called && self.address.cast(RepositoriesMessage::Wake).is_err() {
            // Nobody is there; the successor looks when it starts.
            self.idleness.is_called.store(false, Ordering::Release);
        }
    }
}

/// When to try again what was tried so often in vain, and not before `asked_for`.
fn retry_at(attempts: u32, asked_for: Option<Duration>) -> Timestamp {
    let doubled = RETRY_MIN
        .saturating_mul(1 << attempts.min(20))
        .min(RETRY_MAX);
    let jittered = doubled.mul_f64(1.0 + RETRY_JITTER * fastrand::f64());
    let delay = jittered.max(asked_for.unwrap_or_default());
    SignedDuration::try_from(delay)
        .ok()
        .and_then(|delay| Timestamp::now().checked_add(delay).ok())
        .unwrap_or(Timestamp::MAX)
}
