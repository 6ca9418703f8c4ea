//! Accounts are hidden, shown, removed, and may become active again. Holds invariants 2.5 and 2.6.

use huddle_firehose::store::repo_store::{DueHandle, HandleAnswer, RepoChange, RepoStore};
use jiff::{SignedDuration, Timestamp};

use crate::fixture::*;

const VISIBLE: &str = "SELECT uri FROM visible_records ORDER BY uri";
const STATUS: &str = "SELECT did || ' ' || active || ' ' || coalesce(status, '-') FROM accounts";
const HANDLE: &str = "SELECT coalesce(handle, '?') FROM accounts";

#[tokio::test]
async fn a_deletion_removes_everything_that_the_account_had() {
    let database = Database::new().await;
    let offer_uri = uri(ALICE, "com.huddle.slotOffer", "o");
    database
        .apply(&[
            offer(ALICE, "o", 1, slot_offer()),
            request(ALICE, "r", 2, &offer_uri, "pending"),
            booking(ALICE, "b", 3, &offer_uri, "confirmed"),
            delete(ALICE, "com.huddle.profile", "tombstone", 4),
            booking(BOB, "b", 5, &offer_uri, "confirmed"),
        ])
        .await;
    database.apply(&[account(ALICE, Some("deleted"), 6)]).await;

    for table in [
        "SELECT did FROM records",
        "SELECT did FROM bookings",
        "SELECT did FROM repos",
    ] {
        assert_eq!(database.column(table).await, [BOB], "{table}");
    }
    let counts = database.store.counts().await.unwrap();
    assert_eq!((counts.offers, counts.booking_requests), (0, 0));
    assert_eq!(database.column(STATUS).await, ["did:plc:alice 0 deleted"]);
}

#[tokio::test]
async fn a_replayed_deletion_does_not_remove_what_came_after_it() {
    let database = Database::new().await;
    let deletion = account(ALICE, Some("deleted"), 2);
    database
        .apply(&[put(ALICE, "a", 1), deletion.clone()])
        .await;
    database
        .apply(&[account(ALICE, None, 3), put(ALICE, "b", 4)])
        .await;
    database.apply(&[put(ALICE, "a", 1), deletion]).await;

    assert_eq!(
        database.column(VISIBLE).await,
        [uri(ALICE, "com.huddle.profile", "b")]
    );
    assert_eq!(database.column(STATUS).await, ["did:plc:alice 1 -"]);
}

#[tokio::test]
async fn an_event_from_before_a_deletion_does_not_bring_its_record_back() {
    let database = Database::new().await;
    database.apply(&[account(ALICE, Some("deleted"), 2)]).await;
    database.apply(&[account(ALICE, None, 3)]).await;
    let written = database
        .apply(&[put(ALICE, "a", 1), put(ALICE, "b", 2), put(ALICE, "c", 4)])
        .await;
    assert_eq!((written.records, written.stale), (1, 2));
    assert_eq!(
        database.column(VISIBLE).await,
        [uri(ALICE, "com.huddle.profile", "c")]
    );
}

#[tokio::test]
async fn a_deletion_counts_at_any_place_in_a_batch() {
    let database = Database::new().await;
    database
        .apply(&[
            account(ALICE, Some("deleted"), 2),
            put(ALICE, "before", 1),
            put(ALICE, "after", 3),
        ])
        .await;
    assert_eq!(database.column("SELECT rkey FROM records").await, ["after"]);
}

#[tokio::test]
async fn an_inactive_account_is_hidden_and_shown_when_it_is_active_again() {
    let database = Database::new().await;
    database
        .apply(&[put(ALICE, "a", 1), put(BOB, "b", 2)])
        .await;
    let mut n = 3;
    for status in ["takendown", "suspended", "deactivated", "something new"] {
        database.apply(&[account(ALICE, Some(status), n)]).await;
        assert_eq!(
            database.column(VISIBLE).await,
            [uri(BOB, "com.huddle.profile", "b")],
            "{status}"
        );
        database.apply(&[account(ALICE, None, n + 1)]).await;
        assert_eq!(database.column(VISIBLE).await.len(), 2, "{status}");
        n += 2;
    }
}

