//! A bounded cache of identities, with limits on how often they are looked up.

mod entry;
mod expected;
mod limits;
mod look_up;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashlink::LruCache;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

pub(super) use self::entry::{Answered, Entry};
use self::expected::Expected;
pub use self::limits::Limits;
use self::look_up::Queued;
use super::breaker::DirectoryFault;
use super::directory::Directory;
use super::document::Identity;
use super::locate::is_plc;
use super::overdue::Overdue;
use super::persistence::Unsaved;
use super::resolve::{Resolve, ResolveError, Unavailable};
use crate::atproto::syntax::Did;
use crate::net::pace::Rate;
use crate::net::request_limiter::RequestLimiter;
use crate::net::slots::Urgency;

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
}
