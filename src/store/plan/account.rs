//! The state machine of one account: its status, its handle, and whether its host still has to
//! confirm the status.
//!
//! Three parties have a say. What the source says hides or shows an account at once, and its
//! `takendown` and `suspended` hold until it says otherwise. The account's own host decides on
//! everything else, and nothing is removed without it; but one refusal to serve a repository is
//! only a suspicion. An operator may show an account that the source holds.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::order::{AsOf, Event, Order};
use super::task::{DueHandle, HandleAnswer, HandleCheck, HostStatus, UnconfirmedStatus};
use crate::atproto::syntax::Did;
use crate::model::HandleStatus;
use crate::store::datetime::sortable;
use crate::store::plan::effect::{AccountChange, DELETED, Effect};

/// How long the result of a check of a handle is shown while later checks find out nothing.
const FOUND_HOLDS: SignedDuration = SignedDuration::from_hours(72);

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
    /// `takendown` or `suspended`, as the source said, until it says that the account is active.
    /// The account's host cannot end it.
    pub held_status: Option<String>,
    /// The event that set or ended the hold. It has a guard of its own, so that a takedown that
    /// arrives behind a later status of another kind is not forgotten.
    pub hold_as_of: Option<AsOf>,
    /// An operator shows the account although the source holds it.
    pub is_overridden: bool,
    /// The account's own host has not confirmed the status yet, or not the suspected one.
    pub is_unconfirmed: bool,
    /// The status with which the account's host refused its repository. It hides nothing until it
    /// is confirmed.
    pub suspected_status: Option<String>,
    /// When its host is asked next; `None` means at once.
    pub retry_at: Option<String>,
    /// How many requests to its host failed.
    pub attempts: u32,
    /// When the handle is taken from the account's document; `None` means never.
    pub handle_due_at: Option<String>,
    /// Whether the handle is the account's.
    pub handle_status: HandleStatus,
    /// When that was found out.
    pub handle_checked_at: Option<String>,
    /// When it is checked next; `None` means at once.
    pub handle_check_at: Option<String>,
    /// It has a number in the change feed: a record of the account was kept once.
    pub is_in_feed: bool,
}

/// What an answer to a question about a status means for the account's repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// The account is deleted.
    Deleted,
    /// The account was hidden, and is shown again.
    Returned,
    /// Nothing follows.
    Unchanged,
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
            held_status: None,
            hold_as_of: None,
            is_overridden: false,
            is_unconfirmed: false,
            suspected_status: None,
            retry_at: None,
            attempts: 0,
            handle_due_at: None,
            handle_status: HandleStatus::Unknown,
            handle_checked_at: None,
            handle_check_at: None,
            is_in_feed: false,
        }
    }
}

impl AccountRow {
    /// Whether the status is later than the known one.
    pub(super) fn takes(&self, change: &AccountChange, order: &Order<'_>) -> bool {
        let known = self.as_of.as_ref();
        !self.is_repeated_deletion(change)
            && known.is_none_or(|known| order.is_after(event_of(change), known))
    }

    fn is_repeated_deletion(&self, change: &AccountChange) -> bool {
        change.is_deletion() && self.repeats_removal(&sortable(change.time), None)
    }

    /// Whether a deletion at `time` is the one by which the account was removed, once more. Relays give
    /// events new seqs, but keep their times. So something later has to be known, a status or the
    /// commit of `head_time`: where the times do not differ, the seqs decide.
    pub(super) fn repeats_removal(&self, time: &str, head_time: Option<&str>) -> bool {
        let status_time = self.as_of.as_ref().map(|status| status.time.as_str());
        let mut known_times = status_time.into_iter().chain(head_time);
        let is_at = |event: &AsOf| event.time == time;
        self.removed.as_ref().is_some_and(is_at) && known_times.any(|known| known > time)
    }

    /// Whether its deletion needs no more confirmation.
    pub(super) fn is_deleted(&self) -> bool {
        !self.is_active && !self.is_unconfirmed && self.status.as_deref() == Some("deleted")
    }

