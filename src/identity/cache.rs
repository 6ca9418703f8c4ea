//! A bounded cache of identities, with limits on how often they are looked up.

mod expected;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use hashlink::LruCache;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use self::expected::Expected;
use super::allowance::Allowance;
use super::breaker::DirectoryFault;
use super::directory::{Consequence, DOUBTED_FOR, Directory};
use super::document::Identity;
use super::locate::is_plc;
use super::overdue::Overdue;
use super::persistence::Unsaved;
use super::resolve::{Resolve, ResolveError, Unavailable};
use crate::atproto::syntax::Did;
use crate::net::pace::Rate;
use crate::net::request_limiter::{Permit, RequestLimiter};
use crate::net::slots::{Rank, Urgency};

/// How often a look-up that waits for its turn checks whether a long pause has begun. A probe gives
/// callers so much of a head start.
const PAUSE_CHECK: Duration = Duration::from_secs(1);

/// A DID that was not looked up for so long comes first.
const FIRST_AGAIN_AFTER: Duration = Duration::from_secs(60);

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
    /// Concurrent requests to the PLC directory.
    pub plc_in_flight: usize,
    /// Requests a second to the PLC directory, as the operator wants it. `None` means the courtesy
    /// rate: `per_second`, rising to `most_per_second` while the directory answers.
    pub plc_per_second: Option<u32>,
    /// Concurrent requests to all other hosts together.
    pub in_flight: usize,
    /// Requests a second in the long run, to the PLC directory and to all other hosts.
    pub per_second: u32,
    /// The rate to which requests to the PLC directory rise while it answers. The rate of the others
    /// stays, because outsiders choose the hosts.
    pub most_per_second: u32,
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
pub struct Identities {
    pub(super) shared: Arc<Shared>,
    /// No commit waits for what this clone is asked.
    is_in_background: bool,
}

pub(super) struct Shared {
    resolver: Box<dyn Resolve>,
    pub(super) limits: Limits,
    entries: Mutex<LruCache<Did, Entry>>,
    /// Separate from the limiter for other hosts, because outsiders can name slow hosts, and these
    /// must not delay requests to the PLC directory.
    plc: Directory,
    hosts: RequestLimiter,
    /// Whether a task looks up a DID that had a document, to see whether the directory works.
    is_probing: AtomicBool,
    expected: Expected,
    pub(super) overdue: Overdue,
    pub(super) unsaved: Mutex<Unsaved>,
}

/// The cached state of one DID.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) answer: Option<Answered>,
    /// When the look-up began that found it.
    asked_at: Option<Instant>,
    failure: Option<Failure>,
    refreshed: Option<Instant>,
    look_up: Option<Arc<LookUp>>,
    /// It is kept when the rest is forgotten.
    allowance: Allowance,
    /// It had a document, so it exists, whatever a server says.
    pub(super) had_document: bool,
    /// Since when its server says that there is no such DID.
    missing_since: Option<Instant>,
    /// It waits for a refresh that no commit waits for.
    pub(super) is_overdue: bool,
}

/// The last definite answer.
pub(super) struct Answered {
    pub(super) answer: Answer,
    /// Until when it is valid.
    pub(super) until: Instant,
    pub(super) at: Timestamp,
}

/// Consecutive look-ups without an answer.
struct Failure {
    error: ResolveError,
    count: u32,
    /// When the first of them ended.
    since: Instant,
    retry: Instant,
}

/// A running look-up, and the callers that wait for it.
struct LookUp {
    sender: watch::Sender<Option<Answer>>,
    is_refresh: bool,
    started_at: Instant,
    queued: Mutex<Queued>,
    /// Notified when its rank rises.
    raised: Notify,
}

/// What decides about the place of a look-up in the queue.
#[derive(Clone, Copy, Debug)]
struct Queued {
    urgency: Urgency,
    /// The number of commits that are expected to need the answer.
    commits: u64,
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
            plc_in_flight: 16,
            plc_per_second: None,
            in_flight: 16,
            per_second: 20,
            most_per_second: 100,
            burst: 50,
            timeout: Duration::from_secs(30),
        }
    }
}

// === impl Identities ===

