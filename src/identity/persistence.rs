//! What of the cache survives a restart: the identities, and when each was looked up.
//!
//! That a DID was refreshed a short while ago does not survive. So a signature that does not fit a
//! stored key always leads to a look-up.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use hashlink::LinkedHashSet;
use jiff::Timestamp;
use tokio::time::Instant;

use super::cache::{Answered, Entry, Identities, Limits, Shared};
use super::document::Identity;
use super::stored::{IdentityChange, StoredIdentity};
use crate::atproto::syntax::Did;

/// DIDs whose stored identities are behind those in memory.
#[derive(Default)]
pub(super) struct Unsaved {
    waiting: LinkedHashSet<Did>,
    /// They were taken, and it is not known yet whether they are saved.
    taken: LinkedHashSet<Did>,
}

impl Unsaved {
    /// Adds `did`. While the database takes nothing, the oldest are dropped beyond `capacity`: they
    /// are looked up again after a restart.
    pub(super) fn note(&mut self, did: &Did, capacity: usize) {
        self.waiting.insert(did.clone());
        if self.waiting.len() > capacity {
            self.waiting.pop_front();
        }
    }
}

impl Identities {
    /// Fills the cache with `stored`, the oldest first, and returns how many it has taken. An
    /// identity that is in the cache already stays.
    pub fn restore(&self, stored: Vec<StoredIdentity>) -> usize {
        let (now, time) = (Instant::now(), Timestamp::now());
        let mut entries = self.shared.entries();
        let mut restored = 0;
        for StoredIdentity {
            identity,
            looked_up_at,
        } in stored
        {
            let did = identity.did.clone();
            let entry = entries.entry(did).or_insert_with(Entry::default);
            if entry.answer.is_some() {
                continue;
            }
            let left = time_left(looked_up_at, time, &self.shared.limits);
            entry.answer = Some(Answered {
                answer: Ok(Arc::new(identity)),
                until: now + left,
                at: looked_up_at,
            });
            entry.had_document = true;
            restored += 1;
        }
        restored
    }

    /// Whether anything waits to be saved.
    pub fn has_unsaved(&self) -> bool {
        let unsaved = self.shared.unsaved();
        !unsaved.waiting.is_empty() || !unsaved.taken.is_empty()
    }

    /// Takes up to `most` changes that are not saved yet. Those that were taken before are among
    /// them, unless [`Self::note_saved`] was called.
    pub fn take_unsaved(&self, most: usize) -> Vec<IdentityChange> {
        let entries = self.shared.entries();
        let mut unsaved = self.shared.unsaved();
        while unsaved.taken.len() < most
            && let Some(did) = unsaved.waiting.pop_front()
        {
            unsaved.taken.insert(did);
        }
        let changes = unsaved.taken.iter().filter_map(|did| {
            // What was forgotten since has no answer.
            let answered = entries.peek(did)?.answer.as_ref()?;
            Some(match &answered.answer {
                Ok(identity) => IdentityChange::Store(StoredIdentity {
                    identity: Identity::clone(identity),
                    looked_up_at: answered.at,
                }),
                Err(_) => IdentityChange::Delete(did.clone()),
            })
        });
        changes.collect()
    }

    /// Notes that what was taken is saved.
    pub fn note_saved(&self) {
        self.shared.unsaved().taken.clear();
    }
}

impl Shared {
    /// If both are locked, `entries` comes first.
    pub(super) fn unsaved(&self) -> MutexGuard<'_, Unsaved> {
        // Every state of it is valid by itself.
        self.unsaved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long an identity is still valid. One with a time that lies ahead was written while a clock was
/// wrong; its age is not known.
fn time_left(looked_up_at: Timestamp, now: Timestamp, limits: &Limits) -> Duration {
    let age = Duration::try_from(now.duration_since(looked_up_at));
    age.map_or(Duration::ZERO, |age| limits.good_for.saturating_sub(age))
}
