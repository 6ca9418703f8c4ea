//! Copies of the database, and checks that its tables agree. Holds invariant 1.8.

use huddle_firehose::store::repo_store::RepoStore;
use huddle_firehose::store::sqlite::{BackupError, SqliteStore};

use crate::commits::*;
use crate::fixture::*;

/// A database with something in most tables.
async fn filled() -> Database {
    let database = Database::new().await;
    let offer_uri = uri(ALICE, "com.huddle.slotOffer", "offer");
    let effects = [
        commit(ALICE, 2, 1),
        offer(ALICE, "offer", 2, slot_offer()),
        commit(BOB, 3, 2),
        request(BOB, "request", 3, &offer_uri, "pending"),
        commit(CAROL, 4, 3),
        booking(CAROL, "booking", 4, &offer_uri, "confirmed"),
        account(BOB, Some("takendown"), 5),
        dead_letter(6),
    ];
    database.try_apply(&effects, 6).await.unwrap();
    database
}

async fn broken(database: &Database) -> Vec<&'static str> {
    let checked = database.store.check_rules().await.unwrap();
    let broken = checked.into_iter().filter(|checked| checked.rows > 0);
    broken.map(|checked| checked.rule).collect()
}

#[tokio::test]
async fn ordinary_work_breaks_no_rule_of_the_tables() {
    let database = filled().await;
    assert!(broken(&database).await.is_empty());
    database.apply(&[delete_by(ALICE, "offer", 7)]).await;
    database.apply(&[account(CAROL, Some("deleted"), 8)]).await;
    // A commit that does not follow is parked.
    database.apply(&[commit(ALICE, 12, 11)]).await;
    assert!(broken(&database).await.is_empty());
    assert_eq!(database.store.integrity_fault().await.unwrap(), None);
}

#[tokio::test]
async fn each_rule_of_the_tables_notices_what_breaks_it() {
    for (damage, rule) in [
        (
            "UPDATE records SET rev = 'x' WHERE collection = 'com.huddle.slotOffer'",
            "each row of offers_index is",
        ),
        (
            "UPDATE records SET cid = 'x' WHERE collection = 'com.huddle.bookingRequest'",
            "each row of booking_requests is",
        ),
        (
            "UPDATE records SET validity = 'invalid' WHERE collection = 'com.huddle.booking'",
            "each row of bookings is",
        ),
        ("DELETE FROM offers_index", "each valid offer has a row"),
        ("DELETE FROM booking_requests", "each valid booking request"),
        ("DELETE FROM bookings", "each valid booking has a row"),
        (
            "UPDATE repos SET rev = '2222222222222', state = 'synchronized';
             UPDATE records SET verified = 'chain'",
            "no verified record is newer",
        ),
        (
            "UPDATE records SET validity = NULL",
            "each record that is kept says",
        ),
        (
            "INSERT INTO gaps (source, cause, from_seq, opened_at) VALUES ('x', 'started_live', 0, '')",
            "each gap is of a source",
        ),
        (
            "INSERT INTO gaps (source, cause, from_seq, opened_at, closed_at) \
             SELECT source, 'started_live', 0, '', '' FROM firehose_cursor",
            "each gap that is closed",
        ),
        (
            "INSERT INTO gaps (source, cause, from_seq, to_seq, opened_at) \
             SELECT source, 'outdated_cursor', 9, 3, '' FROM firehose_cursor",
            "no gap that time has made",
        ),
        ("UPDATE repos SET has_parked = 1", "each repository knows"),
        (
            "INSERT INTO stale_records (uri, did) VALUES ('at://x', 'x')",
            "each stale record is there",
        ),
        (
            "INSERT INTO lexicon_views VALUES ('x', 'x', '', '')",
            "each view of a lexicon is there",
        ),
        (
            "INSERT INTO parked_commits (did, source, seq, frame, created_at, reason, bytes) \
             VALUES ('did:plc:alice', 'x', 1, x'00', '', 'key', 1)",
            "what is parked is counted",
        ),
    ] {
        let database = filled().await;
        database.execute(damage).await;
        let broken = broken(&database).await;
        assert!(
            broken.iter().any(|broken| broken.starts_with(rule)),
            "{damage}: {broken:?}"
        );
    }
}

