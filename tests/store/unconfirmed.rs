//! An unconfirmed status removes nothing before the account's own host was asked. Holds invariant
//! 9.6.

use huddle_firehose::store::plan::ResyncCause;
use huddle_firehose::store::repo_store::{
    HostStatus, RepoChange, RepoEvent, RepoStore, UnconfirmedStatus,
};

use jiff::{SignedDuration, Timestamp};

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
    assert_eq!(unconfirmed.as_of, Some(format!("{:.3}", second(3))));
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
            .apply(&[unconfirmed_status(ALICE, Some("deactivated"), 4)])
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

/// Otherwise what it wrote would be hidden, and never removed.
#[tokio::test]
async fn the_host_of_an_account_is_asked_whose_first_commit_is_in_the_same_batch() {
    let database = Database::new().await;
    database
        .apply(&[
            without_key(ALICE, 2),
            unconfirmed_status(ALICE, Some("deleted"), 3),
        ])
        .await;
    let question = unconfirmed(&database, 0).await.remove(0);
    assert_eq!(question.status.as_deref(), Some("deleted"));
}

#[tokio::test]
async fn a_repository_is_not_due_until_its_account_is_active_again() {
    let (database, unconfirmed) = tracked_with_unconfirmed_deletion().await;
    database.request_resync(ALICE, ResyncCause::Gap).await;
    assert!(!database.due_repos(0).await[0].is_active);
    let until = second(1_000);
    database.note(ALICE, RepoEvent::Suspend { until }).await;
    assert!(database.due(999).await.is_empty());
    // It is looked at again, in case no event says that the account is active.
    assert_eq!(database.due(1_000).await, [ALICE]);
    answer(&database, &unconfirmed, HostStatus::Active).await;
    assert!(database.due_repos(0).await[0].is_active);
}

/// The question about an account whose host refused its repository, which is asked after a while.
async fn suspicion(database: &Database) -> UnconfirmedStatus {
    let now = Timestamp::now();
    assert_eq!(database.store.unconfirmed(now, 100).await.unwrap(), []);
    let later = now + SignedDuration::from_mins(1);
    let unconfirmed = database.store.unconfirmed(later, 100).await.unwrap();
    assert!(unconfirmed[0].is_suspected);
    unconfirmed[0].clone()
}

#[tokio::test]
async fn one_refusal_of_a_host_hides_nothing() {
    for status in ["deleted", "takendown", "suspended", "deactivated"] {
        let database = Database::new().await;
        database.track(&[ALICE]).await;
        refuse(&database, status).await;
        assert_eq!(database.column(VISIBLE).await, [ALICE], "{status}");
        let suspicion = suspicion(&database).await;
        assert_eq!(suspicion.status.as_deref(), Some(status));
        // A second refusal of the same kind is no new question.
        refuse(&database, status).await;
        answer(&database, &suspicion, HostStatus::Active).await;
        assert_eq!(database.column(STATUS).await, [format!("{ALICE} 1 - 0")]);
        assert!(unconfirmed(&database, 1_000_000).await.is_empty());
    }
}

#[tokio::test]
async fn a_refusal_that_the_host_confirms_hides_the_account() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    refuse(&database, "takendown").await;
    let suspicion = suspicion(&database).await;
    let host_status = HostStatus::Inactive(Some("takendown".to_owned()));
    answer(&database, &suspicion, host_status).await;
    assert_eq!(
        database.column(STATUS).await,
        [format!("{ALICE} 0 takendown 0")]
    );
    assert_eq!(database.column(ROWS).await, ["a 1"]);
    // Its host said so, and so its host can say otherwise.
    database
        .note(ALICE, RepoEvent::Suspend { until: second(9) })
        .await;
    let question = unconfirmed(&database, 0).await.remove(0);
    answer(&database, &question, HostStatus::Active).await;
    assert_eq!(database.column(VISIBLE).await, [ALICE]);
}

