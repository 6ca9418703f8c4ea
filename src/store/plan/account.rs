//! The state machine of one account: its status, its handle, and whether its host still has to
//! confirm the status.

use std::collections::BTreeMap;

use super::task::{HostStatus, UnconfirmedStatus};
use crate::store::datetime::sortable;
use crate::store::plan::effect::{AccountChange, Effect};

/// A row of `accounts`. Datetimes are text that sorts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRow {
    pub handle: Option<String>,
    pub handle_as_of: Option<AsOf>,
    pub is_active: bool,
    pub status: Option<String>,
    pub as_of: Option<AsOf>,
    /// The time of the account's latest deletion. It stays when the account becomes active again.
    pub removed_at: Option<String>,
    /// The account's own host has not confirmed the status yet.
    pub is_unconfirmed: bool,
    /// When its host is asked next; `None` means at once.
    pub retry_at: Option<String>,
    /// How many requests to its host failed.
    pub attempts: u32,
}

/// The time and the seq of the event that set a value. The time is compared first, because relays
/// renumber seqs but keep times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AsOf {
    pub time: String,
    pub seq: u64,
}

impl Default for AccountRow {
    /// An account without any event is active.
    fn default() -> Self {
        Self {
            handle: None,
            handle_as_of: None,
            is_active: true,
            status: None,
            as_of: None,
            removed_at: None,
            is_unconfirmed: false,
            retry_at: None,
            attempts: 0,
        }
    }
}

impl AccountRow {
    /// Sets the status, unless a later one is known. Only a tracked account keeps an unconfirmed
    /// status, because only then its host is asked.
    pub(super) fn take_status(&mut self, change: &AccountChange, is_tracked: bool) {
        let as_of = as_of_status(change);
        if self.as_of.as_ref().is_none_or(|known| as_of > *known) {
            self.is_active = change.active;
            self.status.clone_from(&change.status);
            self.as_of = Some(as_of);
            self.is_unconfirmed = change.is_unconfirmed && !change.active;
            self.forget_attempts();
        }
        if change.is_unconfirmed && !is_tracked {
            self.is_unconfirmed = false;
        }
    }

    pub(super) fn take_handle(&mut self, handle: &str, as_of: &AsOf) {
        if self.handle_as_of.as_ref().is_none_or(|known| as_of > known) {
            self.handle = Some(handle.to_owned());
            self.handle_as_of = Some(as_of.clone());
        }
    }

    /// Records a deletion. Returns the time of the latest one.
    pub(super) fn remove(&mut self, removed_at: &str) -> String {
        let known = self.removed_at.take().unwrap_or_default();
        let latest = known.max(removed_at.to_owned());
        self.removed_at = Some(latest.clone());
        latest
    }

    /// Reacts to a commit at `time` of an account that its host reported as inactive: the host is
    /// asked again, but not before `ask_at`.
    pub(super) fn note_commit(&mut self, time: &str, ask_at: &str) {
        let is_confirmed_inactive = !self.is_active && !self.is_unconfirmed;
        let is_later = self.as_of.as_ref().is_some_and(|known| *known.time < *time);
        if is_confirmed_inactive && is_later {
            self.is_unconfirmed = true;
            self.retry_at = Some(ask_at.to_owned());
        }
    }

    /// Has its host asked whether the account is still inactive.
    pub(super) fn ask_again(&mut self) {
        self.is_unconfirmed = true;
    }

    /// Sets `status`, which its host gave as the reason to refuse its repository. `last_known` is
    /// the time of the last known commit.
    pub(super) fn refuse_by_host(&mut self, status: &str, last_known: String) {
        let as_of = match self.as_of.take() {
            Some(known) if known.time >= last_known => known,
            _ => AsOf {
                time: last_known,
                seq: 0,
            },
        };
        self.is_active = false;
        self.status = Some(status.to_owned());
        self.as_of = Some(as_of);
        self.is_unconfirmed = true;
        self.forget_attempts();
    }

    /// Applies its host's answer. Returns whether the status was changed or confirmed, which
    /// happens only if the question is still open.
    pub(super) fn apply_host_status(
        &mut self,
        asked: &UnconfirmedStatus,
        answer: &HostStatus,
    ) -> bool {
        let is_same_status = self
            .as_of
            .as_ref()
            .is_some_and(|known| known.time == asked.as_of);
        let (is_active, status) = match answer {
            HostStatus::Active => (true, None),
            HostStatus::Deleted => (false, Some("deleted".to_owned())),
            HostStatus::Inactive(status) => (false, status.clone()),
            HostStatus::NotAsked(until) | HostStatus::Unknown(until) => {
                if is_same_status {
                    self.retry_at = Some(sortable(*until));
                    let is_attempt = matches!(answer, HostStatus::Unknown(_));
                    self.attempts += u32::from(is_attempt);
                }
                return false;
            }
        };
        let is_open = is_same_status && self.is_unconfirmed;
        if is_open {
            self.is_active = is_active;
            self.status = status;
            self.is_unconfirmed = false;
            self.forget_attempts();
        }
        is_open
    }

