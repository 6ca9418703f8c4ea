//! Statements of a batch, and rows as their parameters.
//!
//! A number that is bound is a REAL in D1: 12 would be '12.0' in a text. So every parameter is text, and
//! rows are one JSON array, which `json_each` takes apart: the numbers in it stay as they are.

use std::borrow::Cow;

use serde::Serialize;

use crate::sink::SinkError;

/// What D1 allows of one parameter, or one value.
const MOST_BYTES: usize = 2_000_000;
/// The bytes of the rows of one parameter, unless one row alone has more.
const ROWS_BYTES: usize = 1_500_000;

/// A statement whose parameters are `?1`, `?2` and so on.
#[derive(Debug, Serialize)]
pub(super) struct Statement {
    sql: Cow<'static, str>,
    params: Vec<String>,
}

impl Statement {
    pub(super) fn new(
        sql: impl Into<Cow<'static, str>>,
        params: impl IntoIterator<Item = String>,
    ) -> Self {
        Self {
            sql: sql.into(),
            params: params.into_iter().collect(),
        }
    }
}

/// Adds `sql` for `rows`: as many statements as they need, and none for no row. `?1` is the feed, `?2` the
/// rows.
///
/// # Errors
/// If a row alone is larger than a parameter may be.
pub(super) fn push_rows<T: Serialize>(
    batch: &mut Vec<Statement>,
    sql: &'static str,
    feed: &str,
    rows: impl IntoIterator<Item = T>,
) -> Result<(), SinkError> {
    for array in arrays(rows)? {
        batch.push(Statement::new(sql, [feed.to_owned(), array]));
    }
    Ok(())
}

fn arrays<T: Serialize>(rows: impl IntoIterator<Item = T>) -> Result<Vec<String>, SinkError> {
    let mut arrays: Vec<String> = Vec::new();
    for row in rows {
        let row =
            serde_json::to_string(&row).map_err(|error| SinkError::Refused(error.to_string()))?;
        if row.len() + 2 > MOST_BYTES {
            return Err(SinkError::Refused(format!(
                "a row of {} bytes is larger than a parameter of D1 may be",
                row.len()
            )));
        }
        match arrays.last_mut() {
            Some(array) if array.len() + row.len() < ROWS_BYTES => {
                array.push(',');
                array.push_str(&row);
            }
            _ => arrays.push(format!("[{row}")),
        }
    }
    for array in &mut arrays {
        array.push(']');
    }
    Ok(arrays)
}

/// How many bytes `text` takes in a row.
pub(super) fn bytes_in_row(text: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(escaped).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_into_parameters_that_d1_takes() {
        let rows = vec!["x".repeat(ROWS_BYTES / 3); 7];
        let arrays = arrays(&rows).unwrap();
        assert!(arrays.iter().all(|array| array.len() <= ROWS_BYTES));
        let read = arrays.iter().flat_map(|array| {
            let rows: Vec<String> = serde_json::from_str(array).unwrap();
            rows
        });
        assert_eq!(read.collect::<Vec<_>>(), rows);
        let none: [&str; 0] = [];
        assert!(super::arrays(none).unwrap().is_empty());
        let long = "x".repeat(MOST_BYTES);
        assert!(matches!(super::arrays([long]), Err(SinkError::Refused(_))));
    }

    #[test]
    fn the_bytes_of_a_text_are_those_of_its_json_or_more() {
        for text in ["plain é", "\"quoted\" \\ \n \u{1}", ""] {
            let json = serde_json::to_string(text).unwrap();
            assert!(bytes_in_row(text) + 2 >= json.len(), "{text}");
        }
    }
}
