//! The rows of a D1 sink, in the form of those of the worker.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::D1;
use crate::sink_tables::Kind::Bytes;
use crate::sink_tables::{self, Rows, TABLES, Table};

/// Asserts that the sink has what the worker's database at `file` has, but for the signed bytes.
pub async fn assert_follows(d1: &D1, file: &Path) {
    sink_tables::assert_follows(&rows(d1).await, file, &["record_cbor"]).await;
}

async fn rows(d1: &D1) -> Rows {
    let mut rows = Rows::new();
    for table in &TABLES {
        rows.insert(table.name, rows_of(d1, table).await);
    }
    rows
}

async fn rows_of(d1: &D1, table: &Table) -> BTreeSet<String> {
    let columns = table.columns.iter().map(|(name, kind)| match kind {
        Bytes => format!("hex({name}) AS {name}"),
        _ => format!("CAST({name} AS TEXT) AS {name}"),
    });
    let columns: Vec<String> = columns.collect();
    let query = format!("SELECT {} FROM {}", columns.join(", "), table.name);
    let rows = d1.rows(&query).await;
    let text = |row: &Value| {
        let values = table.columns.iter().map(|(name, kind)| {
            let text = row[name].as_str().map(str::to_owned);
            text.filter(|text| !(*kind == Bytes && text.is_empty()))
        });
        table.text(values)
    };
    rows.iter().map(text).collect()
}