#[tokio::test]
async fn a_deletion_that_a_host_says_twice_removes_what_was_known() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    refuse(&database, "deleted").await;
    let suspicion = suspicion(&database).await;
    answer(&database, &suspicion, HostStatus::Deleted).await;
    assert!(database.column(ROWS).await.is_empty());
    assert_eq!(
        database.column(STATUS).await,
        [format!("{ALICE} 0 deleted 0")]
    );
}

#[tokio::test]
async fn a_verified_commit_speaks_against_a_refusal() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    refuse(&database, "deleted").await;
    let suspicion = suspicion(&database).await;
    database
        .apply(&[commit(ALICE, 2, 1), put_by(ALICE, "b", 2)])
        .await;
    assert!(unconfirmed(&database, 1_000_000).await.is_empty());
    // An answer that was on its way then changes nothing.
    answer(&database, &suspicion, HostStatus::Deleted).await;
    assert_eq!(database.column(ROWS).await, ["a 1", "b 2"]);
    assert_eq!(database.column(STATUS).await, [format!("{ALICE} 1 - 0")]);
}

#[tokio::test]
async fn a_status_of_the_stream_takes_the_place_of_a_refusal() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    refuse(&database, "deleted").await;
    database
        .apply(&[unconfirmed_status(ALICE, Some("deactivated"), 2)])
        .await;
    assert!(database.column(VISIBLE).await.is_empty());
    let question = unconfirmed(&database, 0).await.remove(0);
    assert_eq!(question.status.as_deref(), Some("deactivated"));
    // And while an account is hidden, a refusal says nothing new.
    refuse(&database, "deleted").await;
    assert_eq!(unconfirmed(&database, 0).await, [question]);
}

#[tokio::test]
async fn a_takedown_by_the_source_holds_until_the_source_says_active() {
    for status in ["takendown", "suspended"] {
        let database = Database::new().await;
        database.track(&[ALICE]).await;
        let held = [format!("{ALICE} 0 {status} 0")];
        database
            .apply(&[unconfirmed_status(ALICE, Some(status), 3)])
            .await;
        assert_eq!(database.column(STATUS).await, held);
        assert!(unconfirmed(&database, 1_000_000).await.is_empty());
        // Its host is asked about another status, and then the hold is in force again.
        database
            .apply(&[unconfirmed_status(ALICE, Some("deactivated"), 4)])
            .await;
        let question = unconfirmed(&database, 0).await.remove(0);
        assert!(!question.is_held);
        answer(&database, &question, HostStatus::Active).await;
        assert_eq!(database.column(STATUS).await, held);
        // A commit has nothing asked, and a job only the source.
        database
            .apply(&[commit(ALICE, 5, 1), put_by(ALICE, "b", 5)])
            .await;
        assert!(unconfirmed(&database, 1_000_000).await.is_empty());
        database
            .note(ALICE, RepoEvent::Suspend { until: second(9) })
            .await;
        let question = unconfirmed(&database, 0).await.remove(0);
        assert!(question.is_held);
        answer(&database, &question, HostStatus::Deleted).await;
        assert!(unconfirmed(&database, 1_000_000).await.is_empty());
        assert!(database.column(VISIBLE).await.is_empty());

        database.apply(&[unconfirmed_status(ALICE, None, 6)]).await;
        assert_eq!(database.column(VISIBLE).await, [ALICE, ALICE]);
        assert_eq!(database.column(CAUSE).await, ["returned"]);
    }
}

/// A takedown counts at any place in a batch.
#[tokio::test]
async fn a_takedown_is_remembered_behind_a_later_status_of_the_same_batch() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    database
        .apply(&[
            unconfirmed_status(ALICE, Some("takendown"), 3),
            unconfirmed_status(ALICE, Some("deactivated"), 4),
        ])
        .await;
    let question = unconfirmed(&database, 0).await.remove(0);
    answer(&database, &question, HostStatus::Active).await;
    assert_eq!(
        database.column(STATUS).await,
        [format!("{ALICE} 0 takendown 0")]
    );
}