#[tokio::test]
async fn a_copy_has_all_that_the_database_has_and_can_be_used_in_its_place() {
    let database = filled().await;
    let file = database.path().with_file_name("copy.db");
    let backup = database.store.back_up(&file).await.unwrap();
    assert_eq!(backup.records, 3);
    assert_eq!(backup.bytes, file.metadata().unwrap().len());
    let copy = format!("sqlite://{}", file.display());
    let copy = SqliteStore::open(&copy).await.unwrap();
    let cursor: String = sqlx::query_scalar("SELECT cursor || '' FROM firehose_cursor")
        .fetch_one(copy.reader())
        .await
        .unwrap();
    assert_eq!(cursor, "6");
    assert_eq!(
        copy.counts().await.unwrap(),
        database.store.counts().await.unwrap()
    );

    let again = database.store.back_up(&file).await.unwrap_err();
    assert!(matches!(again, BackupError::Exists(_)), "{again}");
    // One backup at a time, since they have the same name for a draft.
    let folder = std::fs::File::open(file.parent().unwrap()).unwrap();
    folder.lock().unwrap();
    let second = database.path().with_file_name("second.db");
    let busy = database.store.back_up(&second).await.unwrap_err();
    assert!(matches!(busy, BackupError::Busy(_)), "{busy}");
    drop(folder);
    // What an attempt that died has left does not matter.
    let other = database.path().with_file_name("other.db");
    std::fs::write(other.with_file_name("other.db.part"), "half a copy").unwrap();
    database.store.back_up(&other).await.unwrap();
    assert!(!other.with_file_name("other.db.part").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_made_while_records_are_written_is_a_moment_of_the_database() {
    let database = filled().await;
    let folder = database.path().parent().unwrap().to_owned();
    let (done, mut is_done) = tokio::sync::watch::channel(false);
    let writing = async {
        let mut n = 10;
        while !*is_done.borrow_and_update() {
            let effects: Vec<_> = (0..50).map(|k| put(BOB, &format!("{n}-{k}"), n)).collect();
            database.try_apply(&effects, n).await.unwrap();
            n += 1;
        }
    };
    let copying = async {
        for copy in 0..3 {
            let file = folder.join(format!("copy-{copy}.db"));
            database.store.back_up(&file).await.unwrap();
            let url = format!("sqlite://{}", file.display());
            let copy = SqliteStore::open(&url).await.unwrap();
            // Fifty records a transaction, with the cursor in it.
            let query = "SELECT (SELECT count(*) FROM records WHERE rkey LIKE '%-%') \
                         - 50 * max(0, (SELECT CAST(cursor AS INTEGER) - 9 FROM firehose_cursor))";
            let difference: i64 = sqlx::query_scalar(query)
                .fetch_one(copy.reader())
                .await
                .unwrap();
            assert_eq!(difference, 0);
        }
        done.send(true).unwrap();
    };
    tokio::join!(writing, copying);
}

#[tokio::test]
async fn a_sample_of_whole_repositories_is_compared_with_their_hosts() {
    let database = filled().await;
    database
        .execute("UPDATE repos SET state = 'synchronized'")
        .await;
    let due = "SELECT count(*) FROM repos WHERE urgency = 2 AND recheck_cause = 0";
    // Bob's account is hidden.
    assert_eq!(database.store.recheck_sample(1).await.unwrap(), 1);
    assert_eq!(database.number(due).await, 1);
    assert_eq!(database.store.recheck_sample(9).await.unwrap(), 1);
    assert_eq!(database.number(due).await, 2);
}
