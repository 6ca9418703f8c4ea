//! The HousekeepingActor: shows the budget, counts gaps and repositories, deletes the rows of removed
//! accounts and dropped parked commits in pieces, purges old rows, saves identities.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::time::{Instant, timeout};

use metrics_exporter_prometheus::PrometheusHandle;

use super::directory_report::DirectoryReport;
use crate::delivery::budget::Budget;
use crate::model::SourceId;
use crate::repo::Repositories;
use crate::source::process::Processor;
use crate::store::sqlite::SqliteStore;
use crate::store::{PieceLimit, Purged, Retention, Store, StoreError};
use crate::telemetry::clocks::ClockStatus;
use crate::telemetry::status::{DirectoryFailure, StatusBoard};
use crate::testing::fault::{Faults, Point};

/// How often the budget is shown, and the samples of histograms are merged. Until they are merged,
/// the exporter keeps every single sample in memory.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);
/// How often open gaps are counted, and repositories that wait for a job.
const COUNT_INTERVAL: Duration = Duration::from_secs(5);
const COUNT_DEADLINE: Duration = Duration::from_secs(5);
/// How often rows older than their retention are purged. The first purge is after `FIRST_PURGE`.
const PURGE_INTERVAL: Duration = Duration::from_secs(3600);
const FIRST_PURGE: Duration = Duration::from_secs(60);
const PURGE_DEADLINE: Duration = Duration::from_secs(60);
/// How often dead letters are counted, and those beyond their limits are deleted.
const TRIM_INTERVAL: Duration = Duration::from_secs(30);
const FIRST_TRIM: Duration = Duration::from_secs(2);
/// How long pieces of them follow each other in one turn.
const TRIM_TIME: Duration = Duration::from_secs(5);
/// How often the actor looks for accounts that were removed and for parked commits that were dropped.
/// While there is one, a piece follows the other; others write between them.
const REMOVAL_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is noted where the cursors stand, and when for the first time.
const MARK_INTERVAL: Duration = Duration::from_secs(60);
const FIRST_MARK: Duration = Duration::from_secs(1);
/// How often the identities that were looked up are saved.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// After this time a piece is tried again with half of its rows.
const PIECE_DEADLINE: Duration = Duration::from_secs(5);
/// A piece that took longer is followed by one of half its rows, but at least [`FEWEST_ROWS`], so that
/// others wait briefly on a slow machine too.
const PIECE_TARGET: Duration = Duration::from_millis(200);
const FEWEST_ROWS: u64 = 100;

/// Does what is due at regular intervals.
pub struct HousekeepingActor;

/// What the HousekeepingActor counts, shows and purges.
pub struct Household {
    pub store: Arc<dyn Store>,
    pub repositories: Option<Arc<Repositories>>,
    pub sources: Vec<SourceId>,
    pub budget: Arc<Budget>,
    pub prometheus: PrometheusHandle,
    pub status: StatusBoard,
    pub retention: Retention,
    pub processor: Arc<Processor>,
    pub directory_report: DirectoryReport,
    /// `None` if cursors are not marked.
    pub marks: Option<Marks>,
    pub recheck: Option<RecheckPlan>,
    pub faults: Faults,
}

/// Where the marks of the cursors are kept, and for how long.
pub struct Marks {
    pub store: Arc<SqliteStore>,
    pub window: Duration,
}

/// How often repositories are compared with their hosts although nothing speaks against them, and how
/// many each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecheckPlan {
    pub interval: Duration,
    pub repositories: u32,
}

impl Household {
    fn directory_fault(&self) -> Option<DirectoryFailure> {
        let identities = &self.repositories.as_ref()?.verification.identities;
        let fault = identities.directory_fault()?;
        Some(DirectoryFailure {
            directory: identities.directory(),
            at: fault.since,
            reason: fault.reason,
        })
    }
}

#[derive(Debug)]
pub enum HousekeepingMessage {
    Upkeep,
    Count,
    /// Note where the cursors stand.
    MarkCursors,
    /// Delete a piece of the rows of removed accounts, or of dropped parked commits.
    Remove(PieceLimit),
    Purge,
    /// Delete the dead letters beyond their limits.
    TrimLetters,
    /// Have some repositories compared with their hosts.
    Recheck(RecheckPlan),
    /// Write the identities that were looked up.
    SaveIdentities,
}

