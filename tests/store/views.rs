//! The views for discovery and matching. Holds invariant 2.4.

use huddle_firehose::huddle::SlotOfferRow;

use crate::fixture::*;

const OPEN: &str = "SELECT rkey || ' ' || coalesce(places_left, 'unlimited') FROM open_offers \
                    ORDER BY rkey";

fn offer_for(capacity: Option<i64>) -> SlotOfferRow {
    SlotOfferRow {
        capacity,
        ..slot_offer()
    }
}

fn offer_uri(rkey: &str) -> String {
    uri(ALICE, "com.huddle.slotOffer", rkey)
}

#[tokio::test]
async fn an_offer_has_places_while_confirmed_bookings_are_fewer_than_its_capacity() {
    let database = Database::new().await;
    database
        .apply(&[
            offer(ALICE, "unlimited", 1, offer_for(None)),
            offer(ALICE, "two", 2, offer_for(Some(2))),
            offer(ALICE, "none", 3, offer_for(Some(0))),
            // A booking may arrive before its offer.
            booking(BOB, "b1", 4, &offer_uri("late"), "confirmed"),
            booking(BOB, "b2", 5, &offer_uri("two"), "confirmed"),
            booking(BOB, "b3", 6, &offer_uri("two"), "cancelled"),
            booking(CAROL, "b4", 7, &offer_uri("unlimited"), "confirmed"),
        ])
        .await;
    assert_eq!(
        database.column(OPEN).await,
        ["two 1", "unlimited unlimited"]
    );

    database
        .apply(&[
            booking(CAROL, "b5", 8, &offer_uri("two"), "confirmed"),
            offer(ALICE, "late", 9, offer_for(Some(2))),
        ])
        .await;
    assert_eq!(
        database.column(OPEN).await,
        ["late 1", "unlimited unlimited"]
    );

    // The bookings of a hidden account take no places.
    database
        .apply(&[account(CAROL, Some("takendown"), 10)])
        .await;
    assert_eq!(
        database.column(OPEN).await,
        ["late 1", "two 1", "unlimited unlimited"]
    );
}

#[tokio::test]
async fn an_offer_that_is_over_closed_or_hidden_is_not_open() {
    let database = Database::new().await;
    let over = SlotOfferRow {
        starts_at: "2020-01-01T10:00:00.000Z".to_owned(),
        ends_at: "2020-01-01T11:00:00.000Z".to_owned(),
        ..slot_offer()
    };
    let closed = SlotOfferRow {
        status: "closed".to_owned(),
        ..slot_offer()
    };
    database
        .apply(&[
            offer(ALICE, "over", 1, over),
            offer(ALICE, "closed", 2, closed),
            offer(BOB, "hidden", 3, slot_offer()),
            account(BOB, Some("suspended"), 4),
            offer(ALICE, "open", 5, slot_offer()),
        ])
        .await;
    assert_eq!(database.column(OPEN).await, ["open unlimited"]);
}

#[tokio::test]
async fn an_offer_ends_at_its_very_millisecond() {
    let database = Database::new().await;
    let at = |offset: &str| -> String {
        let ends_at = jiff::Timestamp::now();
        let ends_at = ends_at + offset.parse::<jiff::SignedDuration>().unwrap();
        format!("{ends_at:.3}")
    };
    let ending = |ends_at| SlotOfferRow {
        starts_at: "2020-01-01T10:00:00.000Z".to_owned(),
        ends_at,
        ..slot_offer()
    };
    database
        .apply(&[
            offer(ALICE, "a-minute-ago", 1, ending(at("-PT60S"))),
            offer(ALICE, "in-a-minute", 2, ending(at("PT60S"))),
        ])
        .await;
    assert_eq!(database.column(OPEN).await, ["in-a-minute unlimited"]);
}

#[tokio::test]
async fn a_request_is_active_until_it_has_ended() {
    let database = Database::new().await;
    let statuses = [
        "pending",
        "accepted",
        "unheard-of",
        "declined",
        "cancelled",
        "completed",
    ];
    let requests: Vec<_> = statuses
        .iter()
        .zip(1..)
        .map(|(status, n)| request(BOB, status, n, &offer_uri("o"), status))
        .collect();
    database.apply(&requests).await;
    let active = "SELECT rkey FROM active_booking_requests ORDER BY rkey";
    assert_eq!(
        database.column(active).await,
        ["accepted", "pending", "unheard-of"]
    );

    database
        .apply(&[request(BOB, "pending", 7, &offer_uri("o"), "completed")])
        .await;
    assert_eq!(database.column(active).await, ["accepted", "unheard-of"]);

    database
        .apply(&[account(BOB, Some("deactivated"), 8)])
        .await;
    assert!(database.column(active).await.is_empty());
}

#[tokio::test]
async fn statistics_are_per_day_status_and_host_and_no_replay_inflates_them() {
    let database = Database::new().await;
    let batch = [
        booking(BOB, "b1", 1, &offer_uri("o"), "confirmed"),
        booking(BOB, "b2", 2, &offer_uri("p"), "confirmed"),
        booking(BOB, "b3", 3, &offer_uri("o"), "cancelled"),
        booking(
            ALICE,
            "b4",
            4,
            &uri(CAROL, "com.huddle.slotOffer", "q"),
            "confirmed",
        ),
    ];
    for _ in 0..2 {
        database.apply(&batch).await;
    }
    assert_eq!(
        database
            .column(
                "SELECT day || ' ' || status || ' ' || host || ' ' || bookings \
                 FROM booking_statistics ORDER BY 1"
            )
            .await,
        [
            "2999-01-01 cancelled did:plc:alice 1",
            "2999-01-01 confirmed did:plc:alice 2",
            "2999-01-01 confirmed did:plc:carol 1",
        ]
    );
}
