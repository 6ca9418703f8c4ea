//! An unconfirmed status removes nothing before the account's own host was asked. Holds invariant
//! 9.6.

use huddle_firehose::store::plan::ResyncCause;
use huddle_firehose::store::repo_store::{
    HostStatus, RepoChange, RepoEvent, RepoStore, UnconfirmedStatus,
};

use crate::commits::*;
use crate::fixture::*;

const VISIBLE: &str = "SELECT did FROM visible_records ORDER BY uri";
const STATUS: &str = "SELECT did || ' ' || active || ' ' || coalesce(status, '-') || ' ' || is_unconfirmed \
     FROM accounts ORDER BY did";

async fn unconfirmed(database: &Database, now: u64) -> Vec<UnconfirmedStatus> {
    database.store.unconfirmed(second(now), 100).await.unwrap()
}

async fn answer(database: &Database, unconfirmed: &UnconfirmedStatus, host_status: HostStatus) {
    let answer = &host_status;
    let change = RepoChange::HostAnswered {
        unconfirmed,
        answer,
    };
    database.store.change(change).await.unwrap();
}

/// The host of Alice's account refuses her repository.
async fn refuse(database: &Database, status: &str) {
    let did = &did(ALICE);
    let change = RepoChange::HostRefused { did, status };
    database.store.change(change).await.unwrap();
}

/// An account with a record and an unconfirmed deletion.
async fn tracked_with_unconfirmed_deletion() -> (Database, UnconfirmedStatus) {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database
        .apply(&[unconfirmed_status(ALICE, Some("deleted"), 3)])
        .await;
    let unconfirmed = unconfirmed(&database, 0).await.remove(0);
    (database, unconfirmed)
}

#[tokio::test]
async fn an_account_with_an_unconfirmed_deletion_is_hidden_and_keeps_its_rows() {
    let (database, unconfirmed) = tracked_with_unconfirmed_deletion().await;
    assert_eq!(unconfirmed.did, did(ALICE));
    assert_eq!(unconfirmed.status.as_deref(), Some("deleted"));
    assert_eq!(unconfirmed.as_of, format!("{:.3}", second(3)));
    assert!(database.column(VISIBLE).await.is_empty());
    assert_eq!(database.column(ROWS).await, ["a 1"]);
    assert_eq!(
        database.column(STATUS).await,
        [format!("{ALICE} 0 deleted 1")]
    );
}

#[tokio::test]
async fn a_confirmed_deletion_removes_what_the_account_had_until_then() {
    let (database, unconfirmed) = tracked_with_unconfirmed_deletion().await;
    answer(&database, &unconfirmed, HostStatus::Deleted).await;
    assert!(database.column(ROWS).await.is_empty());
    assert_eq!(
        database.column(STATUS).await,
        [format!("{ALICE} 0 deleted 0")]
    );
    // A replay does not bring it back either.
    database
        .apply(&[first_commit(ALICE, 1), put_by(ALICE, "a", 1)])
        .await;
    assert!(database.column(ROWS).await.is_empty());
}

#[tokio::test]
async fn an_account_that_its_host_reports_as_active_is_shown_and_fetched() {
    let (database, unconfirmed) = tracked_with_unconfirmed_deletion().await;
    answer(&database, &unconfirmed, HostStatus::Active).await;
    assert_eq!(database.column(VISIBLE).await, [ALICE]);
    assert_eq!(database.column(STATUS).await, [format!("{ALICE} 1 - 0")]);
    assert_eq!(database.due(0).await, [ALICE]);
    assert_eq!(database.column(CAUSE).await, ["returned"]);
}

#[tokio::test]
async fn an_account_with_another_inactive_status_at_its_host_stays_hidden() {
    let (database, unconfirmed) = tracked_with_unconfirmed_deletion().await;
    let host_status = HostStatus::Inactive(Some("suspended".to_owned()));
    answer(&database, &unconfirmed, host_status).await;
    assert_eq!(
        database.column(STATUS).await,
        [format!("{ALICE} 0 suspended 0")]
    );
    assert_eq!(database.column(ROWS).await, ["a 1"]);
    assert!(self::unconfirmed(&database, 1_000_000).await.is_empty());
}

