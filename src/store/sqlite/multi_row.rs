//! Statements that write many rows at once.
//!
//! The text of a statement is the same for any number of rows, so each is prepared once: sqlx keeps
//! prepared statements by their whole text, and one text for each number of rows would be prepared
//! again for nearly every transaction, or take hundreds of KiB each.

use std::io::Write;

use super::script::Value;

/// An insert of rows of one shape.
///
/// The rows are one argument, a JSON array of arrays. What may be long, and what is no text, is not in
/// it: a row names the place of such a value among the bytes of all rows, which are an argument for each
/// column.
#[derive(Debug)]
pub(super) struct MultiRow {
    many: String,
    one: String,
    columns: Vec<Kind>,
}

/// How a column is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// In the JSON.
    Short,
    /// Among the bytes of all rows.
    LongText,
    Bytes,
}

/// Rows as they are sent: the bytes of each column that is not in the JSON, in the order of the columns,
/// and the JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Encoded {
    pub(super) bytes: Vec<Vec<u8>>,
    pub(super) json: String,
}

impl MultiRow {
    /// An insert whose columns are all short.
    pub(super) fn new(insert: &str, columns: &[&str], conflict: &str) -> Self {
        Self::with_long(insert, columns, &[], conflict)
    }

    /// `long` names the columns that are not in the JSON.
    pub(super) fn with_long(
        insert: &str,
        columns: &[&str],
        long: &[(&str, Kind)],
        conflict: &str,
    ) -> Self {
        let kind_of = |column: &&str| {
            let found = long.iter().find(|(name, _)| name == column);
            found.map_or(Kind::Short, |(_, kind)| *kind)
        };
        let kinds: Vec<Kind> = columns.iter().map(kind_of).collect();
        let mut place = 0;
        let mut next = || {
            place += 1;
            format!("row ->> '$[{}]'", place - 1)
        };
        let values: Vec<String> = kinds
            .iter()
            .map(|kind| match kind {
                Kind::Short => next(),
                Kind::Bytes => format!("substr(?, {}, {})", next(), next()),
                Kind::LongText => format!("CAST(substr(?, {}, {}) AS TEXT)", next(), next()),
            })
            .collect();
        let values = values.join(", ");
        let places = vec!["?"; columns.len()].join(", ");
        let columns = columns.join(", ");
        Self {
            // Without the limit SQLite would make each row anew for each of its columns. `WHERE true`
            // tells the parser that ON belongs to the insert.
            many: format!(
                "{insert} ({columns}) SELECT {values} \
                 FROM (SELECT value AS row FROM jsonb_each(?) LIMIT -1) WHERE true {conflict}"
            ),
            one: format!("{insert} ({columns}) VALUES ({places}) {conflict}"),
            columns: kinds,
        }
    }

