//! The state machine of one repository: what is known of it, and what an event makes of that.
//!
//! A repository is tracked (it has a row) while something of it is kept, or is to be looked into.

use jiff::Timestamp;

use super::task::Resync;
use crate::model::SourceId;
use crate::store::datetime::sortable;
use crate::store::plan::effect::{ChainUpdate, RecordVersion};

/// Later than any time there is.
pub(super) const NEVER: &str = "9999-12-31T23:59:59.999Z";

/// How often it has to be said that there is no such repository before that is taken for true. The next
/// attempt comes an hour after the one before by then.
const ATTEMPTS_TO_BE_SURE: u32 = 10;

/// Why a repository is to be fetched whose account has come back.
pub(super) const RETURNED: &str = "returned";

/// How well a repository is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RepoState {
    /// What was missed is known to be nothing, as far as the last commit.
    Synchronized,
    /// Something was missed; it is to be fetched as a whole.
    Desynchronized,
    /// It is being fetched.
    Resyncing,
    /// It is to be fetched, but not now: its host wants to be left alone, or it was fetched often.
    Throttled,
    /// Whether its commits follow from each other was never checked.
    UnverifiedChain,
}

impl RepoState {
    pub const ALL: [Self; 5] = [
        Self::Desynchronized,
        Self::Resyncing,
        Self::Synchronized,
        Self::Throttled,
        Self::UnverifiedChain,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Desynchronized => "desynchronized",
            Self::Resyncing => "resyncing",
            Self::Synchronized => "synchronized",
            Self::Throttled => "throttled",
            Self::UnverifiedChain => "unverified_chain",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether commits are applied as they come.
    pub(super) fn takes_commits(self) -> bool {
        matches!(self, Self::Synchronized | Self::UnverifiedChain)
    }
}

/// What is known of a tracked repository: its row. Datetimes are text that sorts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoRow {
    pub state: RepoState,
    /// The rev and the tree of the last commit; `None` where none was seen yet.
    pub rev: Option<String>,
    pub data: Option<String>,
    /// The event that said so, or the resync: then there is no seq.
    pub seq: Option<u64>,
    pub source: Option<String>,
    pub time: Option<String>,
    /// Why it was last found to be desynchronized.
    pub cause: Option<String>,
    /// All that is wanted of it was seen.
    pub is_whole: bool,
    /// Commits of it are parked, and none may overtake them.
    pub has_parked: bool,
    /// The gap for which it is compared with its host; 0 is a commit that was refused.
    pub recheck_cause: Option<i64>,
    /// When it is due again; `None` is at once.
    pub retry_at: Option<String>,
    /// How often it was tried in vain.
    pub attempts: u32,
}

/// What the RepositoriesActor tells of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepoEvent<'a> {
    /// It is being fetched. What comes of it meanwhile is parked. What is fetched from now on answers
    /// every recheck that was asked for before.
    BeginResync,
    /// It was found where it was thought to be, when it was rechecked because of this.
    ConfirmRecheck { recheck_cause: Option<i64> },
    /// An attempt to fetch it has ended.
    EndResync(&'a Resync),
    /// Its queue was seen to be empty.
    FinishReplay,
    /// It is to be fetched as a whole, whatever is known of it.
    RequestResync { cause: &'a str },
    /// It is left alone until then: there was no time to try.
    Reschedule { until: Timestamp },
    /// It is left alone until then: it was tried in vain.
    RetryLater { until: Timestamp },
    /// It is left alone until its account is active again.
    SuspendUntilActive,
    /// It is not wanted any more.
    Untrack,
}

/// What the other tables have of a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Records or tombstones.
    pub has_records: bool,
    /// Parked frames, other than one that is being replayed.
    pub has_parked: bool,
}

