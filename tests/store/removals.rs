//! The rows of a removed account are deleted in pieces, and are gone for readers at once. Holds
//! invariants 2.6 and 8.8.

use huddle_firehose::atproto::verify::Level;
use huddle_firehose::huddle::Projection;
use huddle_firehose::store::plan::effect::RecordVersion;
use huddle_firehose::store::repo_store::{HostStatus, RepoChange, RepoStore};
use huddle_firehose::store::{PieceLimit, RemovalPiece, Store};

use crate::commits::*;
use crate::fixture::*;

const ROWS_OF_ALICE: &str = "SELECT count(*) FROM records WHERE did = 'did:plc:alice'";
const VISIBLE: &str = "SELECT rkey FROM visible_records ORDER BY uri";
const PENDING: &str = "SELECT count(*) FROM account_removals";

/// A database with 3500 records of Alice, of which 3499 are copies of one.
async fn with_a_large_account() -> Database {
    let database = Database::new().await;
    let offer = offer(ALICE, "o", 1, slot_offer());
    database.try_apply(&[offer], 1).await.unwrap();
    database
        .execute(
            "WITH RECURSIVE numbers(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 3499) \
             INSERT INTO records (uri, did, collection, rkey, cid, rev, seq, source, time, record, \
             record_cbor, validity, first_indexed_at, last_indexed_at, verified) \
             SELECT uri || i, did, collection, rkey || i, cid, rev, seq, source, time, record, \
             record_cbor, validity, first_indexed_at, last_indexed_at, verified FROM records, numbers; \
             INSERT INTO offers_index SELECT records.uri, did, rkey, cid, rev, 'Copy', NULL, \
             '2999-01-01T10:00:00.000Z', '2999-01-01T11:00:00.000Z', NULL, NULL, NULL, NULL, '[]', \
             'open', '2026-01-01T00:00:00.000Z', last_indexed_at FROM records WHERE rkey <> 'o'; \
             INSERT INTO stale_records (uri, did) SELECT uri, did FROM records WHERE rkey LIKE '%7'; \
             UPDATE records SET verified = 'commit'",
        )
        .await;
    database
}

async fn piece(database: &Database) -> Option<RemovalPiece> {
    let piece = database.store.remove_piece(PieceLimit::default());
    piece.await.unwrap()
}

#[tokio::test]
async fn a_large_account_is_deleted_in_pieces_and_others_write_between_them() {
    let database = with_a_large_account().await;
    let deletion = account(ALICE, Some("deleted"), 2);
    database.try_apply(&[deletion], 2).await.unwrap();
    // The transaction that removes the account deletes the first piece.
    assert_eq!(database.number(ROWS_OF_ALICE).await, 2500);
    let pending = async || database.store.count_removals().await.unwrap();
    assert_eq!(pending().await, 1);
    let mut pieces = Vec::new();
    let mut seq = 2;
    while let Some(piece) = piece(&database).await {
        assert!(piece.bytes <= PieceLimit::default().bytes);
        pieces.push((piece.rows, piece.is_last));
        seq += 1;
        let rkey = format!("r{seq}");
        let written = database.try_apply(&[put(BOB, &rkey, seq)], seq).await;
        assert_eq!(written.unwrap().records, 1);
    }
    assert_eq!(
        pieces,
        [(1000, false), (1000, false), (500, true)],
        "rows of each transaction"
    );
    assert_eq!(pending().await, 0);
    for rows in [
        ROWS_OF_ALICE,
        PENDING,
        "SELECT count(*) FROM offers_index",
        "SELECT count(*) FROM stale_records",
    ] {
        assert_eq!(database.number(rows).await, 0, "{rows}");
    }
    assert_eq!(database.number("SELECT count(*) FROM records").await, 3);
}

