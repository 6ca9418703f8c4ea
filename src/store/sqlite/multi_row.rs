//! Statements that write many rows at once.

/// The numbers of rows that statements have places for. A script is prepared and cached once for
/// each combination of sizes, so there are few sizes: one text for each length of a batch would
/// replace the statement cache all the time.
///
/// The largest holds a full batch of the default size. 48 holds its share for one of the three
/// projection tables (about 33 rows if the collections are equally frequent), with some room.
const SIZES: [usize; 5] = [1, 4, 16, 48, LARGEST];
const LARGEST: usize = 100;

/// An insert of rows of one shape, in all its sizes.
///
/// A chunk of rows is written by the smallest statement that has enough places. Unused places are
/// bound to NULL, and a row whose first column is NULL is left out.
#[derive(Debug)]
pub(super) struct MultiRow {
    statements: [String; SIZES.len()],
    columns: usize,
}

/// The statement for a number of rows.
#[derive(Debug)]
pub(super) struct Fitting {
    pub(super) statement: &'static str,
    /// The number of arguments that are left unused.
    pub(super) padding: usize,
}

impl MultiRow {
    /// Builds `{insert} (columns…) SELECT * FROM (VALUES (?, …), …) WHERE … {conflict}`, and for one row
    /// `{insert} (columns…) VALUES (?, …) {conflict}`. The first column must not be NULL.
    pub(super) fn new(insert: &str, columns: &[&str], conflict: &str) -> Self {
        let row = format!("({})", vec!["?"; columns.len()].join(", "));
        let count = columns.len();
        let columns = columns.join(", ");
        Self {
            columns: count,
            statements: SIZES.map(|size| match size {
                // A single row may be long, and SQLite would copy what it selects.
                1 => format!("{insert} ({columns}) VALUES {row} {conflict}"),
                _ => {
                    let values = vec![row.as_str(); size].join(", ");
                    format!(
                        "{insert} ({columns}) SELECT * FROM (VALUES {values}) \
                         WHERE column1 IS NOT NULL {conflict}"
                    )
                }
            }),
        }
    }

    /// The most rows of one statement.
    pub(super) fn largest(&self) -> usize {
        LARGEST
    }

    /// The smallest statement that has places for `rows` rows, of which there are at most
    /// [`Self::largest`].
    pub(super) fn fitting(&'static self, rows: usize) -> Fitting {
        let index = SIZES.partition_point(|size| *size < rows);
        let index = index.min(SIZES.len() - 1);
        Fitting {
            statement: &self.statements[index],
            padding: SIZES[index].saturating_sub(rows) * self.columns,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{ConnectOptions, Executor};

    use super::*;
    use crate::store::sqlite::script::Script;

    static PAIRS: LazyLock<MultiRow> =
        LazyLock::new(|| MultiRow::new("INSERT INTO pairs", &["a", "b"], "ON CONFLICT DO NOTHING"));

    #[test]
    fn a_statement_has_a_placeholder_for_each_value() {
        let one = PAIRS.fitting(1);
        assert_eq!(
            one.statement,
            "INSERT INTO pairs (a, b) VALUES (?, ?) ON CONFLICT DO NOTHING"
        );
        let five = PAIRS.fitting(5);
        assert_eq!(five.statement.matches("(?, ?)").count(), 16);
        assert_eq!(five.padding, 22);
        let full = PAIRS.fitting(PAIRS.largest());
        assert_eq!(full.statement.matches("(?, ?)").count(), PAIRS.largest());
        assert_eq!(full.padding, 0);
    }

    #[tokio::test]
    async fn room_that_is_left_over_writes_nothing() {
        let mut connection = SqliteConnectOptions::new().connect().await.unwrap();
        connection
            .execute("CREATE TABLE pairs (a INTEGER PRIMARY KEY, b INTEGER)")
            .await
            .unwrap();
        for rows in [5, 7, 257, 0, 1] {
            // A statement is used again after its arguments are cleared.
            connection.execute("DELETE FROM pairs").await.unwrap();
            let rows: Vec<i64> = (0..rows).collect();
            let mut script = Script::default();
            script.push_rows(&PAIRS, &rows, |row, values| {
                values.extend([(*row).into(), (row * 2).into()]);
            });
            script.run(&mut connection).await.unwrap();
            let written: Vec<(i64, i64)> = sqlx::query_as("SELECT a, b FROM pairs ORDER BY a")
                .fetch_all(&mut connection)
                .await
                .unwrap();
            assert_eq!(
                written,
                rows.iter().map(|a| (*a, a * 2)).collect::<Vec<_>>()
            );
        }
    }
}