impl Identities {
    pub fn new(resolver: impl Resolve, limits: Limits) -> Self {
        let fixed = Rate::fixed(limits.per_second, limits.burst);
        let shared = Arc::new(Shared {
            resolver: Box::new(resolver),
            limits,
            entries: Mutex::new(LruCache::new(limits.capacity)),
            plc: Directory::new(limits.plc_in_flight, limits.plc_rate()),
            hosts: RequestLimiter::new(limits.in_flight, fixed),
            is_probing: AtomicBool::new(false),
            expected: Expected::default(),
            overdue: Overdue::default(),
            unsaved: Mutex::default(),
        });
        Self {
            shared,
            is_in_background: false,
        }
    }

    /// The same cache for questions for which no commit waits. Their look-ups come after those that
    /// commits wait for.
    pub fn in_background(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            is_in_background: true,
        }
    }

    /// The identity of `did`, from the cache or from a look-up.
    ///
    /// # Errors
    /// Unknown identities ([`ResolveError::is_unknown`]) are temporary errors. The cache returns
    /// the same error again until the delay before the next look-up is over.
    pub async fn get(&self, did: &Did) -> Answer {
        let receiver = {
            let mut entries = self.shared.entries();
            let entry = entry_of(&mut entries, did);
            if let Some(answer) = entry.answer_at(Instant::now()) {
                return answer;
            }
            self.join(did, entry, false)?
        };
        self.answer(receiver).await
    }

    /// The cached answer for `did`, without waiting for a look-up; `None` if there is none.
    ///
    /// An identity that is no longer valid is used all the same, and refreshed in the background: a
    /// new key shows in a signature that does not fit. The answer that there is no identity is used
    /// only as long as it is valid.
    pub fn known(&self, did: &Did) -> Option<Known> {
        let mut entries = self.shared.entries();
        let entry = entries.get_mut(did)?;
        let now = Instant::now();
        let answered = entry.answer.as_ref()?;
        let is_valid = now < answered.until;
        if !is_valid && answered.answer.is_err() {
            return None;
        }
        let known = Known {
            answer: answered.answer.clone(),
            was_refreshed: entry.was_refreshed(now, &self.shared.limits),
        };
        if !is_valid && self.may_look_up(did, entry, now) && !entry.is_overdue {
            entry.is_overdue = self.refresh_behind(did);
        }
        Some(known)
    }

    /// Whether nothing speaks against a look-up now.
    pub(super) fn may_look_up(&self, did: &Did, entry: &Entry, now: Instant) -> bool {
        let is_paused = is_plc(did) && self.shared.plc.long_pause().is_some();
        !is_paused && entry.look_up.is_none() && entry.wait(now).is_none_or(|rest| rest.is_zero())
    }

    /// Looks `did` up again, because the cached identity does not fit a signature. `None` if it was
    /// refreshed a short while ago, so the cached answer is still current.
    ///
    /// # Errors
    /// As in [`Self::get`]. After an unknown answer the cached identity stays.
    pub async fn refresh(&self, did: &Did) -> Result<Option<Arc<Identity>>, ResolveError> {
        let was_refreshed = {
            let mut entries = self.shared.entries();
            let entry = entry_of(&mut entries, did);
            let now = Instant::now();
            entry.failure_at(now).is_none() && entry.was_refreshed(now, &self.shared.limits)
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
            let mut entries = self.shared.entries();
            let entry = entry_of(&mut entries, did);
            if let Some(error) = entry.failure_at(Instant::now()) {
                return Err(error);
            }
            self.join(did, entry, true)?
        };
        self.answer(receiver).await
    }

    /// How long `did` will not be looked up: its server or the directory refuses requests for now,
    /// the last look-up failed a short while ago, or there were too many. `None` means that it may
    /// be.
    pub fn wait(&self, did: &Did) -> Option<Duration> {
        let now = Instant::now();
        let of_did = {
            let entries = self.shared.entries();
            entries.peek(did).and_then(|entry| entry.wait(now))
        };
        let of_directory = is_plc(did).then(|| self.shared.plc.long_pause()).flatten();
        of_did.max(of_directory).filter(|rest| !rest.is_zero())
    }

    /// Notes that `did` had a document in an earlier run, since commits of it were verified.
    pub fn assume_document(&self, did: &Did) {
        entry_of(&mut self.shared.entries(), did).had_document = true;
    }

    /// The number of DIDs that are kept.
    pub fn capacity(&self) -> usize {
        self.shared.limits.capacity
    }

    /// The PLC directory, for people.
    pub fn directory(&self) -> String {
        self.shared.resolver.directory()
    }

    /// Why the PLC directory counts as not working; `None` if it works.
    pub fn directory_fault(&self) -> Option<DirectoryFault> {
        self.shared.plc.fault()
    }

    /// Removes the answer for `did` from the cache, because its identity has changed. A running
    /// look-up may return the old state; only the callers that already wait for it get that answer.
    /// How often it was looked up is kept, because the account itself causes the events.
    pub fn forget(&self, did: &Did) {
        Self::remove(&mut self.shared.entries(), did);
    }

    /// Like [`Self::forget`], because of an event that arrived at `event_at`. An answer whose look-up
    /// began later has the change.
    pub fn forget_before(&self, did: &Did, event_at: Instant) {
        let mut entries = self.shared.entries();
        let Some(entry) = entries.peek_mut(did) else {
            return;
        };
        let look_up = entry.look_up.as_ref();
        if look_up.is_some_and(|look_up| look_up.started_at > event_at) {
            entry.answer = None;
        } else if entry.asked_at.is_none_or(|asked_at| asked_at <= event_at) {
            Self::remove(&mut entries, did);
        }
    }

    fn remove(entries: &mut LruCache<Did, Entry>, did: &Did) {
        if let Some(entry) = entries.remove(did) {
            let kept = Entry {
                allowance: entry.allowance,
                had_document: entry.had_document,
                missing_since: entry.missing_since,
                ..Entry::default()
            };
            entries.insert(did.clone(), kept);
        }
    }

    /// Allows every DID to be refreshed again, because an unknown set of them has changed. Cached
    /// identities stay until one does not fit a signature.
    pub fn expire_all(&self) {
        for (_, entry) in self.shared.entries().iter_mut() {
            entry.refreshed = None;
        }
    }

    /// Joins the running look-up, or starts one.
    pub(super) fn join(
        &self,
        did: &Did,
        entry: &mut Entry,
        is_refresh: bool,
    ) -> Result<watch::Receiver<Option<Answer>>, ResolveError> {
        let now = Instant::now();
        let urgency = match self.is_in_background {
            true => Urgency::Background,
            false if entry.allowance.is_recent(now, FIRST_AGAIN_AFTER) => Urgency::Awaited,
            false => Urgency::First,
        };
        if let Some(look_up) = &entry.look_up {
            look_up.raise(urgency, 0);
            return Ok(look_up.sender.subscribe());
        }
        if let Some(rest) = entry.allowance.wait(now) {
            return Err(Unavailable::TooOften(rest).into());
        }
        entry.allowance.spend(now);
        let queued = Queued {
            urgency,
            commits: 0,
        };
        Ok(self.shared.start(did, entry, is_refresh, queued))
    }

    async fn answer(&self, mut receiver: watch::Receiver<Option<Answer>>) -> Answer {
        let sender = receiver.wait_for(Option::is_some);
        match timeout(self.shared.limits.timeout, sender).await {
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
    pub(super) fn entries(&self) -> MutexGuard<'_, LruCache<Did, Entry>> {
        // No code under the lock can panic between two changes that belong together.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a look-up.
    fn start(
        self: &Arc<Self>,
        did: &Did,
        entry: &mut Entry,
        is_refresh: bool,
        queued: Queued,
    ) -> watch::Receiver<Option<Answer>> {
        let (sender, receiver) = watch::channel(None);
        let look_up = Arc::new(LookUp {
            sender,
            is_refresh,
            started_at: Instant::now(),
            queued: Mutex::new(queued),
            raised: Notify::new(),
        });
        entry.look_up = Some(Arc::clone(&look_up));
        tokio::spawn(Arc::clone(self).run_look_up(did.clone(), look_up));
        receiver
    }

    async fn run_look_up(self: Arc<Self>, did: Did, look_up: Arc<LookUp>) {
        let is_plc = is_plc(&did);
        let limiter = if is_plc {
            &self.plc.limiter
        } else {
            &self.hosts
        };
        let mut enter = Box::pin(limiter.enter_as(look_up.rank()));
        let permit = loop {
            if let Some(rest) = self.plc.long_pause().filter(|_| is_plc) {
                let paused = Err(Unavailable::Paused(rest).into());
                return self.finish_look_up(&did, &look_up, paused);
            }
            // A look-up without waiting callers is cancelled, so no queue builds up.
            tokio::select! {
                permit = &mut enter => break permit,
                () = sleep(PAUSE_CHECK) => {}
                () = look_up.raised.notified() => {
                    enter = Box::pin(limiter.enter_as(look_up.rank()));
                }
                () = look_up.sender.closed() => {
                    if self.is_abandoned(&did, &look_up) {
                        return;
                    }
                }
            }
        };
        let answer = self.ask(&did, &permit).await;
        self.finish_look_up(&did, &look_up, answer);
    }

    /// Asks the resolver, and notes what the answer says about the directory.
    async fn ask(self: &Arc<Self>, did: &Did, permit: &Permit<'_>) -> Answer {
        let answer = AssertUnwindSafe(self.resolver.resolve(did))
            .catch_unwind()
            .await
            .unwrap_or(Err(Unavailable::Interrupted.into()));
        if !is_plc(did) {
            return answer.map(Arc::new);
        }
        let had_document = {
            let entries = self.entries();
            entries.peek(did).is_some_and(|entry| entry.had_document)
        };
        match self.plc.note(did, had_document, &answer, permit) {
            Consequence::Nothing => {}
            Consequence::AskControl(control) => self.probe(control),
            Consequence::Recovered => {
                for (_, entry) in self.entries().iter_mut() {
                    entry.failure = None;
                }
            }
        }
        answer.map(Arc::new)
    }

    /// Looks up a DID that had a document until the directory has it, unless a task does so already.
    /// Look-ups of other DIDs also show that the directory works; but these may not exist.
    fn probe(self: &Arc<Self>, control: Did) {
        if self.is_probing.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(shared) = shared.upgrade() {
                let permit = shared.plc.limiter.enter().await;
                // Only what it says about the directory is of interest.
                let _answer = shared.ask(&control, &permit).await;
                drop(permit);
                if !shared.plc.is_open() {
                    shared.is_probing.store(false, Ordering::Release);
                    return;
                }
                // The callers that wait for the end of the pause come first.
                let rest = shared.plc.limiter.paused_for().unwrap_or_default();
                drop(shared);
                sleep(rest + PAUSE_CHECK).await;
            }
        });
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
            entry.allowance.refund();
        }
        true
    }

    fn finish_look_up(&self, did: &Did, look_up: &Arc<LookUp>, answer: Answer) {
        let answer = {
            let mut entries = self.entries();
            // Unless the entry was removed meanwhile.
            let entry = entries.peek_mut(did).filter(|entry| entry.awaits(look_up));
            match entry {
                Some(entry) => {
                    entry.look_up = None;
                    if answer.as_ref().is_err_and(ResolveError::is_not_asked) {
                        entry.allowance.refund();
                    }
                    let answer = self.judge(did, entry, answer);
                    if entry.learn(&answer, look_up, &self.limits) {
                        self.unsaved().note(did, self.limits.capacity);
                    }
                    answer
                }
                None => self.judge(did, &mut Entry::default(), answer),
            }
        };
        look_up.sender.send_replace(Some(answer));
    }

    /// The answer as far as it is believed. A DID that had a document is not gone because its server
    /// says so, and one that is not known yet is not refused by an answer that may be a mistake.
    fn judge(&self, did: &Did, entry: &mut Entry, answer: Answer) -> Answer {
        let now = Instant::now();
        let is_believed = match &answer {
            Ok(_) => {
                entry.had_document = true;
                entry.missing_since = None;
                true
            }
            Err(ResolveError::NotFound) => {
                let missing_since = *entry.missing_since.get_or_insert(now);
                let is_missing = match is_plc(did) {
                    true => self.plc.is_believed_missing(missing_since, now),
                    false => now.duration_since(missing_since) >= DOUBTED_FOR,
                };
                is_missing && !entry.had_document
            }
            Err(ResolveError::Tombstoned) => self.plc.is_believed_tombstoned(now),
            Err(ResolveError::Invalid(_)) => {
                entry.missing_since = None;
                true
            }
            Err(ResolveError::Unavailable(_)) => true,
        };
        match is_believed {
            true => answer,
            false => Err(Unavailable::Missing.into()),
        }
    }
}

