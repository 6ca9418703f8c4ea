//! Rows are guarded by rev, and projections follow them. Holds invariants 2.1 and 2.3.

use huddle_firehose::store::Written;

use crate::fixture::*;

const PROFILE: &str = "com.huddle.profile";
const OFFER: &str = "com.huddle.slotOffer";

const STATE: &str = "SELECT rkey || ' ' || seq || CASE deleted WHEN 1 THEN ' deleted' ELSE '' END \
                     FROM records ORDER BY rkey";

#[tokio::test]
async fn a_replay_of_a_batch_changes_nothing() {
    let database = Database::new().await;
    let batch = [
        offer(ALICE, "o", 1, slot_offer()),
        put(ALICE, "p", 2),
        delete(BOB, PROFILE, "gone", 3),
        account(CAROL, Some("suspended"), 4),
        identity(CAROL, Some("carol.example"), 5),
        dead_letter(6),
    ];
    let first = database.apply(&batch).await;
    let contents = database.contents().await;
    let again = database.apply(&batch).await;

    let written = |records, stale, dead_letters| Written {
        records,
        stale,
        dead_letters,
        ..Written::default()
    };
    assert_eq!(first, written(3, 0, 1));
    assert_eq!(again, written(0, 3, 0));
    assert_eq!(database.contents().await, contents);
}

#[tokio::test]
async fn an_older_rev_after_a_newer_one_changes_nothing() {
    let database = Database::new().await;
    database.apply(&[put(ALICE, "a", 2)]).await;
    let written = database.apply(&[put(ALICE, "a", 1)]).await;
    assert_eq!((written.records, written.stale), (0, 1));
    assert_eq!(database.column(STATE).await, ["a 2"]);
}

#[tokio::test]
async fn an_equal_rev_changes_nothing() {
    let database = Database::new().await;
    database.apply(&[put(ALICE, "a", 2)]).await;
    let written = database.apply(&[delete(ALICE, PROFILE, "a", 2)]).await;
    assert_eq!((written.records, written.stale), (0, 1));
    assert_eq!(database.column(STATE).await, ["a 2"]);
}

#[tokio::test]
async fn of_two_effects_with_one_rev_in_a_batch_the_later_one_wins() {
    let database = Database::new().await;
    let written = database
        .apply(&[put(ALICE, "a", 2), delete(ALICE, PROFILE, "a", 2)])
        .await;
    assert_eq!((written.records, written.stale), (1, 1));
    assert_eq!(database.column(STATE).await, ["a 2 deleted"]);
}

#[tokio::test]
async fn a_tombstone_is_not_resurrected_by_an_older_create() {
    let database = Database::new().await;
    database.apply(&[delete(ALICE, PROFILE, "a", 2)]).await;
    database.apply(&[put(ALICE, "a", 1)]).await;
    assert_eq!(database.column(STATE).await, ["a 2 deleted"]);
}

#[tokio::test]
async fn a_tombstone_holds_no_content() {
    let database = Database::new().await;
    database.apply(&[put(ALICE, "a", 1)]).await;
    database.apply(&[delete(ALICE, PROFILE, "a", 2)]).await;
    let bare = database
        .number(
            "SELECT count(*) FROM records WHERE deleted = 1 AND cid IS NULL AND record IS NULL \
             AND record_cbor IS NULL AND validity IS NULL AND invalid_reason IS NULL",
        )
        .await;
    assert_eq!(bare, 1);
}

#[tokio::test]
async fn a_record_may_be_created_again_after_its_deletion() {
    let database = Database::new().await;
    database.apply(&[delete(ALICE, PROFILE, "a", 2)]).await;
    database.apply(&[put(ALICE, "a", 3)]).await;
    assert_eq!(database.column(STATE).await, ["a 3"]);
}

#[tokio::test]
async fn a_projection_is_created_changed_and_deleted_with_its_record() {
    let database = Database::new().await;
    let titles = "SELECT title FROM offers_index";
    let renamed = huddle_firehose::huddle::SlotOfferRow {
        title: "Review".to_owned(),
        ..slot_offer()
    };

    database.apply(&[offer(ALICE, "o", 1, slot_offer())]).await;
    assert_eq!(database.column(titles).await, ["Pairing"]);
    let tag = "SELECT value FROM offers_index, json_each(tags) ORDER BY value";
    assert_eq!(database.column(tag).await, ["\"quoted\"", "rust"]);

    database.apply(&[offer(ALICE, "o", 3, renamed)]).await;
    assert_eq!(database.column(titles).await, ["Review"]);

    // An older version must not reach the projection either.
    database.apply(&[offer(ALICE, "o", 2, slot_offer())]).await;
    assert_eq!(database.column(titles).await, ["Review"]);

    database.apply(&[delete(ALICE, OFFER, "o", 4)]).await;
    assert!(database.column(titles).await.is_empty());
}

#[tokio::test]
async fn a_record_that_no_longer_has_the_form_loses_its_projection() {
    let database = Database::new().await;
    let with = offer(ALICE, "o", 1, slot_offer());
    let without = upsert(version(ALICE, OFFER, "o", 2), None);
    database.apply(&[with]).await;
    database.apply(&[without]).await;
    assert_eq!(
        database.number("SELECT count(*) FROM offers_index").await,
        0
    );
    assert_eq!(database.number("SELECT count(*) FROM records").await, 1);
}

#[tokio::test]
async fn batches_of_any_length_are_written_whole() {
    let database = Database::new().await;
    let mut n = 0;
    for length in [1, 4, 26, 99, 100, 237] {
        let batch: Vec<_> = (0..length)
            .map(|i| put(ALICE, &format!("{length}-{i}"), n + i))
            .collect();
        n += length;
        assert_eq!(database.apply(&batch).await.records, length);
    }
    assert_eq!(
        database.number("SELECT count(*) FROM records").await as u64,
        n
    );
}

#[tokio::test]
async fn the_head_of_a_repository_is_its_newest_commit() {
    let database = Database::new().await;
    database
        .apply(&[put(ALICE, "a", 3), put(ALICE, "b", 1), put(BOB, "a", 2)])
        .await;
    database.apply(&[put(ALICE, "c", 2)]).await;
    let repos = "SELECT did || ' ' || seq || ' ' || state FROM repos ORDER BY did";
    assert_eq!(
        database.column(repos).await,
        [
            "did:plc:alice 3 unverified_chain",
            "did:plc:bob 2 unverified_chain"
        ]
    );
}

#[tokio::test]
async fn when_a_record_was_first_indexed_is_kept() {
    let database = Database::new().await;
    database.apply(&[put(ALICE, "a", 1)]).await;
    database
        .execute("UPDATE records SET first_indexed_at = 'then', last_indexed_at = 'then'")
        .await;
    database.apply(&[put(ALICE, "a", 2)]).await;
    let times = "SELECT first_indexed_at || ' ' || (last_indexed_at > '2026') FROM records";
    assert_eq!(database.column(times).await, ["then 1"]);
}
