//! What is known of identities, for how long, and who is asked how often.

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

/// An answer that needed no asking.
#[derive(Clone, Debug)]
pub struct Known {
    pub answer: Answer,
    /// It was looked up anew a short while ago, so there is no use in doing that again.
    pub was_refreshed: bool,
}

/// The bounds of [`Identities`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// DIDs; beyond it the least recently used one is forgotten.
    pub capacity: usize,
    /// How long an identity is believed, unless an event or a bad signature speaks against it.
    pub good_for: Duration,
    /// How long it is believed that there is none.
    pub bad_for: Duration,
    /// How soon a DID of which nothing could be found out is asked for again; it doubles from there.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// A DID is refreshed at most once in so long.
    pub refresh_interval: Duration,
    /// Requests under way at once, to the PLC directory and to all other hosts, each.
    pub in_flight: usize,
    /// Requests in the long run, to each of the two.
    pub per_second: u32,
    /// Requests at once after a pause, to each of the two.
    pub burst: u32,
    /// How long one waits for an answer before it counts as unknown. The request goes on.
    pub patience: Duration,
}

/// The identities of accounts, looked up once and kept for a while.
///
/// Clones are the same cache. A look-up is a task of its own: whoever asks meanwhile waits for the
/// same answer, and may stop waiting without harm to the others.
#[derive(Clone)]
pub struct Identities(Arc<Shared>);

struct Shared {
    resolver: Box<dyn Resolve>,
    limits: Limits,
    entries: Mutex<LruCache<Did, Entry>>,
    /// Anybody can make up hosts that are slow, which must not keep the directory waiting.
    directory: RequestLimiter,
    hosts: RequestLimiter,
}

/// What is known of one DID.
#[derive(Default)]
struct Entry {
    /// The last answer that was one, and until when it holds.
    answer: Option<(Answer, Instant)>,
    trouble: Option<Trouble>,
    refreshed: Option<Instant>,
    flight: Option<Arc<Flight>>,
}

/// Nothing could be found out, several times in a row.
struct Trouble {
    error: ResolveError,
    count: u32,
    retry: Instant,
}

/// A look-up that is under way, and those who wait for it.
struct Flight {
    landed: watch::Sender<Option<Answer>>,
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
            patience: Duration::from_secs(30),
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
            directory: limiter(),
            hosts: limiter(),
        }))
    }

    /// The identity of `did`, as it is known or as it is found out now.
    ///
    /// # Errors
    /// Those that are unknown ([`ResolveError::is_unknown`]) pass by; asked again too soon, the
    /// cache repeats them.
    pub async fn get(&self, did: &Did) -> Answer {
        let landing = {
            let mut entries = self.0.entries();
            let entry = entry_of(&mut entries, did);
            if let Some(answer) = entry.answer_at(Instant::now()) {
                return answer;
            }
            self.0.join(did, entry, false)
        };
        self.wait(landing).await
    }

    /// What is known of `did` without asking anybody; `None` where nothing is, or no longer.
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

    /// Looks `did` up anew, because what is known does not fit what was signed. `None` where that
    /// was done a short while ago, so that what is known is all there is to know.
    ///
    /// # Errors
    /// As in [`Self::get`]. What was known stays known while nothing else is.
    pub async fn refresh(&self, did: &Did) -> Result<Option<Arc<Identity>>, ResolveError> {
        let was_refreshed = {
            let mut entries = self.0.entries();
            let entry = entry_of(&mut entries, did);
            let now = Instant::now();
            entry.trouble_at(now).is_none() && entry.was_refreshed(now, &self.0.limits)
        };
        match was_refreshed {
            true => Ok(None),
            false => self.look_up(did).await.map(Some),
        }
    }

    /// Looks `did` up anew, however short a while ago that was done.
    ///
    /// # Errors
    /// As in [`Self::get`]. What was known stays known while nothing else is.
    pub async fn look_up(&self, did: &Did) -> Answer {
        let landing = {
            let mut entries = self.0.entries();
            let entry = entry_of(&mut entries, did);
            if let Some(error) = entry.trouble_at(Instant::now()) {
                return Err(error);
            }
            self.0.join(did, entry, true)
        };
        self.wait(landing).await
    }

    /// Drops what is known of `did`, because it has changed. A look-up that is under way may have
    /// seen the old state: those who wait for it get it, and nobody else.
    pub fn forget(&self, did: &Did) {
        self.0.entries().remove(did);
    }

    /// Lets every DID be refreshed again, because nobody knows what has changed. What is known is kept
    /// until it is found not to fit.
    pub fn expire_all(&self) {
        for (_, entry) in self.0.entries().iter_mut() {
            entry.refreshed = None;
        }
    }

    async fn wait(&self, mut landing: watch::Receiver<Option<Answer>>) -> Answer {
        let landed = landing.wait_for(Option::is_some);
        match timeout(self.0.limits.patience, landed).await {
            Ok(landed) => landed
                .ok()
                .and_then(|answer| answer.clone())
                .unwrap_or(Err(Unavailable::Interrupted.into())),
            Err(_) => Err(Unavailable::Busy.into()),
        }
    }
}