/// What `event` makes of a repository; `None` is one that is not tracked.
pub fn transition(
    repo: Option<&RepoRow>,
    event: RepoEvent<'_>,
    contents: Contents,
) -> Option<RepoRow> {
    let Some(repo) = repo else {
        return match event {
            RepoEvent::RequestResync { cause } => Some(RepoRow::to_be_fetched(cause)),
            _ => None,
        };
    };
    let mut next = repo.clone();
    match event {
        RepoEvent::BeginResync => {
            next.state = RepoState::Resyncing;
            next.recheck_cause = None;
        }
        RepoEvent::ConfirmRecheck { recheck_cause } => {
            if next.recheck_cause == recheck_cause {
                next.recheck_cause = None;
                next.forget_attempts();
            }
        }
        RepoEvent::EndResync(resync) => return next.after_resync(resync, contents),
        RepoEvent::FinishReplay => return next.after_replay(contents),
        RepoEvent::RequestResync { cause } => {
            next.desynchronize(cause);
            next.recheck_cause = None;
            next.retry_at = None;
        }
        RepoEvent::Reschedule { until } => {
            if matches!(next.state, RepoState::Desynchronized | RepoState::Resyncing) {
                next.state = RepoState::Throttled;
            }
            next.retry_at = Some(sortable(until));
        }
        RepoEvent::RetryLater { until } => {
            next.retry_at = Some(sortable(until));
            next.attempts += 1;
        }
        RepoEvent::SuspendUntilActive => next.retry_at = Some(NEVER.to_owned()),
        RepoEvent::Untrack => {
            next.state = RepoState::UnverifiedChain;
            next.has_parked = false;
            next.recheck_cause = None;
            next.forget_attempts();
            return next.unless_empty(contents.has_records);
        }
    }
    Some(next)
}

impl RepoRow {
    /// A repository of which nothing is known yet.
    pub fn unknown() -> Self {
        Self {
            state: RepoState::UnverifiedChain,
            rev: None,
            data: None,
            seq: None,
            source: None,
            time: None,
            cause: None,
            is_whole: false,
            has_parked: false,
            recheck_cause: None,
            retry_at: None,
            attempts: 0,
        }
    }

    pub(super) fn to_be_fetched(cause: &str) -> Self {
        let mut repo = Self::unknown();
        repo.desynchronize(cause);
        repo
    }

    fn desynchronize(&mut self, cause: &str) {
        self.state = RepoState::Desynchronized;
        self.cause = Some(cause.to_owned());
    }

    fn forget_attempts(&mut self) {
        self.retry_at = None;
        self.attempts = 0;
    }

    // === What the stream brings ===

    /// `update` follows from what is known. `is_whole` where nothing was there before it.
    pub(super) fn follow(&mut self, update: &ChainUpdate, is_whole: bool, source: &SourceId) {
        self.change(RepoState::Synchronized, self.has_parked);
        self.rev = Some(update.rev.to_string());
        self.data = Some(update.data.to_string());
        self.seq = Some(update.seq);
        self.source = Some(source.as_str().to_owned());
        self.time = Some(sortable(update.time));
        self.is_whole |= is_whole;
    }

    /// A commit has to be parked.
    pub(super) fn park(&mut self) {
        self.change(self.state, true);
    }

    /// Something before a commit was missed. The commit is parked.
    pub(super) fn break_chain(&mut self, cause: &str) {
        self.change(RepoState::Desynchronized, true);
        self.cause = Some(cause.to_owned());
    }

    /// What is due at another time than before is due at once.
    fn change(&mut self, state: RepoState, has_parked: bool) {
        if (state, has_parked) != (self.state, self.has_parked) {
            self.retry_at = None;
        }
        self.state = state;
        self.has_parked = has_parked;
    }

    /// A commit was written whose chain is not followed.
    pub(super) fn note_unverified(&mut self, version: &RecordVersion, source: &SourceId) {
        let is_newer = self
            .rev
            .as_deref()
            .is_none_or(|rev| version.rev.as_str() > rev);
        if !is_newer || !self.state.takes_commits() {
            return;
        }
        self.state = RepoState::UnverifiedChain;
        self.rev = Some(version.rev.to_string());
        self.data = Some(version.data.to_string());
        self.seq = Some(version.seq);
        self.source = Some(source.as_str().to_owned());
        self.time = Some(sortable(version.time));
    }

