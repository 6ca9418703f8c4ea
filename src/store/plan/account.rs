//! The state machine of one account: its status, its handle, and whether its host still has to
//! confirm the status.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::order::{AsOf, Event, Order};
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
    /// The account's latest deletion. It stays when the account becomes active again.
    pub removed: Option<AsOf>,
    /// The account's own host has not confirmed the status yet.
    pub is_unconfirmed: bool,
    /// When its host is asked next; `None` means at once.
    pub retry_at: Option<String>,
    /// How many requests to its host failed.
    pub attempts: u32,
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
            removed: None,
            is_unconfirmed: false,
            retry_at: None,
            attempts: 0,
        }
    }
}

impl AccountRow {
    /// Whether the status is later than the known one.
    pub(super) fn takes(&self, change: &AccountChange, order: &Order<'_>) -> bool {
        let known = self.as_of.as_ref();
        known.is_none_or(|known| order.is_after(event_of(change), known))
    }

    /// Whether its deletion needs no more confirmation.
    pub(super) fn is_deleted(&self) -> bool {
        !self.is_active && !self.is_unconfirmed && self.status.as_deref() == Some("deleted")
    }

    /// Sets the status, unless a later one is known. Only a tracked account keeps an unconfirmed
    /// status, because only then its host is asked.
    pub(super) fn take_status(
        &mut self,
        change: &AccountChange,
        order: &Order<'_>,
        is_tracked: bool,
    ) {
        if self.takes(change, order) {
            self.is_active = change.active;
            self.status.clone_from(&change.status);
            self.as_of = Some(order.as_of(event_of(change)));
            self.is_unconfirmed = change.is_unconfirmed && !change.active;
            self.forget_attempts();
        }
        if change.is_unconfirmed && !is_tracked {
            self.is_unconfirmed = false;
        }
    }

    /// Whether an event said that the account is active.
    pub(super) fn is_known_active(&self) -> bool {
        self.is_active && self.as_of.is_some()
    }

    pub(super) fn take_handle(&mut self, handle: &str, event: Event, order: &Order<'_>) {
        let known = self.handle_as_of.as_ref();
        if known.is_none_or(|known| order.is_after(event, known)) {
            self.handle = Some(handle.to_owned());
            self.handle_as_of = Some(order.as_of(event));
        }
    }

    /// Reacts to a commit of an account that its host reported as inactive: the host is asked
    /// again, but not before `ask_at`.
    pub(super) fn note_commit(&mut self, commit: Event, order: &Order<'_>, ask_at: &str) {
        let is_confirmed_inactive = !self.is_active && !self.is_unconfirmed;
        let known = self.as_of.as_ref();
        let is_later = known.is_some_and(|known| order.is_after(commit, known));
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
    /// the last known commit.
    pub(super) fn refuse_by_host(&mut self, status: &str, last_known: Option<AsOf>) {
        let never = || AsOf {
            source: None,
            seq: 0,
            time: sortable(Timestamp::UNIX_EPOCH),
        };
        let last_known = last_known.unwrap_or_else(never);
        let known = self.as_of.take();
        let known = known.filter(|known| known.time >= last_known.time);
        self.is_active = false;
        self.status = Some(status.to_owned());
        self.as_of = Some(known.unwrap_or(last_known));
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
            HostStatus::Unknown(until) => {
                if is_same_status {
                    self.retry_at = Some(sortable(*until));
                    self.attempts += 1;
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

fn event_of(change: &AccountChange) -> Event {
    Event {
        seq: change.seq,
        time: change.time,
    }
}

/// The changes of accounts in a batch, by DID.
#[derive(Debug, Default)]
pub(super) struct AccountChanges<'a> {
    pub(super) statuses: BTreeMap<&'a str, Statuses<'a>>,
    /// The latest handle of each account.
    pub(super) handles: BTreeMap<&'a str, (&'a str, Event)>,
    /// The latest deletion of each account, even if a later status made it active again.
    pub(super) removals: BTreeMap<&'a str, Event>,
}

/// The statuses of one account in a batch.
#[derive(Debug)]
pub(super) struct Statuses<'a> {
    pub(super) latest: &'a AccountChange,
    /// The account was inactive at some point of the batch, even if it is active at the end.
    pub(super) was_inactive: bool,
}

impl<'a> AccountChanges<'a> {
    pub(super) fn of(effects: &'a [Effect], order: &Order<'_>) -> Self {
        let mut changes = Self::default();
        for effect in effects {
            match effect {
                Effect::Account(change) => changes.add_status(change, order),
                Effect::Identity(change) => {
                    if let Some(handle) = &change.handle {
                        let event = Event {
                            seq: change.seq,
                            time: change.time,
                        };
                        changes.add_handle(change.did.as_str(), handle, event, order);
                    }
                }
                _ => {}
            }
        }
        changes
    }

    fn add_status(&mut self, change: &'a AccountChange, order: &Order<'_>) {
        let did = change.did.as_str();
        let statuses = self.statuses.entry(did).or_insert(Statuses {
            latest: change,
            was_inactive: false,
        });
        let event = event_of(change);
        if order.is_later(event_of(statuses.latest), event) {
            statuses.latest = change;
        }
        statuses.was_inactive |= !change.active;
        if change.is_deletion() && !change.is_unconfirmed {
            let latest = self.removals.entry(did).or_insert(event);
            if order.is_later(*latest, event) {
                *latest = event;
            }
        }
    }

    fn add_handle(&mut self, did: &'a str, handle: &'a str, event: Event, order: &Order<'_>) {
        let is_later = self
            .handles
            .get(did)
            .is_none_or(|(_, known)| order.is_later(*known, event));
        if is_later {
            self.handles.insert(did, (handle, event));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::Moment;
    use super::*;
    use crate::atproto::syntax::Did;
    use crate::store::plan::effect::IdentityChange;

    fn second(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn changes_of(effects: &[Effect]) -> AccountChanges<'_> {
        let order = Order {
            source: None,
            cursor: None,
            through: None,
            is_restarted: false,
            moment: Moment::at(second(1_000)),
        };
        AccountChanges::of(effects, &order)
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
            wants_history: false,
            seq,
            time: second(time),
        })
    }

    #[test]
    fn the_status_of_the_highest_seq_wins_and_a_deletion_is_remembered() {
        let effects = [account(None, 9, 9), account(Some("deleted"), 86_400, 3)];
        let changes = changes_of(&effects);
        assert!(changes.statuses["did:plc:alice"].latest.active);
        assert_eq!(changes.removals["did:plc:alice"].seq, 3);
    }

    #[test]
    fn of_statuses_at_one_time_the_higher_seq_wins() {
        let effects = [account(None, 9, 12), account(Some("suspended"), 9, 11)];
        let changes = changes_of(&effects);
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
        let changes = changes_of(&effects);
        assert_eq!(changes.handles["did:plc:alice"].0, "new.example");
    }
}
