//! Ended requests, dead letters, rows of resyncs and accounts of which nothing is kept are purged when
//! their retention is over.

use huddle_firehose::model::GapCause;
use huddle_firehose::store::plan::effect::Effect;
use huddle_firehose::store::{Purged, Retention, Store};

use crate::fixture::*;

const RETENTION: Retention = Retention {
    inactive_request_days: 30,
    dead_letter_days: 90,
    dead_letters: u64::MAX,
    dead_letter_bytes: u64::MAX,
    closed_gap_days: 90,
    audit_days: 365,
};

const OFFER: &str = "at://did:plc:alice/com.huddle.slotOffer/o";

async fn age(database: &Database) {
    database
        .execute(
            "UPDATE booking_requests SET indexed_at = '2020-01-01T00:00:00.000Z'; \
             UPDATE dead_letters SET created_at = '2020-01-01T00:00:00.000Z';",
        )
        .await;
}

#[tokio::test]
async fn only_requests_that_have_ended_long_ago_are_purged() {
    let database = Database::new().await;
    let statuses = [
        "pending",
        "accepted",
        "unheard-of",
        "completed",
        "declined",
        "cancelled",
    ];
    let old: Vec<_> = statuses
        .iter()
        .zip(1..)
        .map(|(status, n)| request(BOB, status, n, OFFER, status))
        .collect();
    database.apply(&old).await;
    age(&database).await;
    database
        .apply(&[request(BOB, "fresh", 9, OFFER, "completed")])
        .await;

    let purged = database.store.purge(RETENTION).await.unwrap();
    assert_eq!(purged.booking_requests, 3);
    assert_eq!(
        database
            .column("SELECT rkey FROM booking_requests ORDER BY rkey")
            .await,
        ["accepted", "fresh", "pending", "unheard-of"]
    );
    assert_eq!(database.number("SELECT count(*) FROM records").await, 7);

    // A replay does not bring back what was purged.
    database.apply(&old).await;
    assert_eq!(
        database
            .number("SELECT count(*) FROM booking_requests")
            .await,
        4
    );
}

#[tokio::test]
async fn old_dead_letters_are_purged_however_many() {
    let database = Database::new().await;
    let letters: Vec<_> = (0..2100).map(dead_letter).collect();
    assert_eq!(database.apply(&letters).await.dead_letters, 2100);
    age(&database).await;
    database.apply(&[dead_letter(3000)]).await;
    let purged = database.store.purge(RETENTION).await.unwrap();
    let expected = Purged {
        accounts: 0,
        booking_requests: 0,
        dead_letters: 2100,
        resyncs: 0,
        closed_gaps: 0,
        commands: 0,
        audit_rows: 0,
    };
    assert_eq!(purged, expected);
    assert_eq!(database.store.dead_letter_count().await.unwrap(), 1);
}

#[tokio::test]
async fn rows_of_resyncs_are_purged_with_the_dead_letters() {
    let database = Database::new().await;
    database
        .execute(
            "INSERT INTO resyncs (did, cause, started_at, ended_at) VALUES \
             ('did:plc:alice', 'gap', '2020-01-01T00:00:00.000Z', '2020-01-01T00:00:01.000Z'), \
             ('did:plc:bob', 'gap', '2999-01-01T00:00:00.000Z', '2999-01-01T00:00:01.000Z')",
        )
        .await;
    assert_eq!(database.store.purge(RETENTION).await.unwrap().resyncs, 1);
    assert_eq!(database.column("SELECT did FROM resyncs").await, [BOB]);
}

const ACCOUNTS: &str = "SELECT substr(did, 9) || ' ' || coalesce(handle, '-') || ' ' || \
     coalesce(status, '-') FROM accounts ORDER BY did";

#[tokio::test]
async fn an_account_of_which_nothing_is_kept_is_forgotten_and_a_takedown_stays() {
    let database = Database::new().await;
    let stranger = |name: &str| format!("did:plc:{name}");
    let mut events = vec![
        put(ALICE, "a", 1),
        identity(ALICE, Some("alice.example"), 2),
        identity(BOB, Some("bob.example"), 3),
    ];
    let statuses = ["takendown", "suspended", "deactivated", "deleted"];
    for (status, n) in statuses.into_iter().zip(4..) {
        events.push(identity(&stranger(status), Some("x.example"), n));
        events.push(account(&stranger(status), Some(status), n));
    }
    database.apply(&events).await;
    let fresh = database.column(ACCOUNTS).await;
    assert_eq!(database.store.purge(RETENTION).await.unwrap().accounts, 0);
    assert_eq!(database.column(ACCOUNTS).await, fresh);

    database
        .execute("UPDATE accounts SET updated_at = '2020-01-01T00:00:00.000Z'")
        .await;
    assert_eq!(database.store.purge(RETENTION).await.unwrap().accounts, 3);
    let left = [
        "alice alice.example -",
        "suspended - suspended",
        "takendown - takendown",
    ];
    assert_eq!(database.column(ACCOUNTS).await, left);
    // A later commit of that account is still hidden.
    let taken_down = stranger("takendown");
    database.apply(&[put(&taken_down, "a", 20)]).await;
    let visible = "SELECT did FROM visible_records";
    assert_eq!(database.column(visible).await, [ALICE]);
}

