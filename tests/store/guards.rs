//! What an account, a host or a source writes as a time, a rev or a seq keeps no row as it is for
//! ever. Holds invariants 2.5, 2.6 and 9.

use huddle_firehose::atproto::syntax::Tid;
use huddle_firehose::atproto::verify::Level;
use huddle_firehose::model::{Gap, GapCause, Position, SourceId};
use huddle_firehose::store::plan::ResyncCause;
use huddle_firehose::store::plan::effect::{Effect, RecordChange};
use huddle_firehose::store::repo_store::{HostStatus, RepoChange, RepoStore};
use huddle_firehose::store::{Store, WriteBatch};
use jiff::Timestamp;

use crate::commits::*;
use crate::fixture::*;

const STATUS: &str = "SELECT coalesce(status, 'active') FROM accounts";
const OF_2090: &str = "5fo7oocwk2222";
const YEAR_9999: i64 = 253_370_764_800;

/// Applies `effects`, and moves the cursor behind them.
async fn follow(database: &Database, effects: &[Effect], seq: u64) {
    database.try_apply(effects, seq).await.unwrap();
}

/// Applies `effects` of another source.
async fn follow_other(database: &Database, effects: &[Effect], seq: u64) {
    let batch = WriteBatch {
        source: &SourceId::new("wss://other.example/"),
        effects,
        position: Position { seq, time: None },
        sequence_restarted: false,
    };
    database.store.apply(&batch).await.unwrap();
}

/// The effect of an event with another time.
fn dated(mut effect: Effect, second: i64) -> Effect {
    let dated = Timestamp::from_second(second).unwrap();
    match &mut effect {
        Effect::Account(change) => change.time = dated,
        Effect::Identity(change) => change.time = dated,
        Effect::Commit(commit) => {
            for record in &mut commit.records {
                if let RecordChange::Upsert(upsert) = record {
                    upsert.version.time = dated;
                }
            }
        }
        _ => {}
    }
    effect
}

/// The effect of a commit with another rev and level.
fn proven(mut effect: Effect, rev: &str, level: Option<Level>) -> Effect {
    if let Effect::Commit(commit) = &mut effect {
        for record in &mut commit.records {
            let version = match record {
                RecordChange::Upsert(upsert) => &mut upsert.version,
                RecordChange::Delete(delete) => &mut delete.version,
                _ => continue,
            };
            version.rev = Tid::parse(rev).unwrap();
            version.verified = level;
        }
    }
    effect
}

#[tokio::test]
async fn within_one_batch_the_seq_decides_whatever_the_times_say() {
    let database = Database::new().await;
    let active = dated(account(ALICE, None, 1), 1_700_003_600);
    let takedown = dated(account(ALICE, Some("takendown"), 2), 1_700_000_060);
    let named = dated(identity(ALICE, Some("old.example"), 3), 1_700_003_600);
    let unnamed = dated(identity(ALICE, None, 4), 1_700_000_060);
    follow(&database, &[active, takedown, named, unnamed], 4).await;
    assert_eq!(database.column(STATUS).await, ["takendown"]);
    let handles = "SELECT coalesce(handle, 'none') FROM accounts";
    assert_eq!(database.column(handles).await, ["none"]);
}

#[tokio::test]
async fn an_event_that_is_dated_ahead_freezes_neither_status_nor_handle() {
    for ahead in [1_900_000_000, YEAR_9999] {
        let database = Database::new().await;
        let first = dated(account(ALICE, None, 1), ahead);
        let handle = dated(identity(ALICE, Some("old.example"), 2), ahead);
        follow(&database, &[first.clone(), handle.clone()], 2).await;
        let later = [
            account(ALICE, Some("takendown"), 3),
            identity(ALICE, Some("new.example"), 4),
        ];
        follow(&database, &later, 4).await;
        // A replay of the first events changes nothing.
        follow(&database, &[first, handle], 4).await;
        assert_eq!(database.column(STATUS).await, ["takendown"]);
        let handles = "SELECT handle FROM accounts";
        assert_eq!(database.column(handles).await, ["new.example"]);
    }
}

