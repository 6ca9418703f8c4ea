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

/// Rows and the statement that writes them.
#[derive(Debug)]
pub(super) struct Cut<'r, T> {
    pub(super) statement: &'static str,
    pub(super) rows: &'r [T],
    /// The number of arguments of the statement.
    pub(super) arguments: usize,
    /// The number of unused ones.
    pub(super) padding: usize,
}

impl MultiRow {
    /// Builds `{insert} (columns…) SELECT * FROM (VALUES (?, …), …) WHERE … {conflict}`. The first
    /// column must not be NULL.
    pub(super) fn new(insert: &str, columns: &[&str], conflict: &str) -> Self {
        let row = format!("({})", vec!["?"; columns.len()].join(", "));
        let count = columns.len();
        let columns = columns.join(", ");
        Self {
            columns: count,
            statements: SIZES.map(|size| {
                let values = vec![row.as_str(); size].join(", ");
                format!(
                    "{insert} ({columns}) SELECT * FROM (VALUES {values}) \
                     WHERE column1 IS NOT NULL {conflict}"
                )
            }),
        }
    }

    /// Cuts `rows` into chunks, each with the statement that writes it.
    pub(super) fn cut<'r, T>(&'static self, rows: &'r [T]) -> impl Iterator<Item = Cut<'r, T>> {
        rows.chunks(LARGEST).filter_map(|rows| {
            let has_room = |(size, _): &(&usize, &String)| **size >= rows.len();
            let (size, statement) = SIZES.iter().zip(&self.statements).find(has_room)?;
            Some(Cut {
                statement,
                rows,
                arguments: size * self.columns,
                padding: (size - rows.len()) * self.columns,
            })
        })
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
        let one = PAIRS.cut(&[()]).next().unwrap();
        assert_eq!(
            one.statement,
            "INSERT INTO pairs (a, b) SELECT * FROM (VALUES (?, ?)) \
             WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING"
        );
        let five = PAIRS.cut(&[(); 5]).next().unwrap();
        assert_eq!(five.statement.matches("(?, ?)").count(), 16);
        assert_eq!((five.arguments, five.padding), (32, 22));
    }

    #[test]
    fn every_row_is_written_once_and_in_order() {
        let rows: Vec<u32> = (0..257).collect();
        let chunks: Vec<&[u32]> = PAIRS.cut(&rows).map(|cut| cut.rows).collect();
        let sizes: Vec<usize> = chunks.iter().map(|chunk| chunk.len()).collect();
        assert_eq!(sizes, [100, 100, 57]);
        assert_eq!(chunks.concat(), rows);
    }

    #[tokio::test]
    async fn room_that_is_left_over_writes_nothing() {
        let mut connection = SqliteConnectOptions::new().connect().await.unwrap();
        connection
            .execute("CREATE TABLE pairs (a INTEGER PRIMARY KEY, b INTEGER)")
            .await
            .unwrap();
        for rows in [5, 7, 200, 1] {
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

    #[test]
    fn no_rows_make_no_statement() {
        assert_eq!(PAIRS.cut::<u32>(&[]).count(), 0);
    }
}
