//! A running look-up: it waits for its turn, asks, and judges the answer.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

use super::{Answer, Entry, Shared};
use crate::atproto::syntax::Did;
use crate::identity::directory::{Consequence, DOUBTED_FOR};
use crate::identity::locate::is_plc;
use crate::identity::resolve::{ResolveError, Unavailable};
use crate::net::request_limiter::Permit;
use crate::net::slots::{Rank, Urgency};

/// How often a look-up that waits for its turn checks whether a long pause has begun. A probe gives
/// callers so much of a head start.
const PAUSE_CHECK: Duration = Duration::from_secs(1);

/// A running look-up, and the callers that wait for it.
pub(super) struct LookUp {
    pub(super) sender: watch::Sender<Option<Answer>>,
    pub(super) is_refresh: bool,
    pub(super) started_at: Instant,
    pub(super) queued: Mutex<Queued>,
    /// Notified when its rank rises.
    pub(super) raised: Notify,
}

/// What decides about the place of a look-up in the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queued {
    pub(super) urgency: Urgency,
    /// The number of commits that are expected to need the answer.
    pub(super) commits: u64,
}

impl Shared {
    /// Starts a look-up.
    pub(super) fn start(
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

impl LookUp {
    pub(super) fn rank(&self) -> Rank {
        let queued = *self.queued();
        Rank::new(queued.urgency, queued.commits)
    }

    /// Moves the look-up forward in the queue, if this is more urgent, or more commits wait for it.
    pub(super) fn raise(&self, urgency: Urgency, commits: u64) {
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

    pub(super) fn queued(&self) -> MutexGuard<'_, Queued> {
        // Every state of it is valid by itself.
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