    /// The statement for any number of rows, as [`Self::encode`] returns them.
    pub(super) fn many(&'static self) -> &'static str {
        &self.many
    }

    /// The statement for one row, with an argument for each column. SQLite copies it less often.
    pub(super) fn one(&'static self) -> &'static str {
        &self.one
    }

    pub(super) fn columns(&self) -> usize {
        self.columns.len()
    }

    /// Rows as they are sent. `values` has one value for each column of each row.
    ///
    /// # Errors
    /// If a value does not fit its column, which is a bug of the worker.
    pub(super) fn encode(&self, values: Vec<Value>) -> Result<Encoded, sqlx::Error> {
        let is_long = |kind: &&Kind| **kind != Kind::Short;
        // A part of nothing would be NULL to SQLite, also where it has no bytes. So there is a byte before
        // those of the first row.
        let mut bytes = vec![vec![0]; self.columns.iter().filter(is_long).count()];
        let mut json = Vec::with_capacity(values.len() * 24);
        json.push(b'[');
        for (index, value) in values.into_iter().enumerate() {
            let column = index % self.columns.len();
            json.extend_from_slice(match (column, index) {
                (0, 0) => b"[",
                (0, _) => b"],[",
                _ => b",",
            });
            if self.columns[column] == Kind::Short {
                push_short(&mut json, &value)?;
                continue;
            }
            let place = self.columns[..column].iter().filter(is_long).count();
            let bytes: &mut Vec<u8> = &mut bytes[place];
            let begin = bytes.len();
            match value.push_bytes(bytes)? {
                // Places are counted from 1.
                true => write!(json, "{},{}", begin + 1, bytes.len() - begin)?,
                false => json.extend_from_slice(b"null,null"),
            }
        }
        json.extend_from_slice(if json.len() > 1 { b"]]" } else { b"]" });
        let json = String::from_utf8(json).map_err(|error| misfit(&error))?;
        Ok(Encoded { bytes, json })
    }
}

fn push_short(json: &mut Vec<u8>, value: &Value) -> Result<(), sqlx::Error> {
    match value {
        Value::Null => json.extend_from_slice(b"null"),
        Value::Integer(number) => write!(json, "{number}")?,
        Value::Text(text) => serde_json::to_writer(json, text).map_err(|error| misfit(&error))?,
        Value::Blob(_) | Value::Json { .. } | Value::Task { .. } => {
            return Err(misfit(&"bytes in a column of short values"));
        }
    }
    Ok(())
}

/// An error that is a bug of the worker, and no fault of the data.
fn misfit(error: &dyn std::fmt::Display) -> sqlx::Error {
    sqlx::Error::Protocol(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use bytes::Bytes;
    use proptest::prelude::*;
    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{ConnectOptions, Executor};

    use super::*;
    use crate::store::sqlite::script::Script;

    static ROWS: LazyLock<MultiRow> = LazyLock::new(|| {
        MultiRow::with_long(
            "INSERT INTO pieces",
            &["id", "raw", "short", "long"],
            &[("raw", Kind::Bytes), ("long", Kind::LongText)],
            "ON CONFLICT (id) DO UPDATE SET short = excluded.short",
        )
    });

    type Row = (i64, Option<Vec<u8>>, Option<String>, Option<String>);

    async fn write_and_read(rows: &[Row]) -> Vec<Row> {
        let mut connection = SqliteConnectOptions::new().connect().await.unwrap();
        let table = "CREATE TABLE pieces (id INTEGER PRIMARY KEY, raw BLOB, short TEXT, long TEXT)";
        connection.execute(table).await.unwrap();
        let mut script = Script::default();
        script.push_rows(&ROWS, rows, |(id, raw, short, long), values| {
            values.push((*id).into());
            values.push(raw.clone().map(Bytes::from).as_ref().into());
            values.push(short.as_deref().into());
            values.push(long.as_deref().into());
        });
        for trip in script.into_trips() {
            trip.run(&mut connection).await.unwrap();
        }
        let types = "SELECT count(*) FROM pieces WHERE typeof(raw) NOT IN ('blob', 'null') \
                     OR typeof(short) NOT IN ('text', 'null') OR typeof(long) NOT IN ('text', 'null')";
        let misfits: i64 = sqlx::query_scalar(types)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        assert_eq!(misfits, 0);
        sqlx::query_as("SELECT id, raw, short, long FROM pieces ORDER BY id")
            .fetch_all(&mut connection)
            .await
            .unwrap()
    }

    #[test]
    fn the_text_is_the_same_for_any_number_of_rows() {
        assert_eq!(
            ROWS.many(),
            "INSERT INTO pieces (id, raw, short, long) SELECT row ->> '$[0]', \
             substr(?, row ->> '$[1]', row ->> '$[2]'), row ->> '$[3]', \
             CAST(substr(?, row ->> '$[4]', row ->> '$[5]') AS TEXT) \
             FROM (SELECT value AS row FROM jsonb_each(?) LIMIT -1) WHERE true \
             ON CONFLICT (id) DO UPDATE SET short = excluded.short"
        );
        assert_eq!(
            ROWS.one(),
            "INSERT INTO pieces (id, raw, short, long) VALUES (?, ?, ?, ?) \
             ON CONFLICT (id) DO UPDATE SET short = excluded.short"
        );
    }

    #[test]
    fn bytes_in_a_short_column_are_a_bug_and_not_sent() {
        let blob = Value::Blob(Bytes::from_static(b"raw"));
        let row = vec![1_i64.into(), Value::Null, blob, Value::Null];
        assert!(ROWS.encode(row).is_err());
        let number = vec![1_i64.into(), 2_i64.into(), Value::Null, Value::Null];
        assert!(ROWS.encode(number).is_err());
    }

    /// Control characters, quotes, and the character 0 too.
    #[tokio::test]
    async fn every_value_is_stored_as_it_is() {
        let odd = "\0 \u{1} \" \\ ' \u{7f} é \u{2028} \u{10ffff} \r\n\t";
        let rows: Vec<Row> = vec![
            (i64::MIN, None, None, None),
            (
                -1,
                Some(Vec::new()),
                Some(String::new()),
                Some(String::new()),
            ),
            (
                0,
                Some(vec![0, 255, 0]),
                Some(odd.to_owned()),
                Some(odd.to_owned()),
            ),
            (
                i64::MAX,
                Some(vec![7; 3]),
                Some("[1]".to_owned()),
                Some("null".to_owned()),
            ),
        ];
        assert_eq!(write_and_read(&rows).await, rows);
        // No row has bytes.
        let rows = &rows[1..2];
        assert_eq!(write_and_read(rows).await, rows);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_rows_are_stored_as_they_are(
            rows in prop::collection::vec(
                (
                    prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
                    prop::option::of(any::<String>()),
                    prop::option::of(any::<String>()),
                    // Long rows are sent one by one.
                    prop::bool::weighted(0.1),
                ),
                0..30,
            ),
        ) {
            let rows: Vec<Row> = (0..)
                .zip(rows)
                .map(|(id, (raw, short, long, is_long))| {
                    let long = long.map(|long| if is_long { long + &"x".repeat(70_000) } else { long });
                    (id, raw, short, long)
                })
                .collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert_eq!(runtime.block_on(write_and_read(&rows)), rows);
        }
    }
}
