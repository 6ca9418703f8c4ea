//! Statements that write many rows at once.

/// How many rows one statement may write. A statement of each size is prepared once and kept; one
/// text for each length that a batch may have would turn the statement cache over all the time.
///
/// Each statement is a way to the database's thread and back, and powers of two make it few of them.
const SIZES: [usize; 8] = [128, 64, 32, 16, 8, 4, 2, 1];

/// An insert of rows of one shape, in all its sizes.
#[derive(Debug)]
pub(super) struct MultiRow {
    statements: [String; SIZES.len()],
}

impl MultiRow {
    /// `{insert} (columns…) VALUES (?, …), … {conflict}`
    pub(super) fn new(insert: &str, columns: &[&str], conflict: &str) -> Self {
        let row = format!("({})", vec!["?"; columns.len()].join(", "));
        let columns = columns.join(", ");
        Self {
            statements: SIZES.map(|rows| {
                let values = vec![row.as_str(); rows].join(", ");
                format!("{insert} ({columns}) VALUES {values} {conflict}")
            }),
        }
    }

    /// Cuts `rows` into chunks, each with the statement that writes as many.
    pub(super) fn cut<'r, T>(
        &'static self,
        mut rows: &'r [T],
    ) -> impl Iterator<Item = (&'static str, &'r [T])> {
        std::iter::from_fn(move || {
            let (size, statement) = SIZES
                .iter()
                .zip(&self.statements)
                .find(|(size, _)| **size <= rows.len())?;
            let (chunk, rest) = rows.split_at(*size);
            rows = rest;
            Some((statement.as_str(), chunk))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    static PAIRS: LazyLock<MultiRow> =
        LazyLock::new(|| MultiRow::new("INSERT INTO pairs", &["a", "b"], "ON CONFLICT DO NOTHING"));

    #[test]
    fn a_statement_has_a_placeholder_for_each_value() {
        let (statement, _) = PAIRS.cut(&[()]).next().unwrap();
        assert_eq!(
            statement,
            "INSERT INTO pairs (a, b) VALUES (?, ?) ON CONFLICT DO NOTHING"
        );
        let (statement, _) = PAIRS.cut(&[(); 5]).next().unwrap();
        assert_eq!(statement.matches("(?, ?)").count(), 5);
    }

    #[test]
    fn every_row_is_written_once_and_in_order() {
        let rows: Vec<u32> = (0..257).collect();
        let chunks: Vec<&[u32]> = PAIRS.cut(&rows).map(|(_, chunk)| chunk).collect();
        let sizes: Vec<usize> = chunks.iter().map(|chunk| chunk.len()).collect();
        assert_eq!(sizes, [128, 128, 1]);
        assert_eq!(chunks.concat(), rows);
    }

    #[test]
    fn no_rows_make_no_statement() {
        assert_eq!(PAIRS.cut::<u32>(&[]).count(), 0);
    }
}