    /// Sets the statuses of a batch that are later than the known one, in their order. Only a
    /// tracked account keeps an unconfirmed status, because only then its host is asked.
    pub(super) fn take_statuses(
        &mut self,
        statuses: &Statuses<'_>,
        order: &Order<'_>,
        is_tracked: bool,
    ) {
        // They are in order already. So each is compared with what was known before the batch.
        let (known, known_hold) = (self.as_of.clone(), self.hold_as_of.clone());
        let is_after = |event: Event, known: Option<&AsOf>| {
            known.is_none_or(|known| order.is_after(event, known))
        };
        for change in &statuses.0 {
            let event = event_of(change);
            if (change.active || change.is_hold()) && is_after(event, known_hold.as_ref()) {
                let status = change.status.clone();
                self.held_status = status.filter(|_| change.is_hold());
                self.hold_as_of = Some(order.as_of(event));
            }
            if is_after(event, known.as_ref()) && !self.is_repeated_deletion(change) {
                self.as_of = Some(order.as_of(event));
                self.set_status(change);
            }
            if change.is_unconfirmed && !is_tracked {
                self.is_unconfirmed = false;
            }
        }
    }

    /// Whether an event said that the account is active.
    pub(super) fn is_known_active(&self) -> bool {
        self.is_active && self.as_of.is_some()
    }

    /// Sets the status that the source says.
    fn set_status(&mut self, change: &AccountChange) {
        if change.is_hold() && self.is_overridden {
            return;
        }
        self.is_active = change.active;
        self.status.clone_from(&change.status);
        self.suspected_status = None;
        self.is_unconfirmed = change.is_unconfirmed && !change.active && !change.is_hold();
        self.forget_attempts();
    }

    /// The account is hidden because the source holds it, so its host's word does not matter.
    pub(super) fn is_held(&self) -> bool {
        let is_in_force = self.held_status.is_some() && self.held_status == self.status;
        !self.is_active && !self.is_overridden && is_in_force
    }

    /// Shows the account, whatever the source says, until [`Self::end_override`]. Its host's word
    /// still counts. Returns whether the account was hidden.
    pub(super) fn override_hold(&mut self) -> bool {
        let was_hidden = !self.is_active;
        self.is_overridden = true;
        self.show();
        was_hidden
    }

    /// Ends [`Self::override_hold`]: what the source says counts again.
    pub(super) fn end_override(&mut self) {
        self.is_overridden = false;
        if self.is_active && self.held_status.is_some() {
            self.hide(self.held_status.clone());
        }
    }

    fn show(&mut self) {
        self.is_active = true;
        self.settle(None);
    }

    fn hide(&mut self, status: Option<String>) {
        self.is_active = false;
        self.settle(status);
    }

    /// Sets the status. There is nothing left to ask.
    fn settle(&mut self, status: Option<String>) {
        self.status = status;
        self.suspected_status = None;
        self.is_unconfirmed = false;
        self.forget_attempts();
    }

    pub(super) fn take_handle(&mut self, handle: &str, event: Event, order: &Order<'_>) {
        let known = self.handle_as_of.as_ref();
        if known.is_none_or(|known| order.is_after(event, known)) {
            self.set_handle(Some(handle));
            self.handle_as_of = Some(order.as_of(event));
            self.handle_due_at = None;
        }
    }

    /// Another handle is not verified yet. The event may also say that the same one is no longer right.
    fn set_handle(&mut self, handle: Option<&str>) {
        if self.handle.as_deref() != handle {
            self.handle = handle.map(str::to_owned);
            self.handle_status = HandleStatus::Unknown;
            self.handle_checked_at = None;
        }
        self.handle_check_at = None;
    }

    /// Takes what a check of the handle found, unless another handle was told meanwhile. Where nothing
    /// was found out, what was found before stays for [`FOUND_HOLDS`]: a name that is gone gives no answer.
    pub(super) fn take_check(&mut self, check: &HandleCheck) {
        if self.handle != check.known {
            return;
        }
        if check.status != HandleStatus::Unknown {
            self.handle.clone_from(&check.claimed);
            self.handle_status = check.status;
            self.handle_checked_at = Some(sortable(check.checked_at));
        } else if self.is_outdated_at(check.checked_at) {
            self.handle_status = HandleStatus::Unknown;
        }
        self.handle_check_at = Some(sortable(check.check_at));
    }

    /// Whether what was found of the handle is too old to be shown.
    fn is_outdated_at(&self, now: Timestamp) -> bool {
        let oldest = now.saturating_sub(FOUND_HOLDS).map(sortable);
        let checked_at = self.handle_checked_at.as_ref();
        checked_at.is_none_or(|checked_at| oldest.is_ok_and(|oldest| *checked_at < oldest))
    }

