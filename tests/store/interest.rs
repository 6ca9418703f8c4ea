//! The set of interest in force, and what a change of it does to the tables. Holds invariant 6.7.

use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::model::Position;
use huddle_firehose::store::plan::{InterestSet, ResyncCause};
use huddle_firehose::store::repo_store::{JobKind, RepoStore};
use huddle_firehose::store::{Adoption, Store};
use jiff::Timestamp;

use crate::commits::*;
use crate::fixture::*;

const GAPS: &str = "SELECT from_seq || ' ' || coalesce(to_seq, '-') || ' ' || coalesce(recheck_repos, '-') \
                    FROM gaps WHERE cause = 'interest_widened' ORDER BY id";
const SHOWN: &str = "SELECT rkey FROM visible_records ORDER BY rkey";
const STATES: &str = "SELECT did || ' ' || state || ' ' || coalesce(cause, '-') || ' ' || is_whole \
                      FROM repos ORDER BY did";

fn set(patterns: &[&str]) -> InterestSet {
    InterestSet::new(patterns.iter().map(|pattern| pattern.parse().unwrap()))
}

fn dids(dids: &[&str]) -> Vec<Did> {
    dids.iter().map(|did| Did::parse(did).unwrap()).collect()
}

fn all() -> InterestSet {
    set(&["com.huddle.*"])
}

fn offers() -> InterestSet {
    set(&["com.huddle.slotOffer"])
}

impl Database {
    /// Returns how many pieces it took, and how many records were hidden and repositories voided.
    async fn adopt(&self, set: &InterestSet) -> (usize, u64, u64) {
        let mut pieces = 0;
        loop {
            pieces += 1;
            match self.store.adopt_interest(&source(), set).await.unwrap() {
                Adoption::Unchanged => return (pieces - 1, 0, 0),
                Adoption::Began(_) | Adoption::Continues => {}
                Adoption::Finished {
                    hidden_records,
                    voided_repos,
                } => return (pieces, hidden_records, voided_repos),
            }
        }
    }

    async fn piece(&self, set: &InterestSet) -> Adoption {
        self.store.adopt_interest(&source(), set).await.unwrap()
    }

    async fn reach(&self, seq: u64) {
        self.try_apply(&[], seq).await.unwrap();
    }
}

/// An offer and a booking of each of two accounts, under the whole set.
async fn with_records() -> Database {
    let database = Database::new().await;
    database.adopt(&all()).await;
    database
        .apply(&[
            offer(ALICE, "a-offer", 1, slot_offer()),
            booking(ALICE, "a-booking", 2, "at://x/y/z", "confirmed"),
            offer(BOB, "b-offer", 3, slot_offer()),
            booking(BOB, "b-booking", 4, "at://x/y/z", "confirmed"),
        ])
        .await;
    database.reach(4).await;
    database
}

#[tokio::test]
async fn a_database_without_a_set_takes_the_first_one_without_a_gap() {
    let database = Database::new().await;
    database
        .apply(&[
            offer(ALICE, "a-offer", 1, slot_offer()),
            booking(ALICE, "a-booking", 2, "at://x/y/z", "confirmed"),
        ])
        .await;
    assert_eq!(database.store.interest_in_force().await.unwrap(), None);
    database.adopt(&offers()).await;
    let in_force = database.store.interest_in_force().await.unwrap();
    assert_eq!(in_force, Some(offers()));
    assert!(database.column(GAPS).await.is_empty());
    // The worker does not keep the booking up to date.
    assert_eq!(database.column(SHOWN).await, ["a-offer"]);
    assert_eq!(database.adopt(&offers()).await, (0, 0, 0));
}

