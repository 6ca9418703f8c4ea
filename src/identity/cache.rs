//! A bounded cache of identities, with limits on how often they are looked up.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use hashlink::LruCache;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::document::Identity;
use super::locate::is_plc;
use super::resolve::{Resolve, ResolveError, Unavailable};
use crate::atproto::syntax::Did;
use crate::net::request_limiter::RequestLimiter;

/// An identity, or why there is none.
pub type Answer = Result<Arc<Identity>, ResolveError>;

/// An answer from the cache.
#[derive(Clone, Debug)]
pub struct Known {
    pub answer: Answer,
    /// It was refreshed a short while ago, so another look-up would not help.
    pub was_refreshed: bool,
}

/// The limits of [`Identities`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The number of cached DIDs. Beyond it, the least recently used one is dropped.
    pub capacity: usize,
    /// How long an identity is valid, unless an event or a signature error indicates a change.
    pub good_for: Duration,
    /// How long the answer is valid that a DID has no identity.
    pub bad_for: Duration,
    /// The first delay before an unanswered DID is looked up again. It doubles after each failure.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// The shortest time between two refreshes of a DID.
    pub refresh_interval: Duration,
    /// Concurrent requests: this many to the PLC plc, and this many to all other hosts
    /// together.
    pub in_flight: usize,
    /// Requests a second in the long run, for each of the two.
    pub per_second: u32,
    /// Requests at once after a pause, for each of the two.
    pub burst: u32,
    /// How long a caller waits for an answer before the identity counts as unknown. The request
    /// continues.
    pub timeout: Duration,
}

/// The cached identities of accounts.
///
/// Clones share the same cache. Each look-up is a task of its own: callers that ask meanwhile wait
/// for the same answer, and each may stop waiting without effect on the others.
#[derive(Clone)]
pub struct Identities(Arc<Shared>);

struct Shared {
    resolver: Box<dyn Resolve>,
    limits: Limits,
    entries: Mutex<LruCache<Did, Entry>>,
    /// Separate from the limiter for other hosts, because outsiders can name slow hosts, and these
    /// must not delay requests to the PLC plc.
    plc: RequestLimiter,
    hosts: RequestLimiter,
}

/// The cached state of one DID.
#[derive(Default)]
struct Entry {
    /// The last definite answer, and until when it is valid.
    answer: Option<(Answer, Instant)>,
    failure: Option<Failure>,
    refreshed: Option<Instant>,
    look_up: Option<Arc<LookUp>>,
}

/// Consecutive look-ups without an answer.
struct Failure {
    error: ResolveError,
    count: u32,
    retry: Instant,
}

/// A running look-up, and the callers that wait for it.
struct LookUp {
    sender: watch::Sender<Option<Answer>>,
    is_refresh: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            capacity: 100_000,
            good_for: Duration::from_secs(24 * 3600),
            bad_for: Duration::from_secs(5 * 60),
            retry_min: Duration::from_secs(2),
            retry_max: Duration::from_secs(5 * 60),
            refresh_interval: Duration::from_secs(5 * 60),
            in_flight: 16,
            per_second: 20,
            burst: 50,
            timeout: Duration::from_secs(30),
        }
    }
}

// === impl Identities ===

impl Identities {
    pub fn new(resolver: impl Resolve, limits: Limits) -> Self {
        let limiter = || RequestLimiter::new(limits.in_flight, limits.per_second, limits.burst);
        Self(Arc::new(Shared {
            resolver: Box::new(resolver),
            limits,
            entries: Mutex::new(LruCache::new(limits.capacity)),
            plc: limiter(),
            hosts: limiter(),
        }))
    }

    /// The identity of `did`, from the cache or from a look-up.
    ///
    /// # Errors
    /// Unknown identities ([`ResolveError::is_unknown`]) are temporary errors. The cache returns
    /// the same error again until the delay before the next look-up is over.
    pub async fn get(&self, did: &Did) -> Answer {
        let receiver = {
            let mut entries = self.0.entries();
            let entry = entry_of(&mut entries, did);
            if let Some(answer) = entry.answer_at(Instant::now()) {
                return answer;
            }
            self.0.join(did, entry, false)
        };
        self.wait(receiver).await
    }