#[tokio::test]
async fn a_host_that_cannot_be_asked_is_asked_again_later() {
    let (database, unconfirmed) = tracked_with_unconfirmed_deletion().await;
    for attempts in 1..=2_u32 {
        let until = 100 * u64::from(attempts);
        answer(&database, &unconfirmed, HostStatus::Unknown(second(until))).await;
        assert!(self::unconfirmed(&database, until - 1).await.is_empty());
        assert_eq!(
            self::unconfirmed(&database, until).await[0].attempts,
            attempts
        );
    }
    assert_eq!(
        database.column(STATUS).await,
        [format!("{ALICE} 0 deleted 1")]
    );
}

#[tokio::test]
async fn an_answer_after_another_event_changes_nothing() {
    for host_status in [
        HostStatus::Active,
        HostStatus::Deleted,
        HostStatus::Inactive(None),
        HostStatus::Unknown(second(100)),
    ] {
        let (database, unconfirmed) = tracked_with_unconfirmed_deletion().await;
        database
            .apply(&[unconfirmed_status(ALICE, Some("takendown"), 4)])
            .await;
        let contents = database.contents().await;
        answer(&database, &unconfirmed, host_status).await;
        assert_eq!(database.contents().await, contents);
        assert_eq!(self::unconfirmed(&database, 0).await.len(), 1);
    }
}

#[tokio::test]
async fn a_status_from_the_accounts_own_host_needs_no_confirmation() {
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    database
        .apply(&[
            account(ALICE, Some("takendown"), 3),
            unconfirmed_status(BOB, Some("deleted"), 3),
        ])
        .await;
    // A status from the host itself needs no question.
    database.apply(&[account(BOB, Some("deleted"), 4)]).await;
    assert!(unconfirmed(&database, 1_000_000).await.is_empty());
    assert_eq!(database.column(ROWS).await, ["a 1"]);
}

#[tokio::test]
async fn the_host_of_an_untracked_account_is_not_asked() {
    let database = Database::new().await;
    database
        .apply(&[unconfirmed_status(ALICE, Some("deleted"), 3)])
        .await;
    assert!(unconfirmed(&database, 1_000_000).await.is_empty());
}

#[tokio::test]
async fn a_repository_is_not_due_until_its_account_is_active_again() {
    let (database, unconfirmed) = tracked_with_unconfirmed_deletion().await;
    database.request_resync(ALICE, ResyncCause::Gap).await;
    assert!(!database.due_repos(0).await[0].is_active);
    database.note(ALICE, RepoEvent::SuspendUntilActive).await;
    assert!(database.due(1_000_000).await.is_empty());
    answer(&database, &unconfirmed, HostStatus::Active).await;
    assert!(database.due_repos(0).await[0].is_active);
}

/// Any later event of the stream replaces it.
#[tokio::test]
async fn a_status_from_a_refused_fetch_counts_as_of_the_last_known_commit() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    refuse(&database, "takendown").await;
    assert_eq!(
        database.column(STATUS).await,
        [format!("{ALICE} 0 takendown 1")]
    );
    let unconfirmed_status = unconfirmed(&database, 0).await.remove(0);
    assert_eq!(unconfirmed_status.as_of, format!("{:.3}", second(1)));
    database.apply(&[account(ALICE, None, 2)]).await;
    assert_eq!(database.column(VISIBLE).await, [ALICE]);
    assert!(unconfirmed(&database, 1_000_000).await.is_empty());
}

#[tokio::test]
async fn a_status_from_a_refused_fetch_does_not_make_a_newer_status_older() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.apply(&[account(ALICE, None, 8)]).await;
    refuse(&database, "deleted").await;
    // An older event changes nothing.
    database
        .apply(&[account(ALICE, Some("suspended"), 7)])
        .await;
    assert_eq!(
        database.column(STATUS).await,
        [format!("{ALICE} 0 deleted 1")]
    );
    let unconfirmed_status = unconfirmed(&database, 0).await.remove(0);
    assert_eq!(unconfirmed_status.as_of, format!("{:.3}", second(8)));
}
