//! The rows of the worker's database and of a Postgres sink, in one form.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use super::Schema;
use crate::tables::{assert_same, stranger_at};

/// How a column is read in both.
#[derive(Clone, Copy)]
enum Kind {
    Plain,
    Time,
    Json,
    Bytes,
}

use Kind::{Bytes, Json, Plain, Time};

/// A table or view, its columns, and which rows of the worker's database a sink has.
struct Table {
    name: &'static str,
    columns: &'static [(&'static str, Kind)],
    of_worker: &'static str,
}

/// Rows that are being deleted are left out.
const KEPT: &str = "WHERE NOT EXISTS (SELECT 1 FROM removed_records AS removed \
                    WHERE removed.did = kept.did AND removed.uri = kept.uri)";

const TABLES: [Table; 10] = [
    Table {
        name: "records",
        columns: &[
            ("uri", Plain),
            ("did", Plain),
            ("collection", Plain),
            ("rkey", Plain),
            ("cid", Plain),
            ("rev", Plain),
            ("seq", Plain),
            ("source", Plain),
            ("time", Time),
            ("record", Json),
            ("record_cbor", Bytes),
            ("validity", Plain),
            ("invalid_reason", Plain),
            ("first_indexed_at", Time),
            ("last_indexed_at", Time),
            ("deleted", Plain),
            ("verified", Plain),
            ("refused_cid", Plain),
        ],
        of_worker: KEPT,
    },
    Table {
        name: "accounts",
        columns: &[
            ("did", Plain),
            ("handle", Plain),
            ("handle_status", Plain),
            ("active", Plain),
            ("status", Plain),
            ("removed_at", Time),
        ],
        of_worker: "WHERE change IS NOT NULL",
    },
    Table {
        name: "offers_index",
        columns: &[
            ("uri", Plain),
            ("did", Plain),
            ("rkey", Plain),
            ("cid", Plain),
            ("rev", Plain),
            ("title", Plain),
            ("description", Plain),
            ("starts_at", Time),
            ("ends_at", Time),
            ("timezone", Plain),
            ("duration_minutes", Plain),
            ("capacity", Plain),
            ("location", Plain),
            ("tags", Json),
            ("status", Plain),
            ("created_at", Time),
            ("indexed_at", Time),
        ],
        of_worker: KEPT,
    },
    Table {
        name: "booking_requests",
        columns: &[
            ("uri", Plain),
            ("did", Plain),
            ("rkey", Plain),
            ("cid", Plain),
            ("rev", Plain),
            ("offer_uri", Plain),
            ("offer_cid", Plain),
            ("note", Plain),
            ("requested_start", Time),
            ("status", Plain),
            ("created_at", Time),
            ("indexed_at", Time),
        ],
        of_worker: KEPT,
    },
    Table {
        name: "bookings",
        columns: &[
            ("uri", Plain),
            ("did", Plain),
            ("rkey", Plain),
            ("cid", Plain),
            ("rev", Plain),
            ("offer_uri", Plain),
            ("offer_cid", Plain),
            ("request_uri", Plain),
            ("request_cid", Plain),
            ("starts_at", Time),
            ("ends_at", Time),
            ("status", Plain),
            ("created_at", Time),
            ("indexed_at", Time),
        ],
        of_worker: KEPT,
    },
    Table {
        name: "stale_records",
        columns: &[("uri", Plain), ("did", Plain)],
        of_worker: "",
    },
    Table {
        name: "visible_records",
        columns: &[("uri", Plain), ("cid", Plain), ("record", Json)],
        of_worker: "",
    },
    Table {
        name: "open_offers",
        columns: &[("uri", Plain), ("places_left", Plain), ("ends_at", Time)],
        of_worker: "",
    },
    Table {
        name: "active_booking_requests",
        columns: &[("uri", Plain), ("status", Plain)],
        of_worker: "",
    },
    Table {
        name: "booking_statistics",
        columns: &[
            ("day", Plain),
            ("status", Plain),
            ("host", Plain),
            ("bookings", Plain),
        ],
        of_worker: "",
    },
];

