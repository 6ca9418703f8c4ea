//! The bare limit of the database: a loop that writes known rows.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use huddle_firehose::store::sqlite::SqliteStore;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row, TypeInfo, ValueRef};
use tokio::time::Instant;

/// Records in one transaction. The worker's default.
const BATCH: usize = 100;

/// The tables with one row for each record.
const PROJECTIONS: [&str; 3] = ["offers_index", "booking_requests", "bookings"];

pub(crate) enum Value {
    Null,
    Integer(i64),
    Text(String),
    Blob(Vec<u8>),
}

/// Rows of one table.
pub(crate) struct Rows {
    table: &'static str,
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

/// The rows of one transaction.
pub(crate) type Batch = Vec<Rows>;

/// The rows that the worker wrote into the database at `path`, in batches.
pub(crate) async fn read(path: &Path) -> Vec<Batch> {
    let mut connection = connect(path).await;
    let all = select(&mut connection, "records", "ORDER BY seq").await;
    let mut batches = Vec::new();
    let mut records = all.rows.into_iter().peekable();
    while records.peek().is_some() {
        let rows: Vec<Vec<Value>> = records.by_ref().take(BATCH).collect();
        let (uris, dids) = (texts(&rows, 0), texts(&rows, 1));
        let mut batch = vec![Rows {
            table: all.table,
            columns: all.columns.clone(),
            rows,
        }];
        for table in PROJECTIONS {
            let those = format!("WHERE uri IN ({uris})");
            batch.push(select(&mut connection, table, &those).await);
        }
        let those = format!("WHERE did IN ({dids})");
        batch.push(select(&mut connection, "repos", &those).await);
        batch.retain(|rows| !rows.rows.is_empty());
        batches.push(batch);
    }
    batches
}

/// The distinct texts of a column, as an SQL list.
fn texts(rows: &[Vec<Value>], column: usize) -> String {
    let quoted = |row: &Vec<Value>| match &row[column] {
        Value::Text(text) => Some(format!("'{text}'")),
        _ => None,
    };
    let texts: HashSet<String> = rows.iter().filter_map(quoted).collect();
    texts.into_iter().collect::<Vec<_>>().join(", ")
}

async fn select(connection: &mut SqliteConnection, table: &'static str, rest: &str) -> Rows {
    let columns = sqlx::query_scalar("SELECT name FROM pragma_table_info(?) ORDER BY cid")
        .bind(table)
        .fetch_all(&mut *connection);
    let columns: Vec<String> = columns.await.unwrap();
    let select = format!("SELECT {} FROM {table} {rest}", columns.join(", "));
    let rows = connection.fetch_all(AssertSqlSafe(select)).await.unwrap();
    Rows {
        table,
        columns,
        rows: rows.iter().map(values).collect(),
    }
}

fn values(row: &SqliteRow) -> Vec<Value> {
    let value = |index: usize| {
        let raw = row.try_get_raw(index).unwrap();
        if raw.is_null() {
            return Value::Null;
        }
        match raw.type_info().name() {
            "INTEGER" => Value::Integer(row.get(index)),
            "TEXT" => Value::Text(row.get(index)),
            "BLOB" => Value::Blob(row.get(index)),
            other => panic!("a value of the type {other}"),
        }
    };
    (0..row.len()).map(value).collect()
}

/// The time to write `batches` into an empty database at `path`, each in one transaction with the
/// cursor.
pub(crate) async fn write(path: &Path, batches: &[Batch]) -> Duration {
    create(path).await;
    let mut connection = connect(path).await;
    let started = Instant::now();
    for (number, batch) in batches.iter().enumerate() {
        connection.execute("BEGIN IMMEDIATE").await.unwrap();
        for rows in batch {
            insert(&mut connection, rows).await;
        }
        sqlx::query("UPDATE firehose_cursor SET cursor = ?, updated_at = unixepoch()")
            .bind(number.to_string())
            .execute(&mut connection)
            .await
            .unwrap();
        connection.execute("COMMIT").await.unwrap();
    }
    started.elapsed()
}

/// Inserts all rows with one statement, which is prepared once for each number of rows.
async fn insert(connection: &mut SqliteConnection, rows: &Rows) {
    let Rows {
        table,
        columns,
        rows,
    } = rows;
    let row = format!("({})", vec!["?"; columns.len()].join(", "));
    let statement = format!(
        "INSERT OR REPLACE INTO {table} ({}) VALUES {}",
        columns.join(", "),
        vec![row; rows.len()].join(", ")
    );
    let mut query = sqlx::query(AssertSqlSafe(statement));
    for value in rows.iter().flatten() {
        query = match value {
            Value::Null => query.bind(None::<i64>),
            Value::Integer(integer) => query.bind(integer),
            Value::Text(text) => query.bind(text),
            Value::Blob(blob) => query.bind(blob),
        };
    }
    query.execute(connection).await.unwrap();
}

/// An empty database with the worker's tables.
pub(crate) async fn create(path: &Path) {
    SqliteStore::open(&url(path)).await.unwrap();
}

/// A database with `rows` records and `rows` tracked repositories. The traffic of the benchmarks
/// does not touch them.
pub(crate) async fn fill(path: &Path, rows: u64) {
    create(path).await;
    let mut connection = connect(path).await;
    for statement in [
        "INSERT INTO repos (did, rev, data, seq, source, time, state, updated_at) \
         SELECT printf('did:plc:other%019d', value), '3mptbypluud2a', '', 1, '', \
         '2026-08-04T14:38:07.877Z', 'synchronized', '' FROM series",
        "INSERT INTO records (uri, did, collection, rkey, cid, rev, seq, source, time, record, \
         first_indexed_at, last_indexed_at) \
         SELECT printf('at://did:plc:other%019d/com.huddle.profile/self', value), \
         printf('did:plc:other%019d', value), 'com.huddle.profile', 'self', '', '3mptbypluud2a', 1, '', \
         '2026-08-04T14:38:07.877Z', '{}', '', '' FROM series",
    ] {
        let series = "WITH RECURSIVE series(value) AS \
             (SELECT 1 UNION ALL SELECT value + 1 FROM series WHERE value < ?)";
        sqlx::query(AssertSqlSafe(format!("{series} {statement}")))
            .bind(rows as i64)
            .execute(&mut connection)
            .await
            .unwrap();
    }
}

/// Adds the identities of the repositories of [`fill`], as they were looked up just now.
pub(crate) async fn fill_identities(path: &Path, rows: u64) {
    let mut connection = connect(path).await;
    sqlx::query(
        "WITH RECURSIVE series(value) AS \
         (SELECT 1 UNION ALL SELECT value + 1 FROM series WHERE value < ?) \
         INSERT INTO identities (did, signing_key, pds, handle, looked_up_at) \
         SELECT printf('did:plc:other%019d', value), \
         'zQ3shXjHeiBuRCKmM36cuYnm7YEMzhGnCmCyW92sRJ9pribSF', 'https://pds.example', \
         printf('other%d.example', value), strftime('%Y-%m-%dT%H:%M:%fZ', 'now') FROM series",
    )
    .bind(rows as i64)
    .execute(&mut connection)
    .await
    .unwrap();
}

pub(crate) const LARGE_ACCOUNT: &str = "did:plc:large00000000000000000000";

/// A database in which [`LARGE_ACCOUNT`] has `rows` records, each of them an offer.
pub(crate) async fn fill_account(path: &Path, rows: u64) {
    create(path).await;
    let mut connection = connect(path).await;
    for statement in [
        "INSERT INTO records (uri, did, collection, rkey, cid, rev, seq, source, time, record, \
         record_cbor, validity, first_indexed_at, last_indexed_at, verified) \
         SELECT printf('at://%s/com.huddle.slotOffer/3k%011d', ?2, value), ?2, 'com.huddle.slotOffer', \
         printf('3k%011d', value), 'bafyreidfayvfuwqa7qlnopdjiqrxzs6blmoeu4rujcjtnci5beludirz2a', \
         '3mptbypluud2a', 1, '', '2026-08-04T14:38:07.877Z', \
         json_object('title', hex(zeroblob(100))), zeroblob(150), 'valid', '', '', 'none' FROM series",
        "INSERT INTO offers_index (uri, did, rkey, cid, rev, title, starts_at, ends_at, tags, status, \
         created_at, indexed_at) \
         SELECT uri, did, rkey, cid, rev, 'Offer', '2999-01-01T10:00:00.000Z', \
         '2999-01-01T11:00:00.000Z', '[]', 'open', time, time FROM records \
         WHERE did = ?2 ORDER BY uri LIMIT ?1",
    ] {
        let series = "WITH RECURSIVE series(value) AS \
             (SELECT 1 UNION ALL SELECT value + 1 FROM series WHERE value < ?1)";
        sqlx::query(AssertSqlSafe(format!("{series} {statement}")))
            .bind(rows as i64)
            .bind(LARGE_ACCOUNT)
            .execute(&mut connection)
            .await
            .unwrap();
    }
}

/// Rows of a removed account are left.
pub(crate) async fn is_removing(connection: &mut SqliteConnection) -> bool {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM account_removals)")
        .fetch_one(connection)
        .await
        .unwrap()
}

/// The number of rows; `rows` is a table with an optional condition.
pub(crate) async fn count(path: &Path, rows: &str) -> usize {
    let mut connection = connect(path).await;
    let count: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {rows}")))
        .fetch_one(&mut connection)
        .await
        .unwrap();
    usize::try_from(count).unwrap()
}

pub(crate) fn url(path: &Path) -> String {
    format!("sqlite://{}", path.display())
}

/// Uses the settings of the worker's writer.
pub(crate) async fn connect(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .pragma("wal_autocheckpoint", "10000")
        .pragma("cache_size", "-4096")
        .statement_cache_capacity(500)
        .connect()
        .await
        .unwrap()
}
