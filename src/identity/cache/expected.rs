//! Look-ups that begin as soon as a commit arrives, before it is verified.
//!
//! The stream waits a short time for such a look-up, so that the commits of an account whose key is
//! not known yet need not be parked. It waits only for a directory that keeps up with the stream: once
//! it has waited in vain, it waits again only after all these look-ups have ended. It never waits for
//! the host of a `did:web`, which its owner chooses, and for one DID at most once a minute.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::{Answer, FIRST_AGAIN_AFTER, Identities, Queued, Shared, entry_of};
use crate::atproto::syntax::Did;
use crate::identity::locate::is_plc;
use crate::net::slots::Urgency;

/// The most look-ups that are under way because commits arrived. Each takes about 2 KiB. The commits
/// of further accounts are parked at once.
const MOST_EXPECTED: usize = 1024;

/// After so many failures of a DID in a row, while the directory found others, the DID is the reason.
const FAILS_ALONE: u32 = 3;

/// The look-ups that began because commits arrived.
#[derive(Default)]
pub(super) struct Expected {
    under_way: AtomicUsize,
    /// The stream has waited in vain for a look-up, and not all have ended since.
    is_behind: AtomicBool,
    /// Called when one of them has ended.
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

/// Counts a look-up as long as it is under way.
struct UnderWay(Arc<Shared>);

impl Identities {
    /// Looks `did` up, because this many of its commits have arrived and will need its key. Does
    /// nothing if it is known, not in the PLC directory, or not to be looked up now: it failed a short while
    /// ago, or was looked up too often.
    ///
    /// A look-up that is noted nowhere must not be able to end the process again and again: the caller
    /// has asked `Isolation::allows_early_look_up`.
    pub fn expect(&self, did: &Did, commits: u64) {
        if !is_plc(did) || self.shared.plc.long_pause().is_some() || self.shared.plc.is_open() {
            return;
        }
        let mut entries = self.shared.entries();
        let entry = entry_of(&mut entries, did);
        let now = Instant::now();
        if entry.is_known(now) {
            return;
        }
        let urgency = match entry.allowance.is_recent(now, FIRST_AGAIN_AFTER) {
            true => Urgency::Awaited,
            false => Urgency::First,
        };
        if let Some(look_up) = &entry.look_up {
            look_up.raise(urgency, commits);
            return;
        }
        let is_full = self.shared.expected.under_way.load(Ordering::Acquire) >= MOST_EXPECTED;
        let has_to_wait = entry.wait(now).is_some_and(|wait| !wait.is_zero());
        if is_full || has_to_wait {
            return;
        }
        entry.allowance.spend(now);
        let queued = Queued { urgency, commits };
        let mut answer = self.shared.start(did, entry, false, queued);
        drop(entries);
        let under_way = UnderWay::begin(&self.shared);
        // A look-up continues while a caller waits for it.
        tokio::spawn(async move {
            let _ended = answer.wait_for(Option::is_some).await;
            let shared = Arc::clone(&under_way.0);
            drop(under_way);
            if let Some(wake) = shared.expected.wake.get() {
                wake();
            }
        });
    }

    /// Like [`Self::expect`], for commits that are parked: this many in all. Returns whether the look-up
    /// is under way.
    pub fn expect_parked(&self, did: &Did, commits: u64) -> bool {
        let expected = {
            let entries = self.shared.entries();
            let look_up = entries.peek(did).and_then(|entry| entry.look_up.as_ref());
            look_up.map_or(0, |look_up| look_up.queued().commits)
        };
        self.expect(did, commits.saturating_sub(expected));
        let entries = self.shared.entries();
        let is_under_way = entries
            .peek(did)
            .is_some_and(|entry| entry.look_up.is_some() && !entry.is_known(Instant::now()));
        is_under_way && is_plc(did)
    }

    /// The number of expected look-ups that are under way.
    pub fn count_expected(&self) -> usize {
        self.shared.expected.under_way.load(Ordering::Acquire)
    }

    /// Has `wake` called whenever an expected look-up has ended. Only the first call has an effect.
    pub fn on_expected(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _first = self.shared.expected.wake.set(Box::new(wake));
    }

    /// Waits for the look-ups of `dids`, at most until `deadline`. Those that are missing begin.
    pub async fn settle(&self, dids: &[Did], deadline: Instant) {
        let expected = &self.shared.expected;
        for did in dids {
            self.expect(did, 1);
        }
        for did in dids {
            if expected.is_behind() || Instant::now() >= deadline {
                return;
            }
            let Some(mut answer) = self.first_look_up(did) else {
                continue;
            };
            let ended = timeout_at(deadline, answer.wait_for(Option::is_some)).await;
            if ended.is_err() {
                expected.fall_behind();
            }
        }
    }

    /// Whether all that is missing of `did` is an answer of the PLC directory. It is not so if the
    /// directory says that there is no such DID, if it is looked up too often, or if look-ups of it
    /// fail again and again while those of others succeed.
    pub fn awaits_directory(&self, did: &Did) -> bool {
        if !is_plc(did) {
            return false;
        }
        let now = Instant::now();
        let entries = self.shared.entries();
        let Some(entry) = entries.peek(did) else {
            return true;
        };
        let fails_alone = entry.failure.as_ref().is_some_and(|failure| {
            failure.count >= FAILS_ALONE && self.shared.plc.has_worked_since(failure.since)
        });
        !entry.is_known(now)
            && !fails_alone
            && entry.missing_since.is_none()
            && entry.allowance.wait(now).is_none()
    }

    /// The running look-up of a DID of which nothing is known, if commits expect it, and it is the
    /// first for a while.
    fn first_look_up(&self, did: &Did) -> Option<watch::Receiver<Option<Answer>>> {
        let entries = self.shared.entries();
        let entry = entries.peek(did)?;
        let look_up = entry.look_up.as_ref()?;
        let queued = *look_up.queued();
        let is_awaited = is_plc(did)
            && !entry.is_known(Instant::now())
            && queued.urgency == Urgency::First
            && queued.commits > 0;
        is_awaited.then(|| look_up.sender.subscribe())
    }
}

impl Expected {
    fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Acquire)
    }

    /// Notes that the stream has waited in vain.
    fn fall_behind(&self) {
        self.is_behind.store(true, Ordering::Release);
        self.catch_up();
    }

    /// Notes that all look-ups have ended, if it is so.
    fn catch_up(&self) {
        if self.under_way.load(Ordering::Acquire) == 0 {
            self.is_behind.store(false, Ordering::Release);
        }
    }
}

impl UnderWay {
    fn begin(shared: &Arc<Shared>) -> Self {
        shared.expected.under_way.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(shared))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let expected = &self.0.expected;
        expected.under_way.fetch_sub(1, Ordering::AcqRel);
        expected.catch_up();
    }
}