// === impl LookUp ===

impl LookUp {
    fn rank(&self) -> Rank {
        let queued = *self.queued();
        Rank::new(queued.urgency, queued.commits)
    }

    /// Moves the look-up forward in the queue, if this is more urgent, or more commits wait for it.
    fn raise(&self, urgency: Urgency, commits: u64) {
        let before = self.rank();
        {
            let mut queued = self.queued();
            queued.urgency = queued.urgency.min(urgency);
            queued.commits = queued.commits.saturating_add(commits);
        }
        if self.rank() < before {
            self.raised.notify_one();
        }
    }

    fn queued(&self) -> MutexGuard<'_, Queued> {
        // Every state of it is valid by itself.
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Entry ===

impl Entry {
    /// An answer that needs no look-up.
    /// Whether [`Identities::known`] has an answer without a look-up.
    fn is_known(&self, now: Instant) -> bool {
        let answered = self.answer.as_ref();
        answered.is_some_and(|answered| answered.answer.is_ok() || now < answered.until)
    }

    fn answer_at(&self, now: Instant) -> Option<Answer> {
        let known = self.answer.as_ref();
        let known = known.filter(|answered| now < answered.until);
        let answer = known.map(|answered| answered.answer.clone());
        answer.or_else(|| self.failure_at(now).map(Err))
    }

