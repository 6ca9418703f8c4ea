//! The state machine of one repository: its row, and how an event changes it.
//!
//! A repository is tracked, which means it has a row, while records or parked commits of it are
//! kept or work for it is due.

use jiff::{SignedDuration, Timestamp};

use super::order::{AsOf, Order, Stamp};
use super::resync_cause::ResyncCause;
use super::task::Resync;
use crate::model::SourceId;
use crate::store::datetime::sortable;
use crate::store::plan::effect::{ChainUpdate, RecordVersion};

/// How long the job of a repository rests while its account is inactive. What makes the account
/// active again also ends the rest; this is for the case that nothing says so.
pub(crate) const REST: SignedDuration = SignedDuration::from_hours(24);

/// After more failed attempts than this, a reported absence of a repository is accepted. By then,
/// attempts are an hour apart.
const ATTEMPTS_TO_BE_SURE: u32 = 10;

/// The state of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RepoState {
    /// Nothing is missing up to the last commit.
    Synchronized,
    /// Something is missing. It has to be fetched as a whole.
    Desynchronized,
    /// It is being fetched.
    Resyncing,
    /// It has to be fetched later: its host is cooling down, or it was fetched too often.
    Throttled,
    /// Its chain is not checked.
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

    /// Whether commits are applied when they arrive.
    pub(super) fn takes_commits(self) -> bool {
        matches!(self, Self::Synchronized | Self::UnverifiedChain)
    }
}

/// A row of `repos`: a tracked repository. Datetimes are text that sorts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoRow {
    pub state: RepoState,
    /// The rev and the tree of the last commit; `None` if no commit was seen yet.
    pub rev: Option<String>,
    pub data: Option<String>,
    /// The commit was verified. An unproven rev bounds nothing.
    pub is_proven: bool,
    /// The seq of the event that set the head; `None` after a resync.
    pub seq: Option<u64>,
    pub source: Option<String>,
    pub time: Option<String>,
    /// Why it last became desynchronized.
    pub cause: Option<ResyncCause>,
    /// All of its wanted records are known, not only those since its first received commit.
    pub is_whole: bool,
    /// Commits of it are parked. Later ones must not overtake them.
    pub has_parked: bool,
    /// The gap that requires a recheck; 0 stands for a refused commit.
    pub recheck_cause: Option<i64>,
    /// When it is due again; `None` means at once.
    pub retry_at: Option<String>,
    /// Failed attempts since the last success.
    pub attempts: u32,
    /// Its job waits for what is its account's own.
    pub waits_for_account: bool,
}

/// What the job of a repository waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// What is its account's own: its host or that of its `did:web`, the time of its rev, or the end
    /// of a pause that its own events or fetches have caused.
    Account,
    /// This process, or the PLC directory.
    Shared,
}

impl WaitsFor {
    pub fn shared_if(is_shared: bool) -> Self {
        match is_shared {
            true => Self::Shared,
            false => Self::Account,
        }
    }
}

/// What the RepositoriesActor reports of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepoEvent<'a> {
    /// Its fetch begins, and waits for its host. Commits that arrive meanwhile are parked. The fetch
    /// also answers every recheck that was requested before.
    BeginResync,
    /// A recheck with this cause found it at the known head.
    ConfirmRecheck { recheck_cause: Option<i64> },
    /// An attempt to fetch it ended.
    EndResync(&'a Resync),
    /// It has no more parked commits.
    FinishReplay,
    /// It has to be compared with its host. Without a checked chain it is fetched instead.
    RequestRecheck,
    /// It has to be fetched as a whole, in any state.
    RequestResync { cause: ResyncCause },
    /// Its job is rescheduled until then, because no slot was free. `waits_for` is `None` if that says
    /// nothing new.
    Reschedule {
        until: Timestamp,
        waits_for: Option<WaitsFor>,
    },
    /// Its job failed and is retried then.
    RetryLater {
        until: Timestamp,
        waits_for: WaitsFor,
    },
    /// Its account is not active. No job runs for it until the account is active again, or until
    /// then. Its parked commits are dropped.
    Suspend { until: Timestamp },
    /// It is no longer wanted.
    Untrack,
}