    /// Too much was parked, and was dropped.
    pub(super) fn overflow(&mut self) {
        self.desynchronize("overflow");
        self.has_parked = false;
    }

    /// Something of it could not be verified, so it is compared with what its host has. Returns whether
    /// there is anything to compare: where the chain was never checked, there is not.
    pub(super) fn recheck(&mut self) -> bool {
        let is_chained = self.state != RepoState::UnverifiedChain;
        if is_chained {
            self.recheck_cause.get_or_insert(0);
        }
        is_chained
    }

    /// The same where something of it would have been kept. Returns whether it is to be fetched now.
    pub(super) fn fetch_instead_of_recheck(&mut self) -> bool {
        let is_unverified = self.state == RepoState::UnverifiedChain;
        if is_unverified {
            self.desynchronize("refused");
        }
        is_unverified
    }

    /// Its account has come back. What happened meanwhile is not known.
    pub(super) fn return_of_account(&mut self) {
        self.desynchronize(RETURNED);
        self.forget_attempts();
    }

    /// Its account was removed, with all that it had until then. Should the account come back, so does
    /// its repository, and not before. Returns what is left.
    pub(super) fn after_removal(mut self, removed_at: &str) -> Option<Self> {
        let has_gone = self.time.as_deref().is_none_or(|time| time <= removed_at);
        match (has_gone, self.state) {
            (true, RepoState::UnverifiedChain) => return None,
            (true, _) => {
                self.desynchronize(RETURNED);
                (self.rev, self.data) = (None, None);
                self.has_parked = false;
                self.retry_at = Some(NEVER.to_owned());
                self.attempts = 0;
            }
            // What was parked of one that is newer has gone all the same.
            (false, _) if self.has_parked => {
                self.desynchronize(RETURNED);
                self.has_parked = false;
            }
            (false, _) => {}
        }
        Some(self)
    }

    /// A search has found it. One that was never seen as a whole is to be fetched.
    pub(super) fn discover(&mut self) {
        if !self.is_whole && self.state.takes_commits() {
            self.desynchronize("backfill");
        }
    }

    // === What comes of fetching it ===

    /// In another state than the one that the attempt has set, it has to be fetched once more for a
    /// reason that came up meanwhile.
    fn after_resync(mut self, resync: &Resync, contents: Contents) -> Option<Self> {
        let is_current = self.state == RepoState::Resyncing;
        match &resync.outcome {
            Ok(done) => {
                if is_current {
                    self.state = RepoState::Synchronized;
                    self.rev = Some(done.rev.clone());
                    self.data = Some(done.data.clone());
                    self.seq = None;
                    self.source.clone_from(&resync.host);
                    self.time = Some(sortable(done.time));
                    self.is_whole = true;
                    self.forget_attempts();
                }
                self.unless_empty(contents.has_records)
            }
            Err(failure) => {
                if is_current {
                    self.state = match failure.is_throttled {
                        true => RepoState::Throttled,
                        false => RepoState::Desynchronized,
                    };
                    self.retry_at = Some(sortable(failure.retry_at));
                    self.attempts += 1;
                }
                let was_ever_there = self.rev.is_some() || self.has_parked || contents.has_records;
                let is_guess = matches!(self.cause.as_deref(), Some("backfill" | "refused"));
                let is_sure = self.attempts > ATTEMPTS_TO_BE_SURE;
                let is_forgotten = failure.is_gone && !was_ever_there && is_guess && is_sure;
                (!is_forgotten).then_some(self)
            }
        }
    }

    /// Opens the way for the stream where nothing is parked any more.
    pub(super) fn after_replay(mut self, contents: Contents) -> Option<Self> {
        if !contents.has_parked {
            self.has_parked = false;
            self.forget_attempts();
        }
        self.unless_empty(contents.has_records)
    }

    /// A repository is tracked only while something of it is kept, or it is to be looked into.
    fn unless_empty(self, has_records: bool) -> Option<Self> {
        let is_empty = self.state.takes_commits() && !self.has_parked && !has_records;
        (!is_empty).then_some(self)
    }
}