impl Actor for HousekeepingActor {
    type Msg = HousekeepingMessage;
    type State = Arc<Household>;
    type Arguments = Arc<Household>;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        household: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        myself.send_interval(UPKEEP_INTERVAL, || HousekeepingMessage::Upkeep);
        myself.send_interval(COUNT_INTERVAL, || HousekeepingMessage::Count);
        myself.cast(HousekeepingMessage::Remove(PieceLimit::default()))?;
        myself.send_after(FIRST_PURGE, || HousekeepingMessage::Purge);
        myself.send_after(FIRST_TRIM, || HousekeepingMessage::TrimLetters);
        if household.marks.is_some() {
            myself.send_after(FIRST_MARK, || HousekeepingMessage::MarkCursors);
            myself.send_interval(MARK_INTERVAL, || HousekeepingMessage::MarkCursors);
        }
        if let Some(plan) = household.recheck {
            myself.send_after(plan.interval, move || HousekeepingMessage::Recheck(plan));
        }
        let repositories = household.repositories.as_ref();
        if repositories.is_some_and(|repositories| repositories.keeps_identities()) {
            myself.send_after(SAVE_INTERVAL, || HousekeepingMessage::SaveIdentities);
        }
        Ok(household)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        household: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let point = Point::HousekeepingMessage;
        household.faults.pass(point, &myself.get_cell()).await?;
        match message {
            HousekeepingMessage::Upkeep => upkeep(household).await,
            HousekeepingMessage::Count => {
                count_gaps(household).await;
                count_removals(household).await;
                count_repositories(household).await;
                compare_clocks(household);
            }
            HousekeepingMessage::MarkCursors => mark_positions(household).await,
            HousekeepingMessage::Remove(limit) => {
                let next = remove_piece(household, limit).await;
                let message = move || HousekeepingMessage::Remove(next.limit);
                match next.is_soon {
                    true => myself.cast(message())?,
                    false => drop(myself.send_after(REMOVAL_INTERVAL, message)),
                }
            }
            HousekeepingMessage::Purge => {
                purge(household).await;
                myself.send_after(PURGE_INTERVAL, || HousekeepingMessage::Purge);
            }
            HousekeepingMessage::TrimLetters => {
                trim_letters(household).await;
                myself.send_after(TRIM_INTERVAL, || HousekeepingMessage::TrimLetters);
            }
            HousekeepingMessage::Recheck(plan) => {
                recheck(household, plan).await;
                myself.send_after(plan.interval, move || HousekeepingMessage::Recheck(plan));
            }
            HousekeepingMessage::SaveIdentities => {
                save_identities(household).await;
                myself.send_after(SAVE_INTERVAL, || HousekeepingMessage::SaveIdentities);
            }
        }
        Ok(())
    }
}

/// A sample that cannot be marked now is one less; the next one comes after the interval.
async fn recheck(household: &Household, plan: RecheckPlan) {
    let Some(repositories) = &household.repositories else {
        return;
    };
    let marked = repositories.store.recheck_sample(plan.repositories);
    if let Ok(Ok(repositories)) = timeout(COUNT_DEADLINE, marked).await {
        tracing::debug!(
            repositories,
            "some repositories are compared with their hosts"
        );
    }
}

async fn upkeep(household: &Household) {
    let in_flight = household.budget.in_flight_bytes();
    let directory = household.directory_fault();
    household.status.update(|status| {
        status.budget.limit_bytes = household.budget.limit_bytes() as u64;
        status.budget.in_flight_bytes = in_flight as u64;
        status.directory.clone_from(&directory);
        status.wal_bytes = household.store.log_bytes();
        status.writer = household.store.trips();
    });
    household.prometheus.run_upkeep();
    report_directory(household, directory).await;
}

