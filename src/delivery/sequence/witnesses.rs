//! Several events that say the same about a sequence, so that no single event decides it.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::time::Instant;

use crate::model::Position;

/// This many events decide, if they are not all of one account.
const ENOUGH: u32 = 3;
/// This many events decide, also if they are all of one account: a server may host only one.
const ENOUGH_OF_ONE_ACCOUNT: u32 = 16;

/// An event as the guard sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub position: Position,
    /// `None` if the account is not known, because the event was not decoded.
    pub account: Option<Account>,
    /// The event before it was observed too.
    pub is_next: bool,
    /// When it was received, by our own clock.
    pub at: Instant,
}

/// The account of an event, as far as it tells two accounts apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account(u64);

impl Account {
    pub fn of(did: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        did.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Events with ascending seqs that say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Witnesses {
    first: Position,
    last_seq: u64,
    count: u32,
    account: Option<Account>,
    has_others: bool,
}

impl Witnesses {
    pub(super) fn of(seen: Seen) -> Self {
        Self {
            first: seen.position,
            last_seq: seen.position.seq,
            count: 1,
            account: seen.account,
            has_others: false,
        }
    }

    pub(super) fn first(&self) -> Position {
        self.first
    }

    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Adds an event. One with a lower seq does not follow the others, so it begins anew. The same
    /// seq counts once.
    pub(super) fn add(&mut self, seen: Seen) {
        let seq = seen.position.seq;
        if seq < self.last_seq {
            *self = Self::of(seen);
        } else if seq == self.last_seq {
            self.account = self.account.or(seen.account);
        } else {
            self.count += 1;
            self.last_seq = seq;
            let is_of_same = self.account.is_some() && self.account == seen.account;
            self.has_others |= !is_of_same;
        }
    }

    pub(super) fn are_enough(&self) -> bool {
        let least = match self.has_others {
            true => ENOUGH,
            false => ENOUGH_OF_ONE_ACCOUNT,
        };
        self.count >= least
    }
}