#[tokio::test]
async fn records_that_are_no_longer_wanted_are_hidden_in_every_view_and_stay_in_the_tables() {
    let database = with_records().await;
    database
        .apply(&[request(ALICE, "a-request", 5, "at://x/y/z", "pending")])
        .await;
    let (_, hidden, voided) = database.adopt(&set(&["com.huddle.profile"])).await;
    assert_eq!((hidden, voided), (5, 0));
    for view in [
        "SELECT uri FROM visible_records",
        "SELECT uri FROM visible_bookings",
        "SELECT uri FROM open_offers",
        "SELECT uri FROM active_booking_requests",
        "SELECT day FROM booking_statistics",
    ] {
        assert!(database.column(view).await.is_empty(), "{view}");
    }
    for (rows, query) in [
        (5, "SELECT count(*) FROM records"),
        (2, "SELECT count(*) FROM bookings"),
        (2, "SELECT count(*) FROM offers_index"),
        (1, "SELECT count(*) FROM booking_requests"),
    ] {
        assert_eq!(database.number(query).await, rows, "{query}");
    }
    assert!(database.column(GAPS).await.is_empty());
}

#[tokio::test]
async fn an_account_that_is_denied_or_no_longer_listed_is_hidden() {
    let database = with_records().await;
    database.adopt(&all().denying(dids(&[ALICE]))).await;
    assert_eq!(database.column(SHOWN).await, ["b-booking", "b-offer"]);
    database.adopt(&all().allowing(dids(&[CAROL]))).await;
    assert!(database.column(SHOWN).await.is_empty());
}

#[tokio::test]
async fn a_hidden_record_is_shown_again_when_it_is_written_or_its_repository_was_fetched() {
    let database = with_records().await;
    database.track(&[ALICE, BOB]).await;
    database.adopt(&offers()).await;
    database.adopt(&all()).await;
    let offers_only = ["a-offer", "b-offer"];
    assert_eq!(
        database
            .column("SELECT rkey FROM open_offers ORDER BY rkey")
            .await,
        offers_only
    );
    assert!(
        database
            .column("SELECT rkey FROM visible_bookings")
            .await
            .is_empty()
    );

    // Written by an event, or seen again in a replay.
    database
        .apply(&[booking(ALICE, "a-booking", 9, "at://x/y/z", "confirmed")])
        .await;
    assert_eq!(
        database.column("SELECT rkey FROM visible_bookings").await,
        ["a-booking"]
    );
    // A version that is older than the row shows nothing.
    database
        .apply(&[booking(BOB, "b-booking", 1, "at://x/y/z", "confirmed")])
        .await;
    assert_eq!(
        database.column("SELECT rkey FROM visible_bookings").await,
        ["a-booking"]
    );

    // A failed fetch shows nothing, and one that ends well shows the rest.
    database.begin_resync(BOB).await;
    database.end_resync(&failed(BOB, 0)).await;
    assert_eq!(
        database.column("SELECT rkey FROM visible_bookings").await,
        ["a-booking"]
    );
    database.resync(BOB, 20).await;
    let both = ["a-booking", "b-booking"];
    assert_eq!(
        database
            .column("SELECT rkey FROM visible_bookings ORDER BY rkey")
            .await,
        both
    );
}

#[tokio::test]
async fn a_replay_that_writes_nothing_shows_a_record_again() {
    let database = with_records().await;
    database.adopt(&offers()).await;
    database.adopt(&all()).await;
    let again = booking(BOB, "b-booking", 4, "at://x/y/z", "confirmed");
    assert_eq!(database.apply(&[again]).await.records, 0);
    assert_eq!(
        database.column("SELECT rkey FROM visible_bookings").await,
        ["b-booking"]
    );
}

