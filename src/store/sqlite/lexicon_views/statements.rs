//! The statements that make the view of a collection, and an index on one of its columns.

use crate::lexicon::{Column, ColumnKind, TypedView};

/// The columns that every view begins with, from those of `visible_records`. They are named by
/// `FIXED_COLUMNS`.
const FIXED: &str = "uri, did, rkey, cid, rev, last_indexed_at AS indexed_at";

/// A day later than SQL's first one, so that no zone leads before that.
const FIRST_DAY: &str = "0001-01-02";

/// The statement that makes `view`. It shows what `visible_records` shows, except invalid records.
pub(super) fn view(view: &TypedView) -> String {
    let mut columns = FIXED.to_owned();
    for column in &view.columns {
        columns += &format!(",\n    {} AS {}", expression(column), column.name);
    }
    format!(
        "CREATE VIEW {} AS\nSELECT\n    {columns}\nFROM visible_records\nWHERE collection = '{}' AND \
         validity <> 'invalid'",
        view.name, view.collection
    )
}

/// The name of the index on a column. No view has such a name, as two underscores need an empty part
/// of an NSID.
pub(super) fn index_name(view: &TypedView, column: &Column) -> String {
    format!("{}__{}", view.name, column.name)
}

/// The statement that makes the index on a column. SQLite uses it where a query compares the column
/// of the view, because both have the same expression. The collection comes first, though it is the same
/// everywhere: otherwise SQLite, which does not count rows, takes the index of collections instead.
pub(super) fn index(view: &TypedView, column: &Column) -> String {
    format!(
        "CREATE INDEX {} ON records (collection, {}) WHERE collection = '{}'",
        index_name(view, column),
        expression(column),
        view.collection
    )
}

/// The value of a column. It is NULL where the record's value is of another type: a record may have
/// been validated by another schema, or by none. It never fails, since an index computes it whenever a
/// record is written.
fn expression(column: &Column) -> String {
    let path = path(column);
    let value = format!("json_extract(record, {path})");
    let (types, value) = match column.kind {
        ColumnKind::Boolean => ("'true', 'false'", value),
        ColumnKind::Datetime => return datetime(&path, &value),
        // One that is longer than 64 bits with a sign would be rounded.
        ColumnKind::Integer => {
            return format!(
                "CASE WHEN typeof({value}) = 'integer' AND json_type(record, {path}) = 'integer' THEN {value} END"
            );
        }
        ColumnKind::Json => ("'array', 'object'", value),
        ColumnKind::Bytes
        | ColumnKind::Link
        | ColumnKind::RefCid
        | ColumnKind::RefUri
        | ColumnKind::Text => ("'text'", value),
    };
    format!("CASE WHEN json_type(record, {path}) IN ({types}) THEN {value} END")
}

/// The moment in UTC, as text of fixed width that sorts. As in the tables that code makes, digits
/// finer than a millisecond are cut off; SQLite would round them. The zone is subtracted as hours and
/// minutes, since SQLite reads none beyond 14 hours. What is no datetime is NULL, also the word `now`,
/// which SQLite takes for the current time, and the 30th of February, which it takes for a day of March.
fn datetime(path: &str, value: &str) -> String {
    let fraction = format!(
        "CASE substr({value}, 20, 1) WHEN '.' THEN substr({value}, 21, length({value}) - 20 - \
         CASE substr({value}, -1) WHEN 'Z' THEN 1 ELSE 6 END) ELSE '' END"
    );
    let to_utc = format!(
        "CASE substr({value}, -1) WHEN 'Z' THEN '+00:00' ELSE CASE substr({value}, -6, 1) WHEN '+' \
         THEN '-' WHEN '-' THEN '+' END || substr({value}, -5) END"
    );
    format!(
        "CASE WHEN json_type(record, {path}) = 'text' AND {value} >= '{FIRST_DAY}' \
         AND date(substr({value}, 1, 10) || 'T00:00', '+0 days') = substr({value}, 1, 10) THEN \
         strftime('%Y-%m-%dT%H:%M:%fZ', substr({value}, 1, 19) || '.' || substr({fraction} || '000', \
         1, 3), {to_utc}) END"
    )
}

/// The path of a column's value in the record, as a literal of SQL. A property has no character that
/// would end the quoted name.
fn path(column: &Column) -> String {
    let mut path = format!("$.\"{}\"", column.property);
    if let Some(part) = column.kind.part() {
        path += &format!(".\"{part}\"");
    }
    format!("'{}'", path.replace('\'', "''"))
}