    /// The cached answer for `did`, without a look-up; `None` if there is none that is valid.
    pub fn known(&self, did: &Did) -> Option<Known> {
        let mut entries = self.0.entries();
        let entry = entries.get(did)?;
        let now = Instant::now();
        let (answer, _) = entry.answer.as_ref().filter(|(_, until)| now < *until)?;
        Some(Known {
            answer: answer.clone(),
            was_refreshed: entry.was_refreshed(now, &self.0.limits),
        })
    }

    /// Looks `did` up again, because the cached identity does not fit a signature. `None` if it was
    /// refreshed a short while ago, so the cached answer is still current.
    ///
    /// # Errors
    /// As in [`Self::get`]. After an unknown answer the cached identity stays.
    pub async fn refresh(&self, did: &Did) -> Result<Option<Arc<Identity>>, ResolveError> {
        let was_refreshed = {
            let mut entries = self.0.entries();
            let entry = entry_of(&mut entries, did);
            let now = Instant::now();
            entry.failure_at(now).is_none() && entry.was_refreshed(now, &self.0.limits)
        };
        match was_refreshed {
            true => Ok(None),
            false => self.look_up(did).await.map(Some),
        }
    }

    /// Looks `did` up again, even if it was refreshed a short while ago.
    ///
    /// # Errors
    /// As in [`Self::get`]. After an unknown answer the cached identity stays.
    pub async fn look_up(&self, did: &Did) -> Answer {
        let receiver = {
            let mut entries = self.0.entries();
            let entry = entry_of(&mut entries, did);
            if let Some(error) = entry.failure_at(Instant::now()) {
                return Err(error);
            }
            self.0.join(did, entry, true)
        };
        self.wait(receiver).await
    }

    /// Removes `did` from the cache, because its identity has changed. A running look-up may return
    /// the old state; only the callers that already wait for it get that answer.
    pub fn forget(&self, did: &Did) {
        self.0.entries().remove(did);
    }

    /// Allows every DID to be refreshed again, because an unknown set of them has changed. Cached
    /// identities stay until one does not fit a signature.
    pub fn expire_all(&self) {
        for (_, entry) in self.0.entries().iter_mut() {
            entry.refreshed = None;
        }
    }

    async fn wait(&self, mut receiver: watch::Receiver<Option<Answer>>) -> Answer {
        let sender = receiver.wait_for(Option::is_some);
        match timeout(self.0.limits.timeout, sender).await {
            Ok(sender) => sender
                .ok()
                .and_then(|answer| answer.clone())
                .unwrap_or(Err(Unavailable::Interrupted.into())),
            Err(_) => Err(Unavailable::Busy.into()),
        }
    }
}

/// The entry of `did`, which becomes the most recently used one.
fn entry_of<'a>(entries: &'a mut LruCache<Did, Entry>, did: &Did) -> &'a mut Entry {
    entries.entry(did.clone()).or_insert_with(Entry::default)
}

// === impl Shared ===

impl Shared {
    fn entries(&self) -> MutexGuard<'_, LruCache<Did, Entry>> {
        // No code under the lock can panic between two changes that belong together.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the running look-up, or starts one.
    fn join(
        self: &Arc<Self>,
        did: &Did,
        entry: &mut Entry,
        is_refresh: bool,
    ) -> watch::Receiver<Option<Answer>> {
        if let Some(look_up) = &entry.look_up {
            return look_up.sender.subscribe();
        }
        let (sender, receiver) = watch::channel(None);
        let look_up = Arc::new(LookUp { sender, is_refresh });
        entry.look_up = Some(Arc::clone(&look_up));
        tokio::spawn(Arc::clone(self).run_look_up(did.clone(), look_up));
        receiver
    }