#[tokio::test]
async fn rows_that_are_not_deleted_yet_are_gone_for_readers_and_for_plans() {
    let database = with_a_large_account().await;
    let returns = [account(ALICE, Some("deleted"), 2), account(ALICE, None, 3)];
    database.try_apply(&returns, 3).await.unwrap();
    assert_eq!(database.number(ROWS_OF_ALICE).await, 2500);
    let none: [&str; 0] = [];
    assert_eq!(database.column(VISIBLE).await, none);
    for view in [
        "SELECT count(*) FROM open_offers",
        "SELECT count(*) FROM visible_bookings",
        "SELECT count(*) FROM active_booking_requests",
    ] {
        assert_eq!(database.number(view).await, 0, "{view}");
    }
    // A record with the lowest rev of all is new, because nothing is known of an older one.
    let version = RecordVersion {
        rev: rev(0),
        verified: Some(Level::Commit),
        ..version(ALICE, "com.huddle.slotOffer", "o999", 4)
    };
    let again = upsert(version, Some(Projection::SlotOffer(slot_offer())));
    database.try_apply(&[again], 4).await.unwrap();
    assert_eq!(database.column(VISIBLE).await, ["o999"]);
    assert_eq!(
        database.column("SELECT rkey FROM open_offers").await,
        ["o999"]
    );
    while piece(&database).await.is_some() {}
    assert_eq!(database.column(VISIBLE).await, ["o999"]);
    assert_eq!(database.number(ROWS_OF_ALICE).await, 1);
    // A later deletion takes what came after the first one.
    let deletion = account(ALICE, Some("deleted"), 5);
    database.try_apply(&[deletion], 5).await.unwrap();
    assert_eq!(database.number(ROWS_OF_ALICE).await, 0);
}

/// The host has confirmed the deletion, so all that was received before goes, whatever its seq.
#[tokio::test]
async fn a_record_that_is_written_while_all_of_its_account_is_being_deleted_stays() {
    let database = with_a_large_account().await;
    database.track(&[ALICE]).await;
    database
        .apply(&[unconfirmed_status(ALICE, Some("deleted"), 3)])
        .await;
    let unconfirmed = database.store.unconfirmed(second(0), 1).await.unwrap();
    let change = RepoChange::HostAnswered {
        unconfirmed: &unconfirmed[0],
        answer: &HostStatus::Deleted,
    };
    database.store.change(change).await.unwrap();
    assert!(database.number(ROWS_OF_ALICE).await > 2000);
    let returns = [account(ALICE, None, 4), put(ALICE, "back", 5)];
    database.apply(&returns).await;
    assert_eq!(database.column(VISIBLE).await, ["back"]);
    while piece(&database).await.is_some() {}
    assert_eq!(database.column(VISIBLE).await, ["back"]);
    assert_eq!(database.number(ROWS_OF_ALICE).await, 1);
}

/// Holds invariant 3.3.
#[tokio::test]
async fn a_removal_goes_on_after_a_restart() {
    let database = with_a_large_account().await;
    let deletion = account(ALICE, Some("deleted"), 2);
    database.try_apply(&[deletion], 2).await.unwrap();
    piece(&database).await.unwrap();
    let database = database.reopen().await;
    assert_eq!(database.number(ROWS_OF_ALICE).await, 1500);
    while piece(&database).await.is_some() {}
    assert_eq!(database.number(ROWS_OF_ALICE).await, 0);
    assert_eq!(database.number(PENDING).await, 0);
}

#[tokio::test]
async fn a_piece_is_limited_by_its_bytes_and_has_one_row_at_least() {
    let database = with_a_large_account().await;
    database
        .execute(
            "UPDATE records SET record_cbor = zeroblob(3000000) WHERE rkey IN ('o1005', 'o1006')",
        )
        .await;
    let deletion = account(ALICE, Some("deleted"), 2);
    database.try_apply(&[deletion], 2).await.unwrap();
    let limit = PieceLimit {
        rows: 1000,
        bytes: 1_000_000,
    };
    let mut rows = 0;
    while let Some(piece) = database.store.remove_piece(limit).await.unwrap() {
        assert!(piece.bytes <= limit.bytes || piece.rows == 1, "{piece:?}");
        rows += piece.rows;
    }
    let first = 3500 - rows;
    assert!(
        first < 1000,
        "the first transaction is limited too: {first}"
    );
}

#[tokio::test]
async fn the_dead_letters_of_a_removed_account_go_too_and_do_not_come_back() {
    let database = Database::new().await;
    let letters = "SELECT CAST(seq AS TEXT) FROM dead_letters";
    database.try_apply(&[dead_letter(1)], 1).await.unwrap();
    let deletion = account(ALICE, Some("deleted"), 3);
    let removed = [dead_letter(2), deletion, dead_letter(4)];
    database.try_apply(&removed, 4).await.unwrap();
    assert_eq!(database.column(letters).await, ["4"]);
    // The relay sends them again.
    database
        .try_apply(&[dead_letter(1), dead_letter(2)], 4)
        .await
        .unwrap();
    assert_eq!(database.column(letters).await, ["4"]);
}