/// The rows of each table and view as text.
pub type Rows = BTreeMap<&'static str, BTreeSet<String>>;

/// Asserts that the sink in `schema` has what the worker's database at `file` has.
pub async fn assert_follows(schema: &Schema, file: &Path) {
    let (found, expected) = (rows(schema).await, rows_of_worker(file, |_| true).await);
    for (table, expected) in &expected {
        assert_same(table, &found[table], expected);
    }
}

/// Asserts that what was consumed into `schema` is what the worker's database at `file` has. The CBOR of
/// records does not travel.
pub async fn assert_consumed(schema: &Schema, file: &Path) {
    let found = rows_of(schema, travels).await;
    for (table, expected) in &rows_of_worker(file, travels).await {
        assert_same(table, &found[table], expected);
    }
    let cbor = "SELECT count(*)::text FROM records WHERE record_cbor IS NOT NULL";
    assert_eq!(schema.column(cbor).await, ["0"]);
}

fn travels(column: &str) -> bool {
    column != "record_cbor"
}

/// What a sink has.
pub async fn rows(schema: &Schema) -> Rows {
    rows_of(schema, |_| true).await
}

async fn rows_of(schema: &Schema, is_read: fn(&str) -> bool) -> Rows {
    let mut connection = schema.connect().await;
    let mut rows = Rows::new();
    for table in &TABLES {
        let of_table = rows_of_sink(&mut connection, table, is_read).await;
        rows.insert(table.name, of_table);
    }
    rows
}

async fn rows_of_sink(
    connection: &mut PgConnection,
    table: &Table,
    is_read: fn(&str) -> bool,
) -> BTreeSet<String> {
    let read = table.read(is_read);
    let columns = read.iter().map(|(name, kind)| match kind {
        Plain | Json => format!("{name}::text"),
        Time => format!("to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"),
        Bytes => format!("upper(encode({name}, 'hex'))"),
    });
    let columns: Vec<String> = columns.collect();
    let query = format!("SELECT {} FROM {}", columns.join(", "), table.name);
    let rows = sqlx::query(AssertSqlSafe(query))
        .fetch_all(connection)
        .await;
    let rows = rows.unwrap();
    let values = rows
        .iter()
        .map(|row| text(&read, (0..read.len()).map(|column| row.get(column))));
    values.collect()
}

async fn rows_of_worker(file: &Path, is_read: fn(&str) -> bool) -> Rows {
    let mut connection = stranger_at(file).await;
    let mut all = Rows::new();
    for table in &TABLES {
        let read = table.read(is_read);
        let columns = read.iter().map(|(name, kind)| match kind {
            Plain => format!("CAST({name} AS TEXT)"),
            Time | Json => (*name).to_owned(),
            Bytes => format!("iif({name} IS NULL, NULL, hex({name}))"),
        });
        let columns: Vec<String> = columns.collect();
        let query = format!(
            "SELECT {} FROM {} AS kept {}",
            columns.join(", "),
            table.name,
            table.of_worker
        );
        let rows = sqlx::query(AssertSqlSafe(query)).fetch_all(&mut connection);
        let rows = rows.await.unwrap();
        let values = rows
            .iter()
            .map(|row| text(&read, (0..read.len()).map(|column| row.get(column))));
        all.insert(table.name, values.collect());
    }
    all
}

impl Table {
    fn read(&self, is_read: fn(&str) -> bool) -> Vec<(&'static str, Kind)> {
        let columns = self.columns.iter().copied();
        columns.filter(|(name, _)| is_read(name)).collect()
    }
}

fn text(columns: &[(&str, Kind)], values: impl Iterator<Item = Option<String>>) -> String {
    let values = columns.iter().zip(values);
    let values = values.map(|((name, kind), value)| {
        let value = match (kind, value) {
            (_, None) => "-".to_owned(),
            (Json, Some(json)) => {
                let value: Value = serde_json::from_str(&json).unwrap();
                value.to_string().replace("\\u0000", "\u{fffd}")
            }
            (_, Some(text)) => text,
        };
        format!("{name}={value}")
    });
    let values: Vec<String> = values.collect();
    values.join(" ")
}