/// The entry of `did`, which is now the one most recently used.
fn entry_of<'a>(entries: &'a mut LruCache<Did, Entry>, did: &Did) -> &'a mut Entry {
    entries.entry(did.clone()).or_insert_with(Entry::default)
}

// === impl Shared ===

impl Shared {
    fn entries(&self) -> MutexGuard<'_, LruCache<Did, Entry>> {
        // Nothing panics between two changes that belong together.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the look-up that is under way, or begins one.
    fn join(
        self: &Arc<Self>,
        did: &Did,
        entry: &mut Entry,
        is_refresh: bool,
    ) -> watch::Receiver<Option<Answer>> {
        if let Some(flight) = &entry.flight {
            return flight.landed.subscribe();
        }
        let (landed, landing) = watch::channel(None);
        let flight = Arc::new(Flight { landed, is_refresh });
        entry.flight = Some(Arc::clone(&flight));
        tokio::spawn(Arc::clone(self).fly(did.clone(), flight));
        landing
    }

    async fn fly(self: Arc<Self>, did: Did, flight: Arc<Flight>) {
        let limiter = if is_plc(&did) {
            &self.directory
        } else {
            &self.hosts
        };
        let _turn = loop {
            // Those who have stopped waiting leave no queue behind.
            tokio::select! {
                turn = limiter.enter() => break turn,
                () = flight.landed.closed() => {
                    if self.is_abandoned(&did, &flight) {
                        return;
                    }
                }
            }
        };
        let answer = AssertUnwindSafe(self.resolver.resolve(&did))
            .catch_unwind()
            .await
            .unwrap_or(Err(Unavailable::Interrupted.into()));
        self.land(&did, &flight, answer.map(Arc::new));
    }

    /// Whether nobody waits any more. From then on nobody can join either.
    fn is_abandoned(&self, did: &Did, flight: &Arc<Flight>) -> bool {
        let mut entries = self.entries();
        if flight.landed.receiver_count() > 0 {
            return false;
        }
        if let Some(entry) = entries.peek_mut(did).filter(|entry| entry.awaits(flight)) {
            entry.flight = None;
        }
        true
    }

    fn land(&self, did: &Did, flight: &Arc<Flight>, answer: Answer) {
        {
            let mut entries = self.entries();
            // Unless it was forgotten meanwhile.
            if let Some(entry) = entries.peek_mut(did).filter(|entry| entry.awaits(flight)) {
                entry.flight = None;
                entry.learn(&answer, flight.is_refresh, &self.limits);
            }
        }
        flight.landed.send_replace(Some(answer));
    }
}

// === impl Entry ===

impl Entry {
    /// What need not be asked for.
    fn answer_at(&self, now: Instant) -> Option<Answer> {
        let known = self.answer.as_ref().filter(|(_, until)| now < *until);
        let answer = known.map(|(answer, _)| answer.clone());
        answer.or_else(|| self.trouble_at(now).map(Err))
    }

    /// Why it is not the time to ask.
    fn trouble_at(&self, now: Instant) -> Option<ResolveError> {
        let trouble = self.trouble.as_ref()?;
        (now < trouble.retry).then(|| trouble.error.clone())
    }

    fn was_refreshed(&self, now: Instant, limits: &Limits) -> bool {
        let is_recent = |at: Instant| now.duration_since(at) < limits.refresh_interval;
        self.refreshed.is_some_and(is_recent)
    }

    fn awaits(&self, flight: &Arc<Flight>) -> bool {
        let awaited = self.flight.as_ref();
        awaited.is_some_and(|awaited| Arc::ptr_eq(awaited, flight))
    }

    fn learn(&mut self, answer: &Answer, is_refresh: bool, limits: &Limits) {
        let now = Instant::now();
        if let Err(error) = answer
            && error.is_unknown()
        {
            let count = self.trouble.as_ref().map_or(0, |trouble| trouble.count);
            self.trouble = Some(Trouble {
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
        self.trouble = None;
        self.answer = Some((answer.clone(), now + good_for));
        if is_refresh {
            self.refreshed = Some(now);
        }
    }
}

// === impl Limits ===

impl Limits {
    /// How long to wait after so many failures before this one.
    fn retry_delay(&self, before: u32, asked_for: Option<Duration>) -> Duration {
        let doubled = self.retry_min.saturating_mul(1 << before.min(16));
        doubled
            .min(self.retry_max)
            .max(asked_for.unwrap_or_default())
    }
}
