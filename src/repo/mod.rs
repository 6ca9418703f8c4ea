//! Repositories as a whole: resync, recheck, replay of parked commits, discovery.
//!
//! All work that is due is in the tables, so the actors here may die at any time: their successors
//! continue it.

mod account_status;
mod actor;
pub mod backfill;
mod backfill_plan;
mod compare;
mod discovery;
mod fetch;
mod handle;
pub mod handles;
pub mod host;
mod host_limiter;
mod identities;
pub mod isolation;
mod job;
pub mod published_lexicon;
pub mod record_proof;
mod replay;
pub mod reprocess;
pub mod retry;
mod set_aside;
mod shares;
pub mod snapshot;
mod stream_start;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep_until};
use url::Url;

pub use self::actor::{RepositoriesActor, RepositoriesMessage};
pub use self::backfill_plan::{Backfill, Discovering, Summary};
use self::handles::HandleVerifier;
use self::host::Hosts;
pub use self::host_limiter::HostLimiters;
use self::host_limiter::NoSlot;
use self::identities::KeptIdentities;
use self::isolation::Isolation;
pub use self::job::JobLog;
use self::shares::Shares;
use self::stream_start::StreamStart;
use crate::actor::address::Address;
use crate::atproto::syntax::Did;
use crate::delivery::budget::Budget;
use crate::identity::HandleResolver;
use crate::net::host_clocks::HostClocks;
use crate::source::interest::Interest;
use crate::source::process::Processor;
use crate::source::process::verification::Verification;
use crate::store::StoreError;
use crate::store::handle_store::HandleStore;
use crate::store::identity_store::IdentityStore;
use crate::store::plan::effect::Effect;
use crate::store::repo_store::{RepoChange, RepoEvent, RepoStore};
use crate::telemetry::dead_letters::DeadLetterLog;
use crate::telemetry::metrics::Metrics;

/// The first delay before a failed job is retried. It doubles up to `RETRY_MAX`.
const RETRY_MIN: Duration = Duration::from_secs(2);
/// The same, if the host refused the request for now: it may do what was asked a moment later.
const REFUSED_RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(3600);
const RETRY_JITTER: f64 = 0.3;
/// Jobs that wait for servers are woken together if their times are no further apart.
const WAKE_UP_SPACING: Duration = Duration::from_millis(100);

/// What the jobs on repositories need.
pub struct Repositories {
    pub processor: Arc<Processor>,
    pub verification: Arc<Verification>,
    pub hosts: Arc<dyn Hosts>,
    pub host_clocks: Arc<HostClocks>,
    pub store: Arc<dyn RepoStore>,
    /// `None` if identities do not outlive the process.
    kept_identities: Option<KeptIdentities>,
    /// The request limits of each host.
    pub host_limiters: HostLimiters,
    /// The time that accounts and their hosts have taken.
    shares: Shares,
    pub log: JobLog,
    pub isolation: Isolation,
    pub dead_letters: DeadLetterLog,
    /// The folder for the spools of fetched repositories.
    pub folder: PathBuf,
    /// The source's URL over HTTP. It is asked if an account's own host gives no answer.
    pub source_http: Url,
    pub address: Address<RepositoriesMessage>,
    pub backfill: Backfill,
    /// An operator has paused the backfill.
    is_backfill_paused: AtomicBool,
    pub idleness: Idleness,
    pub stream_start: StreamStart,
    /// When the RepositoriesActor will be woken, for jobs that wait for a server.
    wake_ups: Mutex<BTreeSet<Instant>>,
    pub budget: Arc<Budget>,
    pub metrics: Metrics,
    /// Set if handles are verified.
    handles: OnceLock<Arc<HandleVerifier>>,
}

/// The parts of [`Repositories`].
pub struct Parts {
    pub verification: Arc<Verification>,
    pub hosts: Arc<dyn Hosts>,
    pub host_clocks: Arc<HostClocks>,
    pub store: Arc<dyn RepoStore>,
    /// `None` if identities are not to outlive the process.
    pub identity_store: Option<Arc<dyn IdentityStore>>,
    pub folder: PathBuf,
    pub source_http: Url,
    pub backfill: Backfill,
}

/// Whether the actors of this room have nothing to do.
#[derive(Debug, Default)]
pub struct Idleness {
    /// A wake message is on its way to the RepositoriesActor.
    is_wake_pending: AtomicBool,
    /// No job is due or running.
    has_no_jobs: AtomicBool,
    /// Replays wait for keys, and start when these are known.
    awaits_keys: AtomicBool,
    /// No discovery is running.
    is_discovered: AtomicBool,
}

impl Idleness {
    /// Whether no job is due or running, and no discovery is running.
    pub fn is_idle(&self) -> bool {
        self.has_no_jobs.load(Ordering::Acquire) && self.is_discovered.load(Ordering::Acquire)
    }

    fn set_discovered(&self, is_discovered: bool) {
        self.is_discovered.store(is_discovered, Ordering::Release);
    }
}

