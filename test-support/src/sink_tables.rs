//! The rows of the worker's database in a form in which those of a sink can be compared with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;
use sqlx::{AssertSqlSafe, Row};

use crate::tables::{assert_same, stranger_at};

/// How a column is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    Time,
    Json,
    Bytes,
}

use Kind::{Bytes, Json, Plain, Time};

/// A table or view, its columns, and which rows of the worker's database a sink has.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: &'static [(&'static str, Kind)],
    of_worker: &'static str,
}

/// Rows that are being deleted are left out.
const KEPT: &str = "WHERE NOT EXISTS (SELECT 1 FROM removed_records AS removed \
                    WHERE removed.did = kept.did AND removed.uri = kept.uri)";

pub(crate) const TABLES: [Table; 10] = [
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

/// Asserts that a sink, whose rows are `found`, has what the worker's database at `file` has.
pub(crate) async fn assert_follows(found: &Rows, file: &Path, left_out: &[&str]) {
    let expected = rows_of_worker(file, left_out).await;
    for (table, expected) in &expected {
        assert_same(table, &found[table], expected);
    }
}

/// What the worker has. Columns that are left out are NULL.
async fn rows_of_worker(file: &Path, left_out: &[&str]) -> Rows {
    let mut connection = stranger_at(file).await;
    let mut all = Rows::new();
    for table in &TABLES {
        let columns = table.columns.iter().map(|(name, kind)| match kind {
            _ if left_out.contains(name) => "NULL".to_owned(),
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
            .map(|row| table.text((0..table.columns.len()).map(|column| row.get(column))));
        all.insert(table.name, values.collect());
    }
    all
}

impl Table {
    /// A row as text.
    pub(crate) fn text(&self, values: impl Iterator<Item = Option<String>>) -> String {
        let values = self.columns.iter().zip(values);
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
}