/// What other tables hold of a repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Records or tombstones.
    pub has_records: bool,
    /// Parked frames, apart from the one that is being replayed.
    pub has_parked: bool,
}

/// Returns the row after `event`. `None` means not tracked.
pub fn transition(
    repo: Option<&RepoRow>,
    event: RepoEvent<'_>,
    contents: Contents,
) -> Option<RepoRow> {
    let Some(repo) = repo else {
        return match event {
            RepoEvent::RequestRecheck => Some(RepoRow::to_be_fetched(ResyncCause::Operator)),
            RepoEvent::RequestResync { cause } => Some(RepoRow::to_be_fetched(cause)),
            _ => None,
        };
    };
    let mut next = repo.clone();
    match event {
        RepoEvent::BeginResync => {
            next.state = RepoState::Resyncing;
            next.recheck_cause = None;
            next.waits_for_account = true;
        }
        RepoEvent::ConfirmRecheck { recheck_cause } => {
            if next.recheck_cause == recheck_cause {
                next.recheck_cause = None;
                next.forget_attempts();
                return next.unless_empty(contents.has_records);
            }
        }
        RepoEvent::EndResync(resync) => return next.after_resync(resync, contents),
        RepoEvent::FinishReplay => return next.after_replay(contents),
        RepoEvent::RequestRecheck => {
            match next.state {
                RepoState::UnverifiedChain if !next.has_parked => {
                    next.desynchronize(ResyncCause::Operator);
                }
                RepoState::Synchronized | RepoState::UnverifiedChain => {
                    next.recheck_cause.get_or_insert(0);
                }
                // It is fetched anyway.
                RepoState::Desynchronized | RepoState::Resyncing | RepoState::Throttled => {}
            }
            next.retry_at = None;
        }
        RepoEvent::RequestResync { cause } => {
            next.desynchronize(cause);
            next.recheck_cause = None;
            next.retry_at = None;
        }
        RepoEvent::Reschedule { until, waits_for } => {
            if matches!(next.state, RepoState::Desynchronized | RepoState::Resyncing) {
                next.state = RepoState::Throttled;
            }
            next.retry_at = Some(sortable(until));
            if let Some(waits_for) = waits_for {
                next.waits_for_account = waits_for == WaitsFor::Account;
            }
        }
        RepoEvent::RetryLater { until, waits_for } => {
            next.retry_at = Some(sortable(until));
            next.waits_for_account = waits_for == WaitsFor::Account;
            next.attempts += 1;
        }
        RepoEvent::Suspend { until } => {
            if next.has_parked {
                next.desynchronize(ResyncCause::Returned);
                next.has_parked = false;
            }
            next.retry_at = Some(sortable(until));
        }
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
            is_proven: false,
            seq: None,
            source: None,
            time: None,
            cause: None,
            is_whole: false,
            has_parked: false,
            recheck_cause: None,
            retry_at: None,
            attempts: 0,
            waits_for_account: false,
        }
    }

    pub(super) fn to_be_fetched(cause: ResyncCause) -> Self {
        let mut repo = Self::unknown();
        repo.desynchronize(cause);
        repo
    }

    /// A repository of an account that was just announced as active, and of which nothing is known.
    /// It is fetched at `due`, unless the account turns out to be new.
    pub(super) fn announced(due: &str) -> Self {
        let mut repo = Self::to_be_fetched(ResyncCause::Announced);
        repo.retry_at = Some(due.to_owned());
        repo
    }

    /// Whether nothing is known of it but that its account is active.
    pub(super) fn is_only_announced(&self) -> bool {
        self.state == RepoState::Desynchronized
            && self.cause == Some(ResyncCause::Announced)
            && self.rev.is_none()
            && !self.has_parked
            && self.recheck_cause.is_none()
    }

    fn desynchronize(&mut self, cause: ResyncCause) {
        self.state = RepoState::Desynchronized;
        self.cause = Some(cause);
    }

    fn forget_attempts(&mut self) {
        self.retry_at = None;
        self.attempts = 0;
        self.waits_for_account = false;
    }

    // === Changes from the stream ===

    /// Moves the head to `update`. `is_whole` if it is the first commit of its repository.
    pub(super) fn follow(&mut self, update: &ChainUpdate, is_whole: bool, source: &SourceId) {
        self.change(RepoState::Synchronized, self.has_parked);
        self.rev = Some(update.rev.to_string());
        self.data = Some(update.data.to_string());
        self.is_proven = true;
        self.seq = Some(update.seq);
        self.source = Some(source.as_str().to_owned());
        self.time = Some(sortable(update.time));
        self.is_whole |= is_whole;
    }

    /// Notes that a commit is parked.
    pub(super) fn park(&mut self) {
        self.change(self.state, true);
    }

    /// Notes a missing commit. The commit that showed it is parked.
    pub(super) fn break_chain(&mut self, cause: ResyncCause) {
        self.change(RepoState::Desynchronized, true);
        self.cause = Some(cause);
    }

    /// Has it fetched. Nothing is parked for that.
    pub(super) fn fetch(&mut self, cause: ResyncCause) {
        self.change(RepoState::Desynchronized, self.has_parked);
        self.cause = Some(cause);
    }

    /// Sets the state. A change of it makes the repository due at once.
    fn change(&mut self, state: RepoState, has_parked: bool) {
        if (state, has_parked) != (self.state, self.has_parked) {
            self.retry_at = None;
        }
        self.state = state;
        self.has_parked = has_parked;
    }

    /// Moves the head of a repository whose chain is not checked.
    pub(super) fn move_unverified_head(
        &mut self,
        version: &RecordVersion,
        source: &SourceId,
        order: &Order<'_>,
    ) {
        let new = Stamp::of(version, source);
        let is_newer = self.stamp().is_none_or(|known| order.is_newer(new, known));
        if !is_newer || !self.state.takes_commits() {
            return;
        }
        self.state = RepoState::UnverifiedChain;
        self.rev = Some(version.rev.to_string());
        self.data = Some(version.data.to_string());
        self.is_proven = version.verified.is_some();
        self.seq = Some(version.seq);
        self.source = Some(source.as_str().to_owned());
        self.time = Some(sortable(version.time));
    }

    /// The commit at the head, if there is one.
    fn stamp(&self) -> Option<Stamp<'_>> {
        Some(Stamp {
            rev: self.rev.as_deref()?,
            source: self.source.as_deref(),
            seq: self.seq.unwrap_or(u64::MAX),
            time: self.time.as_deref().and_then(|time| time.parse().ok()),
            is_proven: self.is_proven,
        })
    }

    /// The event that set the head, if there is one.
    pub(super) fn as_of(&self) -> Option<AsOf> {
        Some(AsOf {
            source: self.source.clone(),
            seq: self.seq.unwrap_or_default(),
            time: self.time.clone()?,
        })
    }

    /// Has it fetched, because its parked commits exceeded a limit and were dropped.
    pub(super) fn overflow(&mut self) {
        self.desynchronize(ResyncCause::Overflow);
        self.has_parked = false;
    }

    /// Requests a recheck, because a commit of it was refused; `is_wanted`: with wanted records.
    /// Without a checked chain there is nothing to compare, so it is fetched instead if that is
    /// worth it. But parked commits may begin the chain, and their fate must not depend on what came
    /// behind them, so the recheck then waits for their replay. Returns whether there is any work.
    pub(super) fn recheck(&mut self, is_wanted: bool) -> bool {
        let has_chain = self.state != RepoState::UnverifiedChain || self.has_parked;
        match (has_chain, is_wanted) {
            (true, _) => {
                self.recheck_cause.get_or_insert(0);
            }
            (false, true) => self.desynchronize(ResyncCause::Refused),
            (false, false) => {}
        }
        has_chain || is_wanted
    }

    /// Has it fetched, because its earlier records were not wanted when they came.
    pub(super) fn fetch_for_interest(&mut self) {
        self.desynchronize(ResyncCause::Interest);
    }

    /// Has it fetched, because its account is active again and its commits meanwhile are unknown.
    pub(super) fn resume_account(&mut self) {
        self.desynchronize(ResyncCause::Returned);
        self.forget_attempts();
    }

    /// Returns what stays of it after its account was removed. Its head `survives` if it came after
    /// the removal. It is fetched if the account becomes active again; until then its job rests.
    pub(super) fn after_removal(mut self, survives: bool, rests_until: &str) -> Option<Self> {
        match (!survives, self.state) {
            (true, RepoState::UnverifiedChain) => return None,
            (true, _) => {
                self.desynchronize(ResyncCause::Returned);
                (self.rev, self.data) = (None, None);
                self.is_proven = false;
                self.has_parked = false;
                // It keeps an earlier time, so that a replay of the deletion changes nothing.
                self.retry_at.get_or_insert_with(|| rests_until.to_owned());
                self.attempts = 0;
            }
            // A newer repository loses its parked commits too.
            (false, _) if self.has_parked => {
                self.desynchronize(ResyncCause::Returned);
                self.has_parked = false;
            }
            (false, _) => {}
        }
        Some(self)
    }

    /// Notes that a discovery found it. It is fetched, unless it was already seen as a whole.
    pub(super) fn discover(&mut self) {
        if !self.is_whole && (self.state.takes_commits() || self.is_only_announced()) {
            self.desynchronize(ResyncCause::Backfill);
        }
    }

    // === Changes by a resync or a replay ===

    /// Applies the outcome of a resync. If the state is no longer `Resyncing`, it has to be fetched
    /// again for a newer reason.
    fn after_resync(mut self, resync: &Resync, contents: Contents) -> Option<Self> {
        let is_current = self.state == RepoState::Resyncing;
        match &resync.outcome {
            Ok(done) => {
                if is_current {
                    self.state = RepoState::Synchronized;
                    self.rev = Some(done.rev.clone());
                    self.data = Some(done.data.clone());
                    self.is_proven = true;
                    self.seq = None;
                    self.source.clone_from(&resync.host);
                    self.time = Some(sortable(done.time));
                    self.is_whole = done.missing == 0;
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
                    self.waits_for_account = failure.waits_for == WaitsFor::Account;
                    self.attempts += 1;
                }
                let has_evidence = self.rev.is_some() || self.has_parked || contents.has_records;
                let is_speculative = matches!(
                    self.cause,
                    Some(
                        ResyncCause::Announced
                            | ResyncCause::Backfill
                            | ResyncCause::Interest
                            | ResyncCause::Refused
                    )
                );
                let has_enough_attempts = self.attempts > ATTEMPTS_TO_BE_SURE;
                let is_forgotten =
                    failure.is_gone && !has_evidence && is_speculative && has_enough_attempts;
                (!is_forgotten).then_some(self)
            }
        }
    }

    /// Ends the replay if nothing is parked any more. Then commits of the stream are applied again.
    pub(super) fn after_replay(mut self, contents: Contents) -> Option<Self> {
        if !contents.has_parked {
            self.has_parked = false;
            self.forget_attempts();
        }
        self.unless_empty(contents.has_records)
    }

    /// Returns `None`, so that it is no longer tracked, if it has no records, no parked commits and
    /// no work.
    pub(super) fn unless_empty(self, has_records: bool) -> Option<Self> {
        let has_work =
            !self.state.takes_commits() || self.has_parked || self.recheck_cause.is_some();
        (has_work || has_records).then_some(self)
    }
}
