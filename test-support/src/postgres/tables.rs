//! The rows of a Postgres sink, in the form of those of the worker.

use std::collections::BTreeSet;
use std::path::Path;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row};

use super::Schema;
use crate::sink_tables::Kind::{Bytes, Json, Plain, Time};
use crate::sink_tables::{self, Rows, TABLES, Table};

/// Asserts that the sink in `schema` has what the worker's database at `file` has.
pub async fn assert_follows(schema: &Schema, file: &Path) {
    sink_tables::assert_follows(&rows(schema).await, file, &[]).await;
}

/// Asserts that what was consumed into `schema` is what the worker's database at `file` has. The CBOR of
/// records does not travel.
pub async fn assert_consumed(schema: &Schema, file: &Path) {
    sink_tables::assert_follows(&rows(schema).await, file, &["record_cbor"]).await;
}

/// What a sink has.
pub async fn rows(schema: &Schema) -> Rows {
    let mut connection = schema.connect().await;
    let mut rows = Rows::new();
    for table in &TABLES {
        rows.insert(table.name, rows_of_sink(&mut connection, table).await);
    }
    rows
}

async fn rows_of_sink(connection: &mut PgConnection, table: &Table) -> BTreeSet<String> {
    let columns = table.columns.iter().map(|(name, kind)| match kind {
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
        .map(|row| table.text((0..table.columns.len()).map(|column| row.get(column))));
    values.collect()
}