#[tokio::test]
async fn an_older_status_changes_nothing() {
    let database = Database::new().await;
    database.apply(&[account(ALICE, None, 5)]).await;
    database
        .apply(&[account(ALICE, Some("takendown"), 4)])
        .await;
    assert_eq!(database.column(STATUS).await, ["did:plc:alice 1 -"]);
}

#[tokio::test]
async fn a_handle_has_a_guard_of_its_own() {
    let database = Database::new().await;
    database
        .apply(&[identity(ALICE, Some("new.example"), 5)])
        .await;
    database
        .apply(&[
            identity(ALICE, Some("old.example"), 4),
            account(ALICE, None, 3),
        ])
        .await;
    assert_eq!(database.column(HANDLE).await, ["new.example"]);
    assert_eq!(database.column(STATUS).await, ["did:plc:alice 1 -"]);
}

async fn due_handles(database: &Database) -> Vec<DueHandle> {
    let later = Timestamp::now() + SignedDuration::from_hours(1);
    database.store.due_handles(later, 10).await.unwrap()
}

async fn answer(database: &Database, due: &DueHandle, answer: HandleAnswer) {
    let answer = &answer;
    let change = RepoChange::HandleAnswered { due, answer };
    database.store.change(change).await.unwrap();
}

#[tokio::test]
async fn an_identity_without_a_handle_takes_it_from_the_document() {
    let database = Database::new().await;
    let before = [put(ALICE, "a", 1), identity(ALICE, Some("old.example"), 2)];
    database.apply(&before).await;
    database.apply(&[identity(ALICE, None, 3)]).await;
    assert_eq!(database.column(HANDLE).await, ["?"]);
    let due = due_handles(&database).await.remove(0);
    let until = Timestamp::now();
    answer(&database, &due, HandleAnswer::Unknown(until)).await;
    assert_eq!(due_handles(&database).await, std::slice::from_ref(&due));
    let found = HandleAnswer::Found(Some("new.example".to_owned()));
    answer(&database, &due, found).await;
    assert_eq!(database.column(HANDLE).await, ["new.example"]);
    assert_eq!(due_handles(&database).await, []);
    // A replay of the older event does not bring the old one back.
    database.apply(&before).await;
    assert_eq!(database.column(HANDLE).await, ["new.example"]);
}

#[tokio::test]
async fn a_document_that_comes_after_a_newer_event_changes_no_handle() {
    let database = Database::new().await;
    database.apply(&[put(ALICE, "a", 1)]).await;
    database.apply(&[identity(ALICE, None, 2)]).await;
    let due = due_handles(&database).await.remove(0);
    database
        .apply(&[identity(ALICE, Some("new.example"), 3)])
        .await;
    let found = HandleAnswer::Found(Some("old.example".to_owned()));
    answer(&database, &due, found).await;
    assert_eq!(database.column(HANDLE).await, ["new.example"]);
    // An event before it says nothing either.
    database.apply(&[identity(ALICE, None, 2)]).await;
    assert_eq!(database.column(HANDLE).await, ["new.example"]);
    assert_eq!(due_handles(&database).await, []);
}

#[tokio::test]
async fn the_document_of_an_account_that_is_not_kept_is_not_looked_up() {
    let database = Database::new().await;
    database
        .apply(&[
            identity(BOB, None, 1),
            identity(ALICE, Some("ann.example"), 1),
        ])
        .await;
    database.apply(&[identity(ALICE, None, 2)]).await;
    assert_eq!(due_handles(&database).await, []);
    assert_eq!(database.column("SELECT did FROM accounts").await, [ALICE]);
}
