//! Incidents 12, 15, 17 and 23: events that come twice, in another order, or several for one record.

use huddle_firehose::atproto::skim::splice_seq;
use serde_json::Value;
use sqlx::sqlite::SqliteConnection;
use test_support::running_worker::config;
use test_support::tables::Database;

use crate::scribe::{ANN, BOB, Scribe, booking, numbered, offer};
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
async fn incident_12_what_is_created_deleted_and_created_again_is_there() {
    let mut scribe = Scribe::new();
    scribe.put(ANN, NOTE, 1);
    scribe.delete(ANN, NOTE);
    scribe.put(ANN, NOTE, 2);
    for database in index_both_ways(&scribe.log).await {
        assert_eq!(numbers(&database).await, [format!("ann/{NOTE} 2")]);
    }
}

#[tokio::test]
async fn incident_12_an_older_creation_that_comes_late_resurrects_nothing() {
    let mut scribe = Scribe::new();
    scribe.put(ANN, NOTE, 1);
    let created = scribe.log[0].clone();
    scribe.delete(ANN, NOTE);
    // Another relay tells it again, under a number of its own.
    scribe.emit(|stamp| splice_seq(&created, stamp.seq).unwrap().into());
    for database in index_both_ways(&scribe.log).await {
        assert_eq!(numbers(&database).await, [""; 0]);
    }
}

#[tokio::test]
async fn incident_12_a_replay_counts_no_booking_twice() {
    let mut scribe = Scribe::new();
    let mut limited = offer("piano");
    limited["capacity"] = 5.into();
    scribe.commit(ANN, &[(OFFER, Some(limited))]);
    scribe.commit(BOB, &[(BOOKING, Some(booking(&offer_uri())))]);
    let database = index(scribe.log.clone()).await;
    let counted = statistics(&database).await;
    assert_eq!(counted, [format!("2999-01-01 confirmed {ANN} 1")]);

    for frame in scribe.log.clone() {
        scribe.emit(|stamp| splice_seq(&frame, stamp.seq).unwrap().into());
    }
    index_into(&database, config(), scribe.log).await;
    assert_eq!(statistics(&database).await, counted);
    let left = places_left(&database).await;
    assert_eq!(left, [("piano".to_owned(), Some(4))]);
}

// === Incident 15 ===

#[tokio::test]
async fn incident_15_a_booking_may_come_before_its_offer_or_without_it() {
    let mut scribe = Scribe::new();
    let never = format!("at://{ANN}/com.huddle.slotOffer/never");
    scribe.commit(
        BOB,
        &[
            (BOOKING, Some(booking(&offer_uri()))),
            ("com.huddle.booking/2", Some(booking(&never))),
        ],
    );
    let database = index(scribe.log.clone()).await;
    assert_eq!(dead_letters(&database).await, [""; 0]);
    let booked = "SELECT offer_uri FROM bookings ORDER BY uri";
    assert_eq!(database.rows(booked).await, [offer_uri(), never]);

    let mut limited = offer("piano");
    limited["capacity"] = 5.into();
    scribe.commit(ANN, &[(OFFER, Some(limited))]);
    index_into(&database, config(), scribe.log).await;
    let left = places_left(&database).await;
    assert_eq!(left, [("piano".to_owned(), Some(4))]);
}

// === Incidents 17 and 23 ===

#[tokio::test]
async fn incident_17_a_commit_may_touch_one_path_twice() {
    for (before, writes, after) in [
        (None, [note(1), note(2)], Some(2)),
        (None, [note(1), None], None),
        (Some(1), [None, note(2)], Some(2)),
        (Some(1), [note(2), note(3)], Some(3)),
        (Some(1), [note(2), None], None),
    ] {
        let mut scribe = Scribe::new();
        if let Some(n) = before {
            scribe.put(ANN, NOTE, n);
        }
        let told = format!("{before:?}, then {writes:?}");
        // What the first of the two wrote is not in the CAR.
        scribe.commit(ANN, &writes.map(|value| (NOTE, value)));
        let database = index(scribe.log).await;
        let expected: Vec<_> = after.iter().map(|n| format!("ann/{NOTE} {n}")).collect();
        assert_eq!(numbers(&database).await, expected, "{told}");
        assert_eq!(dead_letters(&database).await, [""; 0], "{told}");
    }
}

#[tokio::test]
async fn incident_23_a_deletion_counts_beside_a_creation_of_the_same_subject() {
    let mut scribe = Scribe::new();
    scribe.commit(ANN, &[(OFFER, Some(offer("piano")))]);
    scribe.commit(BOB, &[(BOOKING, Some(booking(&offer_uri())))]);
    // The second booking of one offer replaces the first.
    let second = "com.huddle.booking/2";
    let writes = [(second, Some(booking(&offer_uri()))), (BOOKING, None)];
    scribe.commit(BOB, &writes);
    for database in index_both_ways(&scribe.log).await {
        let booked = database.rows("SELECT uri FROM bookings").await;
        assert_eq!(booked, [format!("at://{BOB}/{second}")]);
    }
}