#[tokio::test]
async fn a_status_with_a_seq_far_ahead_is_replaced_by_the_next_one() {
    let database = Database::new().await;
    let rogue = match account(ALICE, Some("deactivated"), 1) {
        Effect::Account(mut change) => {
            change.seq = 1 << 52;
            Effect::Account(change)
        }
        effect => effect,
    };
    let rogue = dated(rogue, YEAR_9999);
    follow(&database, &[rogue], 1).await;
    follow(&database, &[account(ALICE, None, 2)], 2).await;
    assert_eq!(database.column(STATUS).await, ["active"]);
}

/// Its time is credible, so only the seq can tell.
#[tokio::test]
async fn a_status_with_a_seq_far_ahead_is_replaced_by_one_that_is_dated_before_it() {
    let database = Database::new().await;
    let rogue = match account(ALICE, Some("deactivated"), 1) {
        Effect::Account(mut change) => {
            change.seq = 1 << 52;
            Effect::Account(change)
        }
        effect => effect,
    };
    follow(&database, &[dated(rogue, 1_700_003_600)], 1).await;
    let next = dated(account(ALICE, Some("takendown"), 2), 1_700_000_060);
    follow(&database, &[next], 2).await;
    assert_eq!(database.column(STATUS).await, ["takendown"]);
}

#[tokio::test]
async fn a_guard_of_an_earlier_version_that_lies_ahead_guards_nothing() {
    let database = Database::new().await;
    follow(&database, &[account(ALICE, None, 1)], 1).await;
    database
        .execute(
            "UPDATE accounts SET as_of = '9999-01-01T00:00:00.000Z', as_of_source = NULL, \
             removed_at = '9999-01-01T00:00:00.000Z'",
        )
        .await;
    let later = [account(ALICE, Some("suspended"), 2), put(ALICE, "a", 3)];
    follow(&database, &later, 3).await;
    assert_eq!(database.column(STATUS).await, ["suspended"]);
    assert_eq!(database.column(ROWS).await, ["a 3"]);
}

#[tokio::test]
async fn a_sequence_that_began_again_is_not_frozen_out_by_higher_seqs() {
    let database = Database::new().await;
    follow(&database, &[account(ALICE, None, 90)], 100).await;
    let later = |n: u64, status: Option<&str>| {
        dated(account(ALICE, status, n), 1_700_000_000 + 100 + n as i64)
    };
    let restart = Effect::Gap(gap(GapCause::SequenceReset, 100, Some(1)));
    let batch = WriteBatch {
        source: &source(),
        effects: &[restart, later(2, Some("suspended"))],
        position: Position { seq: 2, time: None },
        sequence_restarted: true,
    };
    database.store.apply(&batch).await.unwrap();
    assert_eq!(database.column(STATUS).await, ["suspended"]);
    follow(&database, &[later(3, Some("takendown"))], 3).await;
    assert_eq!(database.column(STATUS).await, ["takendown"]);
}

#[tokio::test]
async fn between_sources_the_time_of_a_status_decides() {
    let database = Database::new().await;
    follow(&database, &[account(ALICE, None, 50)], 50).await;
    // The other relay numbers otherwise, and sends its whole history.
    let history = [
        dated(account(ALICE, Some("deactivated"), 900), 1_700_000_040),
        dated(account(ALICE, Some("takendown"), 1), 1_700_000_060),
    ];
    follow_other(&database, &history[..1], 900).await;
    assert_eq!(database.column(STATUS).await, ["active"]);
    follow_other(&database, &history[1..], 901).await;
    assert_eq!(database.column(STATUS).await, ["takendown"]);
}

#[tokio::test]
async fn a_deletion_removes_what_came_before_it_whatever_its_times_say() {
    let database = Database::new().await;
    let minute_ahead = dated(put(ALICE, "before", 1), 1_700_000_090);
    let behind = dated(put(ALICE, "after", 4), 1_600_000_000);
    follow(&database, &[minute_ahead], 1).await;
    follow(&database, &[account(ALICE, Some("deleted"), 2)], 2).await;
    assert!(database.column(ROWS).await.is_empty());
    follow(&database, &[account(ALICE, None, 3), behind], 4).await;
    assert_eq!(database.column(ROWS).await, ["after 4"]);
    // A replay removes nothing that came after it.
    follow(&database, &[account(ALICE, Some("deleted"), 2)], 4).await;
    assert_eq!(database.column(ROWS).await, ["after 4"]);
    assert_eq!(database.column(STATUS).await, ["active"]);
}