    fn forget_attempts(&mut self) {
        self.retry_at = None;
        self.attempts = 0;
    }
}

fn as_of_status(change: &AccountChange) -> AsOf {
    AsOf {
        time: sortable(change.time),
        seq: change.seq,
    }
}

/// The changes of accounts in a batch, by DID.
#[derive(Debug, Default)]
pub(super) struct AccountChanges<'a> {
    pub(super) statuses: BTreeMap<&'a str, Statuses<'a>>,
    /// The latest handle of each account.
    pub(super) handles: BTreeMap<&'a str, (&'a str, AsOf)>,
    /// The latest deletion of each account, even if a later status made it active again.
    pub(super) removals: BTreeMap<&'a str, String>,
}

/// The statuses of one account in a batch.
#[derive(Debug)]
pub(super) struct Statuses<'a> {
    pub(super) latest: &'a AccountChange,
    /// The account was inactive at some point of the batch, even if it is active at the end.
    pub(super) was_inactive: bool,
}

impl<'a> AccountChanges<'a> {
    pub(super) fn of(effects: &'a [Effect]) -> Self {
        let mut changes = Self::default();
        for effect in effects {
            match effect {
                Effect::Account(change) => changes.add_status(change),
                Effect::Identity(change) => {
                    if let Some(handle) = &change.handle {
                        let as_of = AsOf {
                            time: sortable(change.time),
                            seq: change.seq,
                        };
                        changes.add_handle(change.did.as_str(), handle, as_of);
                    }
                }
                _ => {}
            }
        }
        changes
    }

    fn add_status(&mut self, change: &'a AccountChange) {
        let did = change.did.as_str();
        let statuses = self.statuses.entry(did).or_insert(Statuses {
            latest: change,
            was_inactive: false,
        });
        if as_of_status(change) > as_of_status(statuses.latest) {
            statuses.latest = change;
        }
        statuses.was_inactive |= !change.active;
        if change.is_deletion() && !change.is_unconfirmed {
            let time = sortable(change.time);
            let removed_at = self.removals.entry(did).or_default();
            if time > *removed_at {
                *removed_at = time;
            }
        }
    }

    fn add_handle(&mut self, did: &'a str, handle: &'a str, as_of: AsOf) {
        let is_later = self
            .handles
            .get(did)
            .is_none_or(|(_, known)| as_of > *known);
        if is_later {
            self.handles.insert(did, (handle, as_of));
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::atproto::syntax::Did;
    use crate::store::plan::effect::IdentityChange;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn did() -> Did {
        Did::parse("did:plc:alice").unwrap()
    }

    fn account(status: Option<&str>, time: i64, seq: u64) -> Effect {
        Effect::Account(AccountChange {
            did: did(),
            active: status.is_none(),
            status: status.map(str::to_owned),
            is_unconfirmed: false,
            seq,
            time: second(time),
        })
    }

    #[test]
    fn a_status_that_comes_later_in_time_wins_and_a_deletion_is_remembered() {
        let effects = [account(None, 9, 9), account(Some("deleted"), 3, 3)];
        let changes = AccountChanges::of(&effects);
        assert!(changes.statuses["did:plc:alice"].latest.active);
        assert_eq!(changes.removals["did:plc:alice"], sortable(second(3)));
    }

    #[test]
    fn of_statuses_at_one_time_the_higher_seq_wins() {
        let effects = [account(None, 9, 12), account(Some("suspended"), 9, 11)];
        let changes = AccountChanges::of(&effects);
        assert_eq!(changes.statuses["did:plc:alice"].latest.seq, 12);
    }

    #[test]
    fn an_identity_without_a_handle_changes_nothing() {
        let identity = |handle: Option<&str>, seq| {
            Effect::Identity(IdentityChange {
                did: did(),
                handle: handle.map(str::to_owned),
                seq,
                time: second(seq as i64),
            })
        };
        let effects = [
            identity(Some("new.example"), 2),
            identity(None, 3),
            identity(Some("old.example"), 1),
        ];
        let changes = AccountChanges::of(&effects);
        assert_eq!(changes.handles["did:plc:alice"].0, "new.example");
    }
}