/// Tells the log of a failure of the PLC directory, and of its end.
async fn report_directory(household: &Household, now: Option<DirectoryFailure>) {
    let Some(news) = household.directory_report.news(now) else {
        return;
    };
    // What waits may have come since the last count.
    count_repositories(household).await;
    let counts = household.status.snapshot().repositories.unwrap_or_default();
    household
        .directory_report
        .tell(news, counts.parked.key.commits);
}

// Errors are ignored here: the actors that write to the database report that it does not answer.
async fn count_gaps(household: &Household) {
    for source in &household.sources {
        let counted = timeout(COUNT_DEADLINE, household.store.count_open_gaps(source)).await;
        if let Ok(Ok(open_gaps)) = counted {
            household.status.update(|status| {
                let source = status.source_mut(source);
                source.open_gaps = open_gaps.all;
                source.open_interest_gaps = open_gaps.interest_widened;
            });
        }
    }
}

async fn count_removals(household: &Household) {
    let counted = timeout(COUNT_DEADLINE, household.store.count_removals()).await;
    if let Ok(Ok(removals)) = counted {
        household
            .status
            .update(|status| status.pending_removals = removals);
    }
}

async fn count_repositories(household: &Household) {
    let Some(repositories) = &household.repositories else {
        return;
    };
    let counted = timeout(COUNT_DEADLINE, repositories.store.repo_counts()).await;
    if let Ok(Ok(counts)) = counted {
        household
            .status
            .update(|status| status.repositories = Some(counts));
    }
}

/// Deletes the dead letters beyond their limits, in pieces, and shows how many are kept. What is left after
/// an error or after [`TRIM_TIME`] is deleted in the next turn.
async fn trim_letters(household: &Household) {
    let (began, mut deleted, mut kept) = (Instant::now(), 0, None);
    while began.elapsed() < TRIM_TIME {
        let piece = household.store.trim_letters(household.retention);
        let Ok(Ok(piece)) = timeout(PIECE_DEADLINE, piece).await else {
            break;
        };
        kept = Some(piece);
        deleted += piece.deleted;
        if piece.deleted == 0 {
            break;
        }
    }
    if deleted > 0 {
        tracing::warn!(
            deleted,
            "the oldest dead letters were deleted, because there are more than dead_letter_limit or \
             dead_letter_bytes allow"
        );
    }
    if let Some(kept) = kept {
        household.status.update(|status| {
            status.dead_letters.kept = kept.letters;
            status.dead_letters.bytes = kept.bytes;
        });
    }
}

/// Notes where the cursors stand. A mark that fails is missing, and another follows in a minute.
async fn mark_positions(household: &Household) {
    let Some(Marks { store, window }) = &household.marks else {
        return;
    };
    if let Err(error) = store.mark_positions(Timestamp::now(), *window).await {
        tracing::debug!(%error, "the cursors were not marked; trying again in a minute");
    }
}

/// Shows how our clock compares with those of the source and of the hosts. Nothing else follows
/// from it.
fn compare_clocks(household: &Household) {
    let hosts = household.repositories.as_ref();
    let hosts_ahead = hosts.and_then(|repositories| repositories.host_clocks.ahead());
    let clock = ClockStatus::of(household.processor.clock.lead(), hosts_ahead);
    let mut before = None;
    household.status.update(|status| {
        before = status.clock.trouble;
        status.clock = clock.clone();
    });
    match clock.trouble {
        trouble if trouble == before => {}
        Some(trouble) => tracing::warn!(
            trouble,
            source_ahead_s = clock.source_ahead_seconds,
            hosts_ahead_s = clock.hosts_ahead_seconds,
            "our clock seems to be wrong; nothing is done about it, set the clock of this machine"
        ),
        None => tracing::info!("our clock agrees with the others again"),
    }
}

/// The next piece of a removal.
struct NextPiece {
    limit: PieceLimit,
    /// More rows are left.
    is_soon: bool,
}