#[tokio::test]
async fn a_fetch_under_a_narrow_set_shows_nothing_that_is_not_wanted() {
    let database = with_records().await;
    database.track(&[ALICE]).await;
    database.adopt(&offers()).await;
    database.request_resync(ALICE, ResyncCause::Operator).await;
    database.resync(ALICE, 20).await;
    assert!(
        database
            .column("SELECT rkey FROM visible_bookings")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn a_wider_set_opens_a_gap_from_where_the_narrower_one_began() {
    let database = with_records().await;
    database.adopt(&offers()).await;
    database.reach(9).await;
    database.adopt(&all()).await;
    assert_eq!(database.column(GAPS).await, ["4 9 2"]);
    // Nothing that ever was in force covers this one.
    database.reach(12).await;
    database.adopt(&set(&["*"])).await;
    assert_eq!(database.column(GAPS).await, ["4 9 2", "0 12 2"]);
}

#[tokio::test]
async fn a_wider_set_voids_every_repository_and_an_allowed_account_only_its_own() {
    let database = with_records().await;
    database.track(&[ALICE, BOB]).await;
    for name in [ALICE, BOB] {
        database.request_resync(name, ResyncCause::Operator).await;
        database.resync(name, 20).await;
    }
    let whole = |name: &str| format!("{name} synchronized operator 1");
    let voided = |name: &str| format!("{name} desynchronized interest 0");
    assert_eq!(database.column(STATES).await, [whole(ALICE), whole(BOB)]);

    database.adopt(&all().denying(dids(&[BOB]))).await;
    assert_eq!(database.column(STATES).await, [whole(ALICE), whole(BOB)]);
    database.adopt(&all()).await;
    assert_eq!(database.column(STATES).await, [whole(ALICE), voided(BOB)]);
    assert_eq!(database.column(GAPS).await, ["4 4 1"]);
    database.adopt(&set(&["com.*"])).await;
    assert_eq!(database.column(STATES).await, [voided(ALICE), voided(BOB)]);
    // It waits like a backfill.
    let due = database
        .store
        .due(JobKind::Backfill, Timestamp::now(), 9)
        .await;
    assert_eq!(due.unwrap().len(), 2);
}

#[tokio::test]
async fn the_gap_is_not_closed_before_every_repository_is_marked_and_fetched() {
    let database = with_records().await;
    database.track(&[ALICE, BOB]).await;
    database.adopt(&offers()).await;
    assert!(matches!(database.piece(&all()).await, Adoption::Began(_)));
    while database.piece(&all()).await == Adoption::Continues {
        let reconciled = database
            .store
            .reconcile_gaps(Timestamp::now())
            .await
            .unwrap();
        assert_eq!(reconciled.closed, []);
    }
    for name in [ALICE, BOB] {
        let reconciled = database
            .store
            .reconcile_gaps(Timestamp::now())
            .await
            .unwrap();
        assert_eq!(reconciled.closed, []);
        database.resync(name, 20).await;
    }
    let reconciled = database
        .store
        .reconcile_gaps(Timestamp::now())
        .await
        .unwrap();
    let resolution = &reconciled.closed[0].resolution;
    assert!(
        resolution.starts_with("compared 2 repositories, fetched 2"),
        "{resolution}"
    );
}

/// Tables that are larger than a piece.
async fn with_many_rows() -> Database {
    let database = with_records().await;
    database
        .execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000) \
             INSERT INTO records (uri, did, collection, rkey, rev, seq, source, time, record, \
             first_indexed_at, last_indexed_at) SELECT 'at://did:plc:n' || i || \
             '/com.huddle.booking/k', 'did:plc:n' || i, 'com.huddle.booking', 'k', '3k', 1, '', '', \
             '{}', '', '' FROM n; \
             INSERT INTO repos (did, rev, data, state, is_whole, updated_at) \
             SELECT did, rev, '', 'synchronized', 1, '' FROM records WHERE rkey = 'k'",
        )
        .await;
    database
}

const LEFT: &str = "SELECT (SELECT count(*) FROM visible_records WHERE rkey = 'k') || ' ' || \
                    (SELECT count(*) FROM repos WHERE is_whole = 1 AND rev = '3k')";