    /// How long no look-up is made, because the last one failed or there were too many.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let of_failure = self.failure.as_ref();
        let of_failure = of_failure.map(|failure| failure.retry.saturating_duration_since(now));
        of_failure.max(self.allowance.wait(now))
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

    /// Takes note of an answer. Returns whether it is definite.
    fn learn(&mut self, answer: &Answer, look_up: &LookUp, limits: &Limits) -> bool {
        let now = Instant::now();
        if answer.as_ref().is_err_and(ResolveError::is_not_asked) {
            return false;
        }
        if let Err(error) = answer
            && error.is_unknown()
        {
            let count = self.failure.as_ref().map_or(0, |failure| failure.count);
            let since = self.failure.as_ref().map_or(now, |failure| failure.since);
            self.failure = Some(Failure {
                error: error.clone(),
                count: count.saturating_add(1),
                since,
                retry: now + limits.retry_delay(count, error.retry_after()),
            });
            return false;
        }
        let good_for = match answer {
            Ok(_) => limits.good_for,
            Err(_) => limits.bad_for,
        };
        self.failure = None;
        self.answer = Some(Answered {
            answer: answer.clone(),
            until: now + good_for,
            at: Timestamp::now(),
        });
        self.asked_at = Some(look_up.started_at);
        if look_up.is_refresh {
            self.refreshed = Some(now);
        }
        true
    }
}

// === impl Limits ===

impl Limits {
    /// The rate of requests to the PLC directory. It falls where the directory refuses requests, also
    /// if an operator has set it.
    fn plc_rate(&self) -> Rate {
        let (initial, most) = match self.plc_per_second {
            Some(rate) => (rate, rate),
            None => (self.per_second, self.most_per_second.max(self.per_second)),
        };
        Rate {
            initial,
            least: 1,
            most,
            burst: self.burst.min(most),
        }
    }

    /// The delay before the next look-up after `before` earlier failures.
    fn retry_delay(&self, before: u32, asked_for: Option<Duration>) -> Duration {
        let doubled = self.retry_min.saturating_mul(1 << before.min(16));
        doubled
            .min(self.retry_max)
            .max(asked_for.unwrap_or_default())
    }
}