    async fn run_look_up(self: Arc<Self>, did: Did, look_up: Arc<LookUp>) {
        let limiter = if is_plc(&did) { &self.plc } else { &self.hosts };
        let _permit = loop {
            // A look-up without waiting callers is cancelled, so no queue builds up.
            tokio::select! {
                permit = limiter.enter() => break permit,
                () = look_up.sender.closed() => {
                    if self.is_abandoned(&did, &look_up) {
                        return;
                    }
                }
            }
        };
        let answer = AssertUnwindSafe(self.resolver.resolve(&did))
            .catch_unwind()
            .await
            .unwrap_or(Err(Unavailable::Interrupted.into()));
        self.finish_look_up(&did, &look_up, answer.map(Arc::new));
    }

    /// Whether no caller waits any more. If so, the look-up is removed, and no caller can join it
    /// afterwards.
    fn is_abandoned(&self, did: &Did, look_up: &Arc<LookUp>) -> bool {
        let mut entries = self.entries();
        if look_up.sender.receiver_count() > 0 {
            return false;
        }
        if let Some(entry) = entries.peek_mut(did).filter(|entry| entry.awaits(look_up)) {
            entry.look_up = None;
        }
        true
    }

    fn finish_look_up(&self, did: &Did, look_up: &Arc<LookUp>, answer: Answer) {
        {
            let mut entries = self.entries();
            // Unless the entry was removed meanwhile.
            if let Some(entry) = entries.peek_mut(did).filter(|entry| entry.awaits(look_up)) {
                entry.look_up = None;
                entry.learn(&answer, look_up.is_refresh, &self.limits);
            }
        }
        look_up.sender.send_replace(Some(answer));
    }
}

// === impl Entry ===

impl Entry {
    /// An answer that needs no look-up.
    fn answer_at(&self, now: Instant) -> Option<Answer> {
        let known = self.answer.as_ref().filter(|(_, until)| now < *until);
        let answer = known.map(|(answer, _)| answer.clone());
        answer.or_else(|| self.failure_at(now).map(Err))
    }

    /// The error of the last look-up, if it is too early for another one.
    fn failure_at(&self, now: Instant) -> Option<ResolveError> {
        let failure = self.failure.as_ref()?;
        (now < failure.retry).then(|| failure.error.clone())
    }

    fn was_refreshed(&self, now: Instant, limits: &Limits) -> bool {
        let is_recent = |at: Instant| now.duration_since(at) < limits.refresh_interval;
        self.refreshed.is_some_and(is_recent)
    }

    fn awaits(&self, look_up: &Arc<LookUp>) -> bool {
        let awaited = self.look_up.as_ref();
        awaited.is_some_and(|awaited| Arc::ptr_eq(awaited, look_up))
    }

    fn learn(&mut self, answer: &Answer, is_refresh: bool, limits: &Limits) {
        let now = Instant::now();
        if let Err(error) = answer
            && error.is_unknown()
        {
            let count = self.failure.as_ref().map_or(0, |failure| failure.count);
            self.failure = Some(Failure {
                error: error.clone(),
                count: count.saturating_add(1),
                retry: now + limits.retry_delay(count, error.retry_after()),
            });
            return;
        }
        let good_for = match answer {
            Ok(_) => limits.good_for,
            Err(_) => limits.bad_for,
        };
        self.failure = None;
        self.answer = Some((answer.clone(), now + good_for));
        if is_refresh {
            self.refreshed = Some(now);
        }
    }
}

// === impl Limits ===

impl Limits {
    /// The delay before the next look-up after `before` earlier failures.
    fn retry_delay(&self, before: u32, asked_for: Option<Duration>) -> Duration {
        let doubled = self.retry_min.saturating_mul(1 << before.min(16));
        doubled
            .min(self.retry_max)
            .max(asked_for.unwrap_or_default())
    }
}