/// Deletes a piece of the rows of removed accounts, or of dropped parked commits. One that met its
/// deadline is tried again with half of its rows, so that it comes to an end on a slow disk too.
async fn remove_piece(household: &Household, limit: PieceLimit) -> NextPiece {
    let began = Instant::now();
    let piece = timeout(PIECE_DEADLINE, do_piece(&*household.store, limit));
    let full = PieceLimit::default();
    match piece.await.unwrap_or(Err(StoreError::Deadline)) {
        Ok(true) => {
            let rows = rows_after(limit.rows, began.elapsed());
            NextPiece {
                limit: PieceLimit { rows, ..full },
                is_soon: true,
            }
        }
        Ok(false) => NextPiece {
            limit: full,
            is_soon: false,
        },
        Err(error) => {
            tracing::debug!(
                %error,
                rows = limit.rows,
                "could not do a piece of the work on removed, dropped or unnumbered rows; trying again in 1 s"
            );
            let rows = (limit.rows / 2).max(1);
            NextPiece {
                limit: PieceLimit { rows, ..full },
                is_soon: false,
            }
        }
    }
}

/// Deletes a piece, or gives rows of an earlier version what later ones have. Returns whether there was
/// one.
async fn do_piece(store: &dyn Store, limit: PieceLimit) -> Result<bool, StoreError> {
    if store.drop_piece(limit).await?
        || store.number_piece(limit).await?
        || store.group_piece(limit).await?
    {
        return Ok(true);
    }
    let Some(piece) = store.remove_piece(limit).await? else {
        return Ok(false);
    };
    if piece.is_last {
        tracing::info!(did = piece.did, "all rows of a removed account are deleted");
    }
    Ok(true)
}

/// Saves the identities that were looked up. They are in memory, so nothing waits for it.
async fn save_identities(household: &Household) {
    let Some(repositories) = &household.repositories else {
        return;
    };
    if let Err(error) = repositories.save_identities().await {
        tracing::debug!(
            %error,
            retry_in_s = SAVE_INTERVAL.as_secs(),
            "identities cannot be saved; they stay in memory, and are saved with the next ones"
        );
    }
}

/// The rows of the piece after one of at most `rows`, which took `elapsed`.
fn rows_after(rows: u64, elapsed: Duration) -> u64 {
    let most = PieceLimit::default().rows;
    match elapsed {
        slow if slow > PIECE_TARGET => rows.min((rows / 2).max(FEWEST_ROWS)),
        fast if fast < PIECE_TARGET / 2 => (rows * 2).min(most),
        _ => rows,
    }
}

async fn purge(household: &Household) {
    let purged = timeout(PURGE_DEADLINE, household.store.purge(household.retention)).await;
    match purged {
        Ok(Ok(purged)) if purged == Purged::default() => {}
        Ok(Ok(purged)) => tracing::info!(
            accounts = purged.accounts,
            booking_requests = purged.booking_requests,
            dead_letters = purged.dead_letters,
            resyncs = purged.resyncs,
            closed_gaps = purged.closed_gaps,
            commands = purged.commands,
            audit_rows = purged.audit_rows,
            "purged rows older than their retention"
        ),
        Ok(Err(error)) => tracing::warn!(
            %error,
            retry_in_s = PURGE_INTERVAL.as_secs(),
            "purge failed; old rows are kept until the next purge"
        ),
        Err(_elapsed) => tracing::warn!(
            deadline_s = PURGE_DEADLINE.as_secs(),
            retry_in_s = PURGE_INTERVAL.as_secs(),
            "purge met its deadline; the next purge continues"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds invariant 8.8.
    #[test]
    fn a_piece_after_a_slow_one_is_smaller_and_one_after_a_fast_one_larger() {
        let most = PieceLimit::default().rows;
        let slow = PIECE_TARGET + Duration::from_millis(1);
        let fast = PIECE_TARGET / 4;
        assert_eq!(rows_after(most, PIECE_TARGET), most);
        assert_eq!(rows_after(most, slow), most / 2);
        assert_eq!(rows_after(most / 2, fast), most);
        assert_eq!(rows_after(most, fast), most);
        // A slow piece of few rows is not slow because of its rows.
        assert_eq!(rows_after(FEWEST_ROWS, slow), FEWEST_ROWS);
        // After a deadline there may be fewer still. A slow piece does not make them more.
        assert_eq!(rows_after(1, slow), 1);
        assert_eq!(rows_after(1, fast), 2);
    }
}
