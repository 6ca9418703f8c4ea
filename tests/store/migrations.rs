//! The migrations, for SQLite and for Cloudflare D1.

use std::fs;
use std::path::Path;

use huddle_firehose::store::StoreError;
use huddle_firehose::store::sqlite::{Access, Options, SqliteStore};
use sqlx::Connection;
use sqlx::sqlite::SqliteConnection;

use crate::fixture::*;

fn migrations() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn the_first_migration_alone_has_the_shape_that_is_fixed() {
    let (name, sql) = migrations().into_iter().next().unwrap();
    assert_eq!(name, "0001_firehose_cursor.sql");
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap();

    let columns: Vec<(String, String, bool, Option<String>, bool)> = sqlx::query_as(
        "SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_info('firehose_cursor')",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let column = |name: &str, kind: &str, not_null, default: Option<&str>, key| {
        (
            name.to_owned(),
            kind.to_owned(),
            not_null,
            default.map(str::to_owned),
            key,
        )
    };
    assert_eq!(
        columns,
        [
            column("id", "TEXT", false, Some("'main'"), true),
            column("cursor", "TEXT", true, None, false),
            column("updated_at", "INTEGER", true, Some("unixepoch()"), false),
        ]
    );
    let rows: Vec<(String, String)> = sqlx::query_as("SELECT id, cursor FROM firehose_cursor")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(rows, [("main".to_owned(), "0".to_owned())]);
}

#[test]
fn no_migration_uses_what_d1_refuses() {
    for (name, sql) in migrations() {
        let statements: String = sql
            .lines()
            .map(|line| line.split("--").next().unwrap_or_default())
            .collect::<Vec<_>>()
            .join("\n")
            .to_uppercase();
        // A trigger has BEGIN too, and is allowed.
        let first_words = statements
            .split(';')
            .filter_map(|statement| statement.split_whitespace().next());
        let refused = ["PRAGMA", "BEGIN", "COMMIT", "SAVEPOINT", "ATTACH", "VACUUM"];
        let found: Vec<&str> = first_words.filter(|word| refused.contains(word)).collect();
        assert!(found.is_empty(), "{name} has {found:?}");
    }
}

/// Holds invariant 9.11: one refusal of a host, which hid accounts until then, hides them no longer.
#[tokio::test]
async fn accounts_of_earlier_versions_keep_what_their_source_said() {
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    for (name, sql) in migrations() {
        if name.starts_with("0019") {
            let rows = "INSERT INTO accounts (did, handle, active, status, as_of_seq, is_unconfirmed) \
                 VALUES ('by the source', 'Ann.Example', 0, 'takendown', 7, 1), \
                 ('refused once', 'a' || char(0) || '.example', 0, 'deleted', 0, 1), \
                 ('confirmed', 'none', 0, 'takendown', 0, 0), \
                 ('deactivated', 'a.example', 0, 'not a word', 5, 1)";
            sqlx::raw_sql(rows).execute(&mut connection).await.unwrap();
        }
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT concat_ws(' ', did || ':', coalesce(handle, '-'), active, coalesce(status, '-'), \
         coalesce(held_status, '-'), is_unconfirmed, coalesce(suspected_status, '-')) \
         FROM accounts ORDER BY did",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    assert_eq!(
        rows,
        [
            "by the source: ann.example 0 takendown takendown 0 -",
            "confirmed: - 0 takendown - 0 -",
            "deactivated: a.example 0 - - 1 -",
            "refused once: - 1 - - 1 deleted",
        ]
    );
}

#[tokio::test]
async fn the_migration_that_stores_the_set_of_interest_keeps_the_rows_of_repositories() {
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    let (before, of_interest): (Vec<_>, Vec<_>) = migrations()
        .into_iter()
        .filter(|(name, _)| name.as_str() < "0014")
        .partition(|(name, _)| name.as_str() < "0013");
    let rows = "INSERT INTO repos (did, rev, data, seq, source, time, state, cause, is_whole, has_parked, \
                recheck_cause, retry_at, attempts, updated_at) VALUES \
                ('a', 'r', 'd', 1, 's', 't', 'synchronized', NULL, 1, 0, 7, NULL, 0, 'u'), \
                ('b', NULL, NULL, NULL, NULL, NULL, 'throttled', 'backfill', 0, 0, NULL, 'x', 3, 'u')";
    for (_, sql) in before {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    sqlx::raw_sql(rows).execute(&mut connection).await.unwrap();
    let query = "SELECT json_array(did, rev, data, seq, source, time, state, cause, is_whole, \
                 has_parked, recheck_cause, retry_at, attempts, updated_at, urgency) FROM repos";
    let kept: Vec<String> = sqlx::query_scalar(query)
        .fetch_all(&mut connection)
        .await
        .unwrap();
    for (_, sql) in of_interest {
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&mut connection)
            .await
            .unwrap();
    }
    let rows: Vec<String> = sqlx::query_scalar(query)
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(rows, kept);
    assert_eq!(rows.len(), 2);
}

#[tokio::test]
async fn a_second_open_changes_nothing() {
    let database = Database::new().await;
    database.apply(&[put(ALICE, "a", 1)]).await;
    let schema = "SELECT coalesce(sql, name) FROM sqlite_master ORDER BY name";
    let before = (database.column(schema).await, database.contents().await);
    let database = database.reopen().await;
    let after = (database.column(schema).await, database.contents().await);
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_database_of_a_later_version_is_refused() {
    let database = Database::new().await;
    database
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (9999, 'of the future', 1, x'00', 0)",
        )
        .await;
    let result = SqliteStore::open(&database.url()).await;
    assert!(
        matches!(result, Err(StoreError::Newer { found: 9999, .. })),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_database_in_memory_is_refused() {
    for url in ["sqlite::memory:", "sqlite://huddle?mode=memory"] {
        assert!(SqliteStore::open(url).await.is_err(), "{url}");
    }
}

#[tokio::test]
async fn a_missing_file_is_not_created_where_that_was_not_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none.db");
    let options = Options {
        access: Access::Migrate,
        ..Options::default()
    };
    let url = format!("sqlite://{}", path.display());
    assert!(SqliteStore::open_with(&url, options).await.is_err());
    assert!(!path.exists());
}

#[tokio::test]
async fn frequent_queries_use_an_index() {
    let database = Database::new().await;
    let questions = [
        (
            "SELECT * FROM offers_index WHERE did = 'x' ORDER BY starts_at",
            "offers_by_host",
        ),
        (
            "SELECT * FROM offers_index WHERE starts_at >= 'x' AND starts_at < 'y'",
            "offers_by_start",
        ),
        ("SELECT * FROM open_offers", "offers_open_by_end"),
        (
            "SELECT * FROM open_offers",
            "COVERING INDEX bookings_by_offer",
        ),
        (
            "SELECT * FROM open_offers WHERE did = 'x'",
            "offers_by_host",
        ),
        (
            "SELECT * FROM active_booking_requests WHERE offer_uri = 'x'",
            "booking_requests_by_offer",
        ),
        (
            "SELECT * FROM active_booking_requests WHERE did = 'x'",
            "booking_requests_by_did",
        ),
        (
            "SELECT * FROM visible_bookings WHERE offer_uri = 'x'",
            "bookings_by_offer",
        ),
        (
            "SELECT * FROM visible_bookings WHERE did = 'x'",
            "bookings_by_did",
        ),
        (
            "SELECT * FROM visible_records WHERE collection = 'x'",
            "records_by_collection",
        ),
        (
            "SELECT * FROM visible_records WHERE uri > 'at://x/' AND uri < 'at://x0'",
            "sqlite_autoindex_records_1 (uri>? AND uri<?)",
        ),
        (
            "SELECT * FROM visible_records WHERE did = 'x'",
            "records_by_did",
        ),
        (
            "DELETE FROM booking_requests WHERE uri IN (SELECT uri FROM booking_requests \
             WHERE status IN ('cancelled', 'completed', 'declined') AND indexed_at < 'x' \
             LIMIT 1000)",
            "booking_requests_ended",
        ),
        (
            "DELETE FROM dead_letters WHERE created_at < 'x'",
            "dead_letters_by_age",
        ),
        (
            "SELECT * FROM gaps WHERE closed_at IS NULL ORDER BY opened_at",
            "gaps_open",
        ),
    ];
    for (question, index) in questions {
        let plan = database.plan(question).await;
        assert!(plan.contains(index), "{question}\n{plan}");
    }
}