impl Repositories {
    pub fn new(parts: Parts, processor: Arc<Processor>, budget: Arc<Budget>) -> Arc<Self> {
        let Parts {
            verification,
            hosts,
            host_clocks,
            store,
            identity_store,
            folder,
            source_http,
            backfill,
        } = parts;
        let identities = &verification.identities;
        let kept_identities =
            identity_store.map(|store| KeptIdentities::new(identities.clone(), store));
        let repositories = Arc::new(Self {
            metrics: processor.metrics.clone(),
            processor,
            verification,
            hosts,
            host_clocks,
            store,
            kept_identities,
            host_limiters: HostLimiters::default(),
            shares: Shares::default(),
            log: JobLog::default(),
            isolation: Isolation::default(),
            dead_letters: DeadLetterLog::default(),
            folder,
            source_http,
            address: Address::default(),
            backfill,
            is_backfill_paused: AtomicBool::new(false),
            idleness: Idleness::default(),
            stream_start: StreamStart::waiting_since(Instant::now()),
            wake_ups: Mutex::default(),
            budget,
            handles: OnceLock::new(),
        });
        let waiting = Arc::downgrade(&repositories);
        repositories.verification.identities.on_expected(move || {
            if let Some(repositories) = waiting.upgrade() {
                repositories.note_key();
            }
        });
        repositories
    }

    /// Has the handles of accounts verified, once the actors run.
    pub fn verify_handles(&self, store: Arc<dyn HandleStore>, resolver: HandleResolver) {
        let identities = self.verification.identities.clone();
        let verifier = HandleVerifier {
            store,
            identities,
            resolver,
        };
        // It is called once, before the actors start.
        let _set = self.handles.set(Arc::new(verifier));
    }

    /// What verifies handles, if they are verified.
    pub fn handles(&self) -> Option<Arc<HandleVerifier>> {
        self.handles.get().cloned()
    }

    /// Wakes the RepositoriesActor soon if a replay waits for a key, because one may have come.
    fn note_key(&self) {
        if self.idleness.awaits_keys.load(Ordering::Acquire) {
            self.wake_after(WAKE_UP_SPACING);
        }
    }

    /// Pauses or resumes the searches for repositories, and the fetches of those whose past is wanted.
    pub fn pause_backfill(&self, is_paused: bool) {
        let was_paused = self.is_backfill_paused.swap(is_paused, Ordering::AcqRel);
        if was_paused && !is_paused {
            self.wake();
        }
    }

    fn is_backfill_paused(&self) -> bool {
        self.is_backfill_paused.load(Ordering::Acquire)
    }

    /// Takes the identities of earlier runs from the database.
    pub async fn restore_identities(&self) {
        if let Some(kept) = &self.kept_identities {
            kept.restore().await;
        }
    }

    /// Whether identities outlive the process.
    pub fn keeps_identities(&self) -> bool {
        self.kept_identities.is_some()
    }

    /// Writes the identities that were looked up since the last call to the database.
    ///
    /// # Errors
    /// If the database takes nothing. They are written with the next call.
    pub async fn save_identities(&self) -> Result<(), StoreError> {
        match &self.kept_identities {
            Some(kept) => kept.save().await,
            None => Ok(()),
        }
    }

    fn interest(&self) -> &Arc<Interest> {
        &self.processor.rules.interest
    }

    /// Applies an event of a repository to its state in the tables.
    async fn note(&self, did: &Did, event: RepoEvent<'_>) -> Result<(), StoreError> {
        self.store.change(RepoChange::Repo { did, event }).await?;
        Ok(())
    }

    /// Counts and logs the dead letters of `effects`, which are written.
    fn note_dead_letters(&self, effects: &[Effect]) {
        self.dead_letters.note_all(&self.metrics, effects);
    }

    /// Wakes the RepositoriesActor after this time, when jobs that wait for a server are due.
    fn wake_after(&self, wait: Duration) {
        let at = Instant::now() + wait;
        {
            let mut wake_ups = self.wake_ups.lock().unwrap_or_else(PoisonError::into_inner);
            wake_ups.retain(|planned| *planned > Instant::now());
            // One that is a moment later serves as well.
            if wake_ups.range(at..=at + WAKE_UP_SPACING).next().is_some() {
                return;
            }
            wake_ups.insert(at);
        }
        let address = self.address.clone();
        tokio::spawn(async move {
            sleep_until(at).await;
            // If the actor is down, its successor looks for jobs when it starts.
            let _unsent = address.cast(RepositoriesMessage::Wake);
        });
    }

    /// Wakes the RepositoriesActor, because a job may be due. Several calls before it reads the
    /// message count as one.
    pub(crate) fn wake(&self) {
        self.idleness.has_no_jobs.store(false, Ordering::Release);
        let is_wake_pending = self.idleness.is_wake_pending.swap(true, Ordering::AcqRel);
        if !is_wake_pending && self.address.cast(RepositoriesMessage::Wake).is_err() {
            // The actor is down; its successor looks for jobs when it starts.
            self.idleness
                .is_wake_pending
                .store(false, Ordering::Release);
        }
    }
}

/// Returns the time of the next attempt after this many failed ones, but not before `asked_for` has
/// passed.
fn retry_at(attempts: u32, asked_for: Option<Duration>) -> Timestamp {
    in_future(retry_delay(RETRY_MIN, attempts, asked_for))
}

/// The delay before the next attempt: `first` after the first failed one, doubled after each.
fn retry_delay(first: Duration, attempts: u32, asked_for: Option<Duration>) -> Duration {
    let doubled = first.saturating_mul(1 << attempts.min(20)).min(RETRY_MAX);
    let jittered = doubled.mul_f64(1.0 + RETRY_JITTER * fastrand::f64());
    jittered.max(asked_for.unwrap_or_default())
}

/// The time after `delay`.
fn in_future(delay: Duration) -> Timestamp {
    SignedDuration::try_from(delay)
        .ok()
        .and_then(|delay| Timestamp::now().checked_add(delay).ok())
        .unwrap_or(Timestamp::MAX)
}