#[tokio::test]
async fn accounts_are_forgotten_in_pieces_however_many() {
    let database = Database::new().await;
    let identities: Vec<_> = (0..2100)
        .map(|n| identity(&format!("did:plc:x{n}"), Some("x.example"), n))
        .collect();
    database.apply(&identities).await;
    database
        .execute("UPDATE accounts SET updated_at = '2020-01-01T00:00:00.000Z'")
        .await;
    let purged = database.store.purge(RETENTION).await.unwrap();
    assert_eq!(purged.accounts, 2100);
}

#[tokio::test]
async fn a_retention_longer_than_the_calendar_purges_nothing() {
    let database = Database::new().await;
    database.apply(&[dead_letter(1)]).await;
    let forever = Retention {
        inactive_request_days: u32::MAX,
        dead_letter_days: u32::MAX,
        dead_letters: u64::MAX,
        dead_letter_bytes: u64::MAX,
        closed_gap_days: u32::MAX,
        audit_days: u32::MAX,
    };
    assert_eq!(
        database.store.purge(forever).await.unwrap(),
        Purged::default()
    );
}

#[tokio::test]
async fn gaps_are_purged_some_time_after_they_were_closed_and_open_ones_never() {
    let database = Database::new().await;
    for (from, to) in [(1, 2), (11, 12), (21, 22)] {
        let gap = gap(GapCause::OutdatedCursor, from, Some(to));
        database.apply(&[Effect::Gap(gap)]).await;
    }
    database
        .execute(
            "UPDATE gaps SET opened_at = '2020-01-01T00:00:00.000Z'; \
             UPDATE gaps SET closed_at = '2020-01-01T00:00:00.000Z' WHERE from_seq = 1; \
             UPDATE gaps SET closed_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE from_seq = 11",
        )
        .await;
    let purged = database.store.purge(RETENTION).await.unwrap();
    assert_eq!(purged.closed_gaps, 1);
    let left = database
        .column("SELECT CAST(from_seq AS TEXT) FROM gaps")
        .await;
    assert_eq!(left, ["11", "21"]);
}

/// Otherwise the next ones would get their ids again.
#[tokio::test]
async fn the_newest_gap_command_and_row_of_the_audit_stay() {
    let database = Database::new().await;
    for (from, to) in [(1, 2), (11, 12)] {
        let gap = gap(GapCause::OutdatedCursor, from, Some(to));
        database.apply(&[Effect::Gap(gap)]).await;
    }
    database
        .execute(
            "UPDATE gaps SET closed_at = '2020-01-01T00:00:00.000Z'; \
             INSERT INTO commands (kind, arguments, actor, created_at, state, ended_at) \
             SELECT 'drain', '{}', 'test', closed_at, 'done', closed_at FROM gaps; \
             INSERT INTO audit (at, actor, action, target, outcome) \
             SELECT closed_at, 'test', 'drain', '', 'ok' FROM gaps",
        )
        .await;
    let purged = database.store.purge(RETENTION).await.unwrap();
    let counts = (purged.closed_gaps, purged.commands, purged.audit_rows);
    assert_eq!(counts, (1, 1, 1));
    let left = "SELECT id || '' FROM gaps UNION ALL SELECT id || '' FROM commands \
                UNION ALL SELECT id || '' FROM audit";
    assert_eq!(database.column(left).await, ["2", "2", "2"]);
}

/// The clock of the machine was years ahead for a while.
#[tokio::test]
async fn the_age_of_a_row_from_the_future_counts_from_now_on() {
    let database = Database::new().await;
    database.apply(&[dead_letter(1)]).await;
    database
        .execute("UPDATE dead_letters SET created_at = '2999-01-01T00:00:00.000Z'")
        .await;
    let purged = database.store.purge(RETENTION).await.unwrap();
    assert_eq!(purged, Purged::default());
    let is_of_now = "SELECT count(*) FROM dead_letters \
         WHERE abs(julianday('now') - julianday(created_at)) < 1";
    assert_eq!(database.number(is_of_now).await, 1);
}

/// Holds invariant 13.2.
#[tokio::test]
async fn commands_and_audit_rows_are_purged_after_their_own_time_and_open_commands_stay() {
    let database = Database::new().await;
    database
        .execute(
            "INSERT INTO commands (kind, arguments, actor, created_at, state, ended_at) VALUES \
             ('drain', '{}', 'test', '2020-01-01T00:00:00.000Z', 'done', '2020-01-01T00:00:00.000Z'), \
             ('drain', '{}', 'test', '2020-01-01T00:00:00.000Z', 'queued', NULL); \
             INSERT INTO audit (at, actor, action, target, outcome) VALUES \
             ('2020-01-01T00:00:00.000Z', 'test', 'drain', '', 'ok'), \
             (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), 'test', 'drain', '', 'ok');",
        )
        .await;
    let purged = database.store.purge(RETENTION).await.unwrap();
    assert_eq!((purged.commands, purged.audit_rows), (1, 1));
    let left = database.store.open_commands().await.unwrap();
    assert_eq!(left.len(), 1);
}