#[tokio::test]
async fn a_confirmed_deletion_removes_all_that_was_received_before_the_answer() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database
        .apply(&[unconfirmed_status(ALICE, Some("deleted"), 3)])
        .await;
    let ahead = dated(put_by(ALICE, "ahead", 4), 1_700_000_090);
    database.apply(&[commit(ALICE, 4, 1), ahead]).await;
    let unconfirmed = database.store.unconfirmed(second(0), 1).await.unwrap();
    let change = RepoChange::HostAnswered {
        unconfirmed: &unconfirmed[0],
        answer: &HostStatus::Deleted,
    };
    database.store.change(change).await.unwrap();
    assert!(database.column(ROWS).await.is_empty());
}

#[tokio::test]
async fn an_unproven_rev_of_the_future_is_replaced_by_the_next_commit() {
    let database = Database::new().await;
    let created = proven(put(ALICE, "a", 1), OF_2090, None);
    follow(&database, std::slice::from_ref(&created), 1).await;
    follow(&database, &[put(ALICE, "a", 2)], 2).await;
    assert_eq!(database.column(ROWS).await, ["a 2"]);
    follow(&database, &[delete(ALICE, PROFILE, "a", 3)], 3).await;
    assert_eq!(database.column(ROWS).await, ["a 3 deleted"]);
    // A replay of the first commit changes nothing.
    follow(&database, &[created], 3).await;
    assert_eq!(database.column(ROWS).await, ["a 3 deleted"]);
    let heads = "SELECT rev FROM repos";
    assert_eq!(database.column(heads).await, [rev(3).to_string()]);
}

#[tokio::test]
async fn what_is_unproven_bounds_nothing_that_is_proven() {
    let database = Database::new().await;
    follow(&database, &[put(ALICE, "a", 9)], 9).await;
    database.request_resync(ALICE, ResyncCause::Operator).await;
    // Its host may have any rev, and commits that arrive wait for the fetch.
    assert_eq!(database.due_repos(0).await[0].rev, None);
    follow(&database, &[commit(ALICE, 5, 4), put_by(ALICE, "a", 5)], 10).await;
    assert_eq!(database.column(PARKED).await, ["5"]);
    database.resync(ALICE, 4).await;
    assert_eq!(
        database.column(HEADS).await,
        [format!("{} parked", head(ALICE, 4, "synchronized"))]
    );
    // A proven one does.
    database.request_resync(ALICE, ResyncCause::Operator).await;
    let known = database.due_repos(0).await[0].rev.clone();
    assert_eq!(known, Some(rev(4).to_string()));
}

#[tokio::test]
async fn a_verified_commit_replaces_an_unproven_row_of_a_later_rev() {
    let database = Database::new().await;
    follow(&database, &[put(ALICE, "a", 9)], 9).await;
    let commit = proven(put(ALICE, "a", 10), rev(5).as_str(), Some(Level::Commit));
    follow(&database, &[commit], 10).await;
    assert_eq!(database.column(ROWS).await, ["a 10"]);
    // An older one does not replace that.
    let older = proven(put(ALICE, "a", 11), rev(4).as_str(), Some(Level::Commit));
    follow(&database, &[older], 11).await;
    assert_eq!(database.column(ROWS).await, ["a 10"]);
}

#[tokio::test]
async fn a_gap_of_another_cause_does_not_begin_a_sequence() {
    let database = Database::new().await;
    follow(&database, &[account(ALICE, None, 5)], 5).await;
    let gap = Gap {
        cause: GapCause::OutdatedCursor,
        ..gap(GapCause::OutdatedCursor, 5, Some(9))
    };
    let replayed = dated(account(ALICE, Some("suspended"), 4), 1_700_000_900);
    follow(&database, &[Effect::Gap(gap), replayed], 9).await;
    assert_eq!(database.column(STATUS).await, ["active"]);
}