#[tokio::test]
async fn a_large_change_is_made_in_pieces_and_continued_after_a_crash_at_any_of_them() {
    let mut database = with_many_rows().await;
    for (set, left) in [(offers(), "0 12000"), (all(), "0 0")] {
        let mut pieces = 0;
        let (hidden, voided) = loop {
            pieces += 1;
            database = database.reopen().await;
            match database.piece(&set).await {
                Adoption::Finished {
                    hidden_records,
                    voided_repos,
                } => break (hidden_records, voided_repos),
                Adoption::Unchanged => panic!("it is not finished"),
                Adoption::Began(_) | Adoption::Continues => {}
            }
        };
        assert!(pieces >= 4, "{pieces}");
        assert_eq!(database.column(LEFT).await, [left]);
        assert!(
            [(12_002, 0), (0, 12_002)].contains(&(hidden, voided)),
            "{hidden} {voided}"
        );
    }
    assert_eq!(database.adopt(&all()).await, (0, 0, 0));
}

#[tokio::test]
async fn a_change_that_comes_during_another_is_made_after_it() {
    let database = with_many_rows().await;
    database.adopt(&offers()).await;
    // Widening is interrupted while some repositories are marked and others are not.
    for _ in 0..5 {
        assert_ne!(database.piece(&all()).await, Adoption::Unchanged);
    }
    let narrower = set(&["com.huddle.profile"]);
    while database.piece(&narrower).await != Adoption::Unchanged {}
    assert_eq!(database.column(LEFT).await, ["0 0"]);
    assert!(database.column(SHOWN).await.is_empty());
    let in_force = database.store.interest_in_force().await.unwrap();
    assert_eq!(in_force, Some(narrower));
    assert_eq!(database.column(GAPS).await.len(), 1);

    while database.piece(&all()).await != Adoption::Unchanged {}
    assert_eq!(database.column(GAPS).await.len(), 2);
    assert!(
        database.column(SHOWN).await.is_empty(),
        "nothing was written since"
    );
}

#[tokio::test]
async fn discoveries_begin_anew_under_a_wider_set_and_are_forgotten_with_their_collection() {
    let database = with_records().await;
    database
        .execute(
            "INSERT INTO discoveries (collection, cursor, repos, started_at, ended_at) VALUES \
             ('com.huddle.booking', NULL, 7, 'x', 'y'), ('com.huddle.slotOffer', 'c', 8, 'x', NULL)",
        )
        .await;
    let rows = "SELECT collection || ' ' || coalesce(cursor, '-') || ' ' || repos FROM discoveries \
                ORDER BY collection";
    database.adopt(&offers()).await;
    assert_eq!(database.column(rows).await, ["com.huddle.slotOffer c 8"]);
    database.adopt(&all()).await;
    assert_eq!(database.column(rows).await, ["com.huddle.slotOffer - 0"]);
}

#[tokio::test]
async fn an_unknown_repository_that_commits_under_a_wider_set_is_fetched() {
    let database = Database::new().await;
    database.adopt(&offers()).await;
    database
        .apply(&[commit(ALICE, 2, 1), put_by(ALICE, "a", 2)])
        .await;
    assert!(database.due(1_000_000).await.is_empty());
    database.adopt(&all()).await;
    database.resync(ALICE, 3).await;
    // Also after the gap was closed.
    database
        .store
        .reconcile_gaps(Timestamp::now())
        .await
        .unwrap();
    database
        .apply(&[commit(BOB, 5, 4), put_by(BOB, "b", 5)])
        .await;
    assert_eq!(database.due(1_000_000).await, [BOB]);
}

#[tokio::test]
async fn the_cursor_of_a_source_says_when_a_set_came_into_force() {
    let database = Database::new().await;
    let position = Position {
        seq: 7,
        time: Some(second(7)),
    };
    database.store.load_cursor(&source()).await.unwrap();
    database
        .store
        .move_cursor(&source(), position, None)
        .await
        .unwrap();
    database.adopt(&all()).await;
    let row = "SELECT collections || ' ' || source || ' ' || seq || ' ' || is_widened \
               FROM interest_sets";
    let expected = format!("[\"com.huddle.*\"] {} 7 0", source());
    assert_eq!(database.column(row).await, [expected]);
}