    /// Forgets the handle, because an event says that it may have changed. It is taken from the
    /// account's document at `due_at`, or earlier if that is due already.
    pub(super) fn doubt_handle(&mut self, due_at: &str) {
        self.set_handle(None);
        self.handle_due_at.get_or_insert_with(|| due_at.to_owned());
    }

    /// Takes the handle that the account's document has, unless an event set another one meanwhile.
    pub(super) fn take_handle_of_document(&mut self, due: &DueHandle, answer: &HandleAnswer) {
        let known = self.handle_as_of.as_ref().map(|as_of| &as_of.time);
        if self.handle_due_at.is_none() || known != due.as_of.as_ref() {
            return;
        }
        match answer {
            HandleAnswer::Found(handle) => {
                self.set_handle(handle.as_deref());
                self.handle_due_at = None;
            }
            HandleAnswer::Unknown(until) => self.handle_due_at = Some(sortable(*until)),
        }
    }

    /// Reacts to a commit. A verified one speaks against a suspicion. If the account's host reported
    /// the account as inactive, it is asked again, but not before `ask_at`.
    pub(super) fn note_commit(
        &mut self,
        commit: Event,
        order: &Order<'_>,
        is_verified: bool,
        ask_at: &str,
    ) {
        if self.is_suspected() {
            if is_verified {
                self.show();
            }
            return;
        }
        let is_confirmed_inactive = !self.is_active && !self.is_unconfirmed && !self.is_held();
        let known = self.as_of.as_ref();
        let is_later = known.is_none_or(|known| order.is_after(commit, known));
        if is_confirmed_inactive && is_later {
            self.is_unconfirmed = true;
            self.retry_at = Some(ask_at.to_owned());
        }
    }

    /// Has it asked whether the account is still inactive: its host, or the source, if that holds it.
    pub(super) fn ask_again(&mut self) {
        self.is_unconfirmed = true;
    }

    fn is_suspected(&self) -> bool {
        self.is_active && self.suspected_status.is_some()
    }

    /// Notes that its host refused its repository because of `status`. One answer proves nothing:
    /// the account stays visible, and its host is asked at `ask_at`.
    pub(super) fn suspect(&mut self, status: &str, ask_at: &str) {
        if self.is_active && self.suspected_status.is_none() {
            self.suspected_status = Some(status.to_owned());
            self.is_unconfirmed = true;
            self.retry_at = Some(ask_at.to_owned());
            self.attempts = 0;
        }
    }

    /// The question about its status, as long as nothing changes it.
    pub(crate) fn question(&self, did: Did) -> UnconfirmedStatus {
        let is_suspected = self.is_suspected();
        let status = match is_suspected {
            true => &self.suspected_status,
            false => &self.status,
        };
        UnconfirmedStatus {
            did,
            status: status.clone(),
            as_of: self.as_of.as_ref().map(|known| known.time.clone()),
            is_held: self.is_held(),
            is_suspected,
            attempts: self.attempts,
        }
    }

    /// Applies the answer to a question. Returns what follows for its repository; `None` if the
    /// question is no longer open, or there was no answer.
    pub(super) fn apply_answer(
        &mut self,
        asked: &UnconfirmedStatus,
        answer: &HostStatus,
    ) -> Option<Confirmed> {
        let now = self.question(asked.did.clone());
        let is_same = now.as_of == asked.as_of
            && now.is_held == asked.is_held
            && now.is_suspected == asked.is_suspected;
        if !is_same {
            return None;
        }
        if let HostStatus::NotAsked(until) | HostStatus::Unknown(until) = answer {
            self.retry_at = Some(sortable(*until));
            let is_attempt = matches!(answer, HostStatus::Unknown(_));
            self.attempts += u32::from(is_attempt);
        }
        if !self.is_unconfirmed {
            return None;
        }
        match answer {
            HostStatus::NotAsked(_) | HostStatus::Unknown(_) => None,
            HostStatus::Active if asked.is_held => {
                self.held_status = None;
                self.show();
                Some(Confirmed::Returned)
            }
            HostStatus::Deleted | HostStatus::Inactive(_) if asked.is_held => {
                self.hide(self.held_status.clone());
                Some(Confirmed::Unchanged)
            }
            HostStatus::Active if asked.is_suspected => {
                self.show();
                Some(Confirmed::Unchanged)
            }
            HostStatus::Active if self.held_status.is_some() && !self.is_overridden => {
                self.hide(self.held_status.clone());
                Some(Confirmed::Unchanged)
            }
            HostStatus::Active => {
                self.show();
                Some(Confirmed::Returned)
            }
            HostStatus::Deleted => {
                self.hide(Some(DELETED.to_owned()));
                Some(Confirmed::Deleted)
            }
            HostStatus::Inactive(status) => {
                self.hide(status.clone());
                Some(Confirmed::Unchanged)
            }
        }
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
    /// The latest event of each account after which its handle is unknown.
    pub(super) unknown_handles: BTreeMap<&'a str, Event>,
    /// The latest deletion of each account, even if a later status made it active again.
    pub(super) removals: BTreeMap<&'a str, Event>,
}

/// The statuses of one account in a batch, the latest last.
#[derive(Debug, Default)]
pub(super) struct Statuses<'a>(pub(super) Vec<&'a AccountChange>);

