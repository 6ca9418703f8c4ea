//! Incidents 12, 15, 17 and 23: events that come twice, in another order, or several for one
//! record. Holds invariants 2.3, 2.4 and 7.5.

use huddle_firehose::atproto::skim::splice_seq;
use serde_json::Value;
use sqlx::sqlite::SqliteConnection;
use test_support::running_worker::config;
use test_support::tables::Database;

use crate::log_builder::{ANN, BOB, LogBuilder, booking, numbered, offer};
use crate::{dead_letters, index, index_both_ways, index_into, numbers};

const NOTE: &str = "com.huddle.note/1";
const OFFER: &str = "com.huddle.slotOffer/1";
const BOOKING: &str = "com.huddle.booking/1";

fn offer_uri() -> String {
    format!("at://{ANN}/{OFFER}")
}

fn note(n: u64) -> Option<Value> {
    Some(numbered(NOTE, n))
}

async fn places_left(database: &Database) -> Vec<(String, Option<i64>)> {
    let mut stranger: SqliteConnection = database.stranger().await;
    sqlx::query_as("SELECT title, places_left FROM open_offers")
        .fetch_all(&mut stranger)
        .await
        .unwrap()
}

async fn statistics(database: &Database) -> Vec<String> {
    let sql = "SELECT day || ' ' || status || ' ' || host || ' ' || bookings \
               FROM booking_statistics";
    database.rows(sql).await
}

// === Incident 12 ===

#[tokio::test]
async fn incident_12_a_record_that_is_created_deleted_and_created_again_exists() {
    let mut log_builder = LogBuilder::new();
    log_builder.put(ANN, NOTE, 1);
    log_builder.delete(ANN, NOTE);
    log_builder.put(ANN, NOTE, 2);
    for database in index_both_ways(&log_builder.log).await {
        assert_eq!(numbers(&database).await, [format!("ann/{NOTE} 2")]);
    }
}

#[tokio::test]
async fn incident_12_an_older_create_that_comes_late_does_not_bring_a_record_back() {
    let mut log_builder = LogBuilder::new();
    log_builder.put(ANN, NOTE, 1);
    let created = log_builder.log[0].clone();
    log_builder.delete(ANN, NOTE);
    // Another relay sends it again, with another seq.
    log_builder.emit(|stamp| splice_seq(&created, stamp.seq).unwrap().into());
    for database in index_both_ways(&log_builder.log).await {
        assert_eq!(numbers(&database).await, [""; 0]);
    }
}

#[tokio::test]
async fn incident_12_a_replay_counts_every_booking_once() {
    let mut log_builder = LogBuilder::new();
    let mut limited = offer("piano");
    limited["capacity"] = 5.into();
    log_builder.commit(ANN, &[(OFFER, Some(limited))]);
    log_builder.commit(BOB, &[(BOOKING, Some(booking(&offer_uri())))]);
    let database = index(log_builder.log.clone()).await;
    let counted = statistics(&database).await;
    assert_eq!(counted, [format!("2999-01-01 confirmed {ANN} 1")]);

    for frame in log_builder.log.clone() {
        log_builder.emit(|stamp| splice_seq(&frame, stamp.seq).unwrap().into());
    }
    index_into(&database, config(), log_builder.log).await;
    assert_eq!(statistics(&database).await, counted);
    let left = places_left(&database).await;
    assert_eq!(left, [("piano".to_owned(), Some(4))]);
}

// === Incident 15 ===

#[tokio::test]
async fn incident_15_a_booking_may_come_before_its_offer_or_without_it() {
    let mut log_builder = LogBuilder::new();
    let never = format!("at://{ANN}/com.huddle.slotOffer/never");
    log_builder.commit(
        BOB,
        &[
            (BOOKING, Some(booking(&offer_uri()))),
            ("com.huddle.booking/2", Some(booking(&never))),
        ],
    );
    let database = index(log_builder.log.clone()).await;
    assert_eq!(dead_letters(&database).await, [""; 0]);
    let booked = "SELECT offer_uri FROM bookings ORDER BY uri";
    assert_eq!(database.rows(booked).await, [offer_uri(), never]);

    let mut limited = offer("piano");
    limited["capacity"] = 5.into();
    log_builder.commit(ANN, &[(OFFER, Some(limited))]);
    index_into(&database, config(), log_builder.log).await;
    let left = places_left(&database).await;
    assert_eq!(left, [("piano".to_owned(), Some(4))]);
}

// === Incidents 17 and 23 ===

#[tokio::test]
async fn incident_17_a_commit_may_change_one_path_twice() {
    for (before, writes, after) in [
        (None, [note(1), note(2)], Some(2)),
        (None, [note(1), None], None),
        (Some(1), [None, note(2)], Some(2)),
        (Some(1), [note(2), note(3)], Some(3)),
        (Some(1), [note(2), None], None),
    ] {
        let mut log_builder = LogBuilder::new();
        if let Some(n) = before {
            log_builder.put(ANN, NOTE, n);
        }
        let case = format!("{before:?}, then {writes:?}");
        // The value of the first of the two is not in the CAR.
        log_builder.commit(ANN, &writes.map(|value| (NOTE, value)));
        let database = index(log_builder.log).await;
        let expected: Vec<_> = after.iter().map(|n| format!("ann/{NOTE} {n}")).collect();
        assert_eq!(numbers(&database).await, expected, "{case}");
        assert_eq!(dead_letters(&database).await, [""; 0], "{case}");
    }
}

#[tokio::test]
async fn incident_23_a_commit_may_delete_and_create_for_the_same_subject() {
    let mut log_builder = LogBuilder::new();
    log_builder.commit(ANN, &[(OFFER, Some(offer("piano")))]);
    log_builder.commit(BOB, &[(BOOKING, Some(booking(&offer_uri())))]);
    // The second booking of one offer replaces the first.
    let second = "com.huddle.booking/2";
    let writes = [(second, Some(booking(&offer_uri()))), (BOOKING, None)];
    log_builder.commit(BOB, &writes);
    for database in index_both_ways(&log_builder.log).await {
        let booked = database.rows("SELECT uri FROM bookings").await;
        assert_eq!(booked, [format!("at://{BOB}/{second}")]);
    }
}
