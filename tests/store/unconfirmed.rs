//! What somebody else than its host says of an account removes nothing before the host was asked.

use huddle_firehose::store::repos::{
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

async fn settle(database: &Database, unconfirmed: &UnconfirmedStatus, truth: HostStatus) {
    let answer = &truth;
    let change = RepoChange::HostAnswered {
        unconfirmed,
        answer,
    };
    database.store.change(change).await.unwrap();
}

/// The host of Alice's account gives her repository out no longer.
async fn refuse(database: &Database, status: &str) {
    let did = &did(ALICE);
    let change = RepoChange::HostRefused { did, status };
    database.store.change(change).await.unwrap();
}

/// One account with a record, of which it is said that it is gone.
async fn accused() -> (Database, UnconfirmedStatus) {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.apply(&[said(ALICE, Some("deleted"), 3)]).await;
    let unconfirmed = unconfirmed(&database, 0).await.remove(0);
    (database, unconfirmed)
}

#[tokio::test]
async fn an_account_that_is_said_to_be_gone_is_hidden_and_keeps_its_rows() {
    let (database, unconfirmed) = accused().await;
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
async fn where_its_host_says_so_too_what_it_had_until_then_is_removed() {
    let (database, unconfirmed) = accused().await;
    settle(&database, &unconfirmed, HostStatus::Deleted).await;
    assert!(database.column(ROWS).await.is_empty());
    assert_eq!(
        database.column(STATUS).await,
        [format!("{ALICE} 0 deleted 0")]
    );
    // Nor does a replay bring it back.
    database
        .apply(&[first_commit(ALICE, 1), put_by(ALICE, "a", 1)])
        .await;
    assert!(database.column(ROWS).await.is_empty());
}

#[tokio::test]
async fn where_its_host_still_has_it_it_is_shown_and_fetched() {
    let (database, unconfirmed) = accused().await;
    settle(&database, &unconfirmed, HostStatus::Active).await;
    assert_eq!(database.column(VISIBLE).await, [ALICE]);
    assert_eq!(database.column(STATUS).await, [format!("{ALICE} 1 - 0")]);
    assert_eq!(database.due(0).await, [ALICE]);
    assert_eq!(database.column(CAUSE).await, ["returned"]);
}

#[tokio::test]
async fn where_its_host_has_another_word_for_it_it_stays_hidden_by_that() {
    let (database, unconfirmed) = accused().await;
    let truth = HostStatus::Inactive(Some("suspended".to_owned()));
    settle(&database, &unconfirmed, truth).await;
    assert_eq!(
        database.column(STATUS).await,
        [format!("{ALICE} 0 suspended 0")]
    );
    assert_eq!(database.column(ROWS).await, ["a 1"]);
    assert!(self::unconfirmed(&database, 1_000_000).await.is_empty());
}

#[tokio::test]
async fn where_its_host_cannot_be_asked_it_is_asked_again_later() {
    let (database, unconfirmed) = accused().await;
    for attempts in 1..=2_u32 {
        let until = 100 * u64::from(attempts);
        settle(&database, &unconfirmed, HostStatus::Unknown(second(until))).await;
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
async fn an_answer_that_comes_after_another_event_changes_nothing() {
    for truth in [
        HostStatus::Active,
        HostStatus::Deleted,
        HostStatus::Inactive(None),
        HostStatus::Unknown(second(100)),
    ] {
        let (database, unconfirmed) = accused().await;
        database.apply(&[said(ALICE, Some("takendown"), 4)]).await;
        let contents = database.contents().await;
        settle(&database, &unconfirmed, truth).await;
        assert_eq!(database.contents().await, contents);
        assert_eq!(self::unconfirmed(&database, 0).await.len(), 1);
    }
}

#[tokio::test]
async fn what_the_accounts_own_host_says_is_not_asked_for() {
    let database = Database::new().await;
    database.track(&[ALICE, BOB]).await;
    database
        .apply(&[
            account(ALICE, Some("takendown"), 3),
            said(BOB, Some("deleted"), 3),
        ])
        .await;
    // Once it has spoken itself, nothing is left to ask.
    database.apply(&[account(BOB, Some("deleted"), 4)]).await;
    assert!(unconfirmed(&database, 1_000_000).await.is_empty());
    assert_eq!(database.column(ROWS).await, ["a 1"]);
}

#[tokio::test]
async fn of_an_account_that_is_not_tracked_nobody_asks() {
    let database = Database::new().await;
    database.apply(&[said(ALICE, Some("deleted"), 3)]).await;
    assert!(unconfirmed(&database, 1_000_000).await.is_empty());
}

#[tokio::test]
async fn a_repository_is_left_alone_until_its_account_is_active_again() {
    let (database, unconfirmed) = accused().await;
    let alice = did(ALICE);
    database.request_resync(alice.as_str(), "gap").await;
    assert!(!database.due_repos(0).await[0].is_active);
    database.note(ALICE, RepoEvent::SuspendUntilActive).await;
    assert!(database.due(1_000_000).await.is_empty());
    settle(&database, &unconfirmed, HostStatus::Active).await;
    assert!(database.due_repos(0).await[0].is_active);
}

/// Whatever comes of it in the stream afterwards says more.
#[tokio::test]
async fn what_a_host_gives_out_no_longer_is_suspected_as_of_the_last_that_is_known_of_it() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    refuse(&database, "takendown").await;
    assert_eq!(
        database.column(STATUS).await,
        [format!("{ALICE} 0 takendown 1")]
    );
    let suspected = unconfirmed(&database, 0).await.remove(0);
    assert_eq!(suspected.as_of, format!("{:.3}", second(1)));
    database.apply(&[account(ALICE, None, 2)]).await;
    assert_eq!(database.column(VISIBLE).await, [ALICE]);
    assert!(unconfirmed(&database, 1_000_000).await.is_empty());
}

#[tokio::test]
async fn a_suspicion_does_not_make_what_is_known_of_an_account_older() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database.apply(&[account(ALICE, None, 8)]).await;
    refuse(&database, "deleted").await;
    // What was said before is no news.
    database
        .apply(&[account(ALICE, Some("suspended"), 7)])
        .await;
    assert_eq!(
        database.column(STATUS).await,
        [format!("{ALICE} 0 deleted 1")]
    );
    let suspected = unconfirmed(&database, 0).await.remove(0);
    assert_eq!(suspected.as_of, format!("{:.3}", second(8)));
}