impl Statuses<'_> {
    /// The account was inactive at some point of the batch, even if it is active at the end.
    pub(super) fn was_inactive(&self) -> bool {
        self.0.iter().any(|status| !status.active)
    }

    /// What the account wrote before it was heard of is wanted too.
    pub(super) fn wants_history(&self) -> bool {
        self.0.last().is_some_and(|latest| latest.wants_history)
    }

    /// The batch ends with an account that is active, as another than its host says.
    pub(super) fn is_active_now(&self) -> bool {
        self.0
            .last()
            .is_some_and(|latest| latest.active && latest.is_unconfirmed)
    }
}

impl<'a> AccountChanges<'a> {
    pub(super) fn of(effects: &'a [Effect], order: &Order<'_>) -> Self {
        let mut changes = Self::default();
        for effect in effects {
            match effect {
                Effect::Account(change) => changes.add_status(change, order),
                Effect::Identity(change) => {
                    let event = Event {
                        seq: change.seq,
                        time: change.time,
                    };
                    let handle = change.handle.as_deref();
                    changes.add_handle(change.did.as_str(), handle, event, order);
                }
                _ => {}
            }
        }
        changes
    }

    fn add_status(&mut self, change: &'a AccountChange, order: &Order<'_>) {
        let did = change.did.as_str();
        let event = event_of(change);
        let statuses = &mut self.statuses.entry(did).or_default().0;
        // One deletion that comes twice, the second time under a new seq and behind a later status.
        let is_same = |known: &&AccountChange| known.is_deletion() && known.time == change.time;
        let is_behind = |known: &&AccountChange| known.time > change.time;
        if change.is_deletion() && statuses.iter().any(is_same) && statuses.iter().any(is_behind) {
            return;
        }
        let is_later = |known: &&AccountChange| order.is_later(event, event_of(known));
        let place = statuses.iter().position(is_later);
        statuses.insert(place.unwrap_or(statuses.len()), change);
        if change.is_deletion() && !change.is_unconfirmed {
            let latest = self.removals.entry(did).or_insert(event);
            if order.is_later(*latest, event) {
                *latest = event;
            }
        }
    }

    fn add_handle(
        &mut self,
        did: &'a str,
        handle: Option<&'a str>,
        event: Event,
        order: &Order<'_>,
    ) {
        let Some(handle) = handle else {
            let latest = self.unknown_handles.entry(did).or_insert(event);
            if order.is_later(*latest, event) {
                *latest = event;
            }
            return;
        };
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
    use jiff::Timestamp;

    use super::super::order::Moment;
    use super::*;
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
        assert!(changes.statuses["did:plc:alice"].0[1].active);
        assert_eq!(changes.removals["did:plc:alice"].seq, 3);
    }

    #[test]
    fn of_statuses_at_one_time_the_higher_seq_wins() {
        let effects = [account(None, 9, 12), account(Some("suspended"), 9, 11)];
        let changes = changes_of(&effects);
        assert_eq!(changes.statuses["did:plc:alice"].0[1].seq, 12);
    }

    #[test]
    fn an_identity_without_a_handle_is_no_handle_and_is_remembered() {
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
        assert_eq!(changes.unknown_handles["did:plc:alice"].seq, 3);
    }
}