/// What was missed in a gap may have ended a takedown.
#[tokio::test]
async fn after_a_gap_the_source_is_asked_whether_it_still_holds_an_account() {
    for (host_status, visible) in [
        (HostStatus::Active, 1),
        (HostStatus::Inactive(Some("takendown".to_owned())), 0),
        (HostStatus::Deleted, 0),
    ] {
        let database = Database::new().await;
        database.track(&[ALICE]).await;
        database
            .apply(&[unconfirmed_status(ALICE, Some("takendown"), 3)])
            .await;
        database
            .execute("UPDATE accounts SET is_unconfirmed = 1")
            .await;
        let question = unconfirmed(&database, 0).await.remove(0);
        assert!(question.is_held);
        answer(&database, &question, host_status).await;
        assert_eq!(database.column(VISIBLE).await.len(), visible);
        assert_eq!(database.column(ROWS).await, ["a 1"]);
        assert!(unconfirmed(&database, 1_000_000).await.is_empty());
    }
}

/// Its end may have been missed in a gap that was over before the repository was found.
#[tokio::test]
async fn the_source_is_asked_about_a_hold_that_is_older_than_the_repository() {
    let database = Database::new().await;
    database
        .apply(&[unconfirmed_status(ALICE, Some("takendown"), 3)])
        .await;
    assert!(unconfirmed(&database, 1_000_000).await.is_empty());
    database.request_resync(ALICE, ResyncCause::Backfill).await;
    assert!(!database.due_repos(0).await[0].is_active);
    let until = second(1_000);
    database.note(ALICE, RepoEvent::Suspend { until }).await;
    let question = unconfirmed(&database, 0).await.remove(0);
    assert!(question.is_held);
    answer(&database, &question, HostStatus::Active).await;
    assert!(database.due_repos(0).await[0].is_active);
}

async fn override_by_operator(database: &Database, is_shown: bool) {
    let did = &did(ALICE);
    let is_fetched = true;
    let change = RepoChange::Override {
        did,
        is_shown,
        is_fetched,
    };
    database.store.change(change).await.unwrap();
}

#[tokio::test]
async fn an_operator_shows_an_account_that_the_source_holds_until_the_override_ends() {
    let database = Database::new().await;
    database.track(&[ALICE]).await;
    let takedown = |n| [unconfirmed_status(ALICE, Some("takendown"), n)];
    database.apply(&takedown(3)).await;
    override_by_operator(&database, true).await;
    assert_eq!(database.column(STATUS).await, [format!("{ALICE} 1 - 0")]);
    assert_eq!(database.due(0).await, [ALICE]);
    // It holds against what the source says later.
    database.apply(&takedown(4)).await;
    assert_eq!(database.column(VISIBLE).await, [ALICE]);
    // It is an answer to the source only: the account itself may still leave.
    database
        .apply(&[unconfirmed_status(ALICE, Some("deactivated"), 5)])
        .await;
    assert!(database.column(VISIBLE).await.is_empty());
    let question = unconfirmed(&database, 0).await.remove(0);
    answer(&database, &question, HostStatus::Active).await;
    assert_eq!(database.column(VISIBLE).await, [ALICE]);

    override_by_operator(&database, false).await;
    assert_eq!(
        database.column(STATUS).await,
        [format!("{ALICE} 0 takendown 0")]
    );
}

/// Such a time was written by a clock that was ahead, or by a version that meant "never".
#[tokio::test]
async fn a_retry_that_is_years_away_is_due() {
    let (database, _) = tracked_with_unconfirmed_deletion().await;
    database.request_resync(ALICE, ResyncCause::Gap).await;
    database
        .execute(
            "UPDATE accounts SET retry_at = '9999-12-31T23:59:59.999Z'; \
             UPDATE repos SET retry_at = '9999-12-31T23:59:59.999Z'",
        )
        .await;
    assert_eq!(unconfirmed(&database, 0).await.len(), 1);
    assert_eq!(database.due(0).await, [ALICE]);
}
