//! Reads the records of the change feed.
//!
//! Each value that SQLite hands out is a copy with allocations of its own. So the records of a piece are one
//! text, and their columns are slices of it.

use bytestring::ByteString;
use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::feed_page::Listed;
use super::integer;
use crate::model::{ChangedRecord, ChangedRow};
use crate::store::change_feed::Cbor;

/// Ends a column: a character that no column has but the last two.
const SEPARATOR: char = '\u{1f}';

/// The bytes of the largest record whose JSON is part of a piece. So the JSON of 128 records takes 2 MiB at most.
const LARGEST: usize = 16 << 10;

/// The first records behind a number, in the order in which [`Columns::listed`] reads them. Of columns that are NULL
/// the text is empty. The last two may have any character, so their lengths are before them; `-` is NULL.
///
/// The arguments: the number, how many records, the bytes of the largest JSON, and whether the CBOR counts. Of
/// `LIMIT ?` SQLite makes a new plan for each value that is bound, which takes longer than to read some rows; of
/// `LIMIT +?` it does not. As a rule no record is stale and none is being deleted, and then none is looked for.
const RECORDS: &str = "SELECT group_concat(concat_ws(char(31), change, seq, \
     iif((SELECT EXISTS (SELECT 1 FROM stale_records)), \
     EXISTS (SELECT 1 FROM stale_records WHERE stale_records.uri = records.uri), 0), \
     iif((SELECT EXISTS (SELECT 1 FROM account_removals)), EXISTS (SELECT 1 FROM removed_records \
     WHERE removed_records.did = records.did AND removed_records.uri = records.uri), 0), \
     iif(?4, coalesce(octet_length(record_cbor), 0), 0), uri, did, collection, rkey, coalesce(cid, ''), rev, \
     source, time, coalesce(validity, ''), coalesce(refused_cid, ''), verified, first_indexed_at, \
     last_indexed_at, coalesce(octet_length(record), '-'), coalesce(octet_length(invalid_reason), '-'), \
     concat(CASE WHEN octet_length(record) <= ?3 THEN record END, invalid_reason)), '') \
     FROM records WHERE change > ?1 AND change <= (SELECT max(change) FROM ( \
     SELECT change FROM records WHERE change > ?1 ORDER BY change LIMIT +?2))";

/// A row that the program does not write.
#[derive(Debug, thiserror::Error)]
#[error(
    "the {column} of the record of change {change}, or what is before it, cannot be read; this program does not write \
     such a row"
)]
struct Malformed {
    column: &'static str,
    /// 0 if that cannot be read.
    change: u64,
}

/// The first `count` records behind `after`.
///
/// # Errors
/// If the database cannot be read, or a row has been written by hand.
pub(super) async fn read(
    connection: &mut SqliteConnection,
    after: u64,
    count: u64,
    cbor: Cbor,
) -> Result<Vec<Listed>, sqlx::Error> {
    let row = sqlx::query(RECORDS)
        .bind(integer(after))
        .bind(integer(count))
        .bind(integer(LARGEST as u64))
        .bind(cbor == Cbor::With)
        .fetch_one(connection)
        .await?;
    let text: Option<String> = row.try_get(0)?;
    let text = text.unwrap_or_default().into();
    all_listed(&text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// The JSON of the record of a change, in the same state of the database.
///
/// # Errors
/// If the database cannot be read.
pub(super) async fn read_json(
    connection: &mut SqliteConnection,
    change: u64,
) -> Result<Option<ByteString>, sqlx::Error> {
    let json: Option<String> = sqlx::query_scalar("SELECT record FROM records WHERE change = ?")
        .bind(integer(change))
        .fetch_one(connection)
        .await?;
    Ok(json.map(ByteString::from))
}

fn all_listed(text: &ByteString) -> Result<Vec<Listed>, Malformed> {
    let mut columns = Columns {
        text,
        rest: text,
        change: 0,
    };
    let mut all = Vec::new();
    while !columns.rest.is_empty() {
        all.push(columns.listed()?);
    }
    Ok(all)
}

/// What of a text was not read yet.
struct Columns<'a> {
    text: &'a ByteString,
    rest: &'a str,
    /// Of the row that is being read.
    change: u64,
}

impl<'a> Columns<'a> {
    fn listed(&mut self) -> Result<Listed, Malformed> {
        self.change = 0;
        let number = self.number("change")?;
        self.change = number;
        let seq = self.number("seq")?;
        let is_stale = self.number("state")? != 0;
        let is_being_deleted = self.number("removal")? != 0;
        let of_cbor = self.number("CBOR")?;
        let mut record = Box::new(ChangedRecord {
            uri: self.column("uri")?,
            did: self.column("did")?,
            collection: self.column("collection")?,
            rkey: self.column("rkey")?,
            cid: self.nullable("cid")?,
            rev: self.column("rev")?,
            seq,
            source: self.column("source")?,
            time: self.column("time")?,
            record: None,
            record_cbor: None,
            validity: self.nullable("validity")?,
            invalid_reason: None,
            refused_cid: self.nullable("refused_cid")?,
            verified: self.column("verified")?,
            first_indexed_at: self.column("first_indexed_at")?,
            last_indexed_at: self.column("last_indexed_at")?,
            is_stale,
        });
        let (of_record, of_reason) = (self.length("record")?, self.length("invalid_reason")?);
        let large = of_record.filter(|length| *length > LARGEST);
        if large.is_none() {
            record.record = self.take("record", of_record)?;
        }
        record.invalid_reason = self.take("invalid_reason", of_reason)?;
        let row = ChangedRow::Record(record);
        let of_row = row.bytes() + large.unwrap_or_default();
        Ok(Listed {
            number,
            row: (!is_being_deleted).then_some(row),
            bytes: of_cbor.saturating_add(of_row as u64),
            lacks_json: large.is_some(),
        })
    }

    fn column(&mut self, column: &'static str) -> Result<ByteString, Malformed> {
        Ok(self.text.slice_ref(self.next(column)?))
    }

    fn nullable(&mut self, column: &'static str) -> Result<Option<ByteString>, Malformed> {
        let text = self.next(column)?;
        Ok((!text.is_empty()).then(|| self.text.slice_ref(text)))
    }

    fn number(&mut self, column: &'static str) -> Result<u64, Malformed> {
        let text = self.next(column)?;
        text.parse().map_err(|_| self.malformed(column))
    }

    /// `None` is NULL.
    fn length(&mut self, column: &'static str) -> Result<Option<usize>, Malformed> {
        match self.next(column)? {
            "-" => Ok(None),
            text => text.parse().map(Some).map_err(|_| self.malformed(column)),
        }
    }

    fn malformed(&self, column: &'static str) -> Malformed {
        Malformed {
            column,
            change: self.change,
        }
    }

    /// What comes before the next separator.
    fn next(&mut self, column: &'static str) -> Result<&'a str, Malformed> {
        let (text, rest) = self
            .rest
            .split_once(SEPARATOR)
            .ok_or_else(|| self.malformed(column))?;
        self.rest = rest;
        Ok(text)
    }

    /// The next so many bytes.
    fn take(
        &mut self,
        column: &'static str,
        length: Option<usize>,
    ) -> Result<Option<ByteString>, Malformed> {
        let Some(length) = length else {
            return Ok(None);
        };
        let parts = self.rest.split_at_checked(length);
        let (text, rest) = parts.ok_or_else(|| self.malformed(column))?;
        self.rest = rest;
        Ok(Some(self.text.slice_ref(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row as SQLite writes it, with `flags` of its states and `last` behind its columns.
    fn row(change: u64, flags: [&str; 2], last: &str) -> String {
        let [stale, removed] = flags;
        let columns = [
            &change.to_string(),
            "7",
            stale,
            removed,
            "9",
            "at://did:plc:ann/com.huddle.note/a",
            "did:plc:ann",
            "com.huddle.note",
            "a",
            "",
            "3k22222222222",
            "wss://relay",
            "2026-01-01T00:00:00.000Z",
            "",
            "bafy",
            "chain",
            "2026-01-01T00:00:01.000Z",
            "2026-01-01T00:00:02.000Z",
        ];
        format!("{}\u{1f}{last}", columns.join("\u{1f}"))
    }

    fn record(listed: &Listed) -> &ChangedRecord {
        match &listed.row {
            Some(ChangedRow::Record(record)) => record,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn rows_follow_each_other_whatever_is_in_their_last_columns() {
        let last = [
            "-\u{1f}-\u{1f}",
            "2\u{1f}-\u{1f}{}",
            "0\u{1f}0\u{1f}",
            "-\u{1f}6\u{1f}\u{1f}1\u{1f}ä9",
            "5\u{1f}1\u{1f}{\"\u{1f}\":x",
            "16385\u{1f}3\u{1f}why",
        ];
        let rows = (1..).zip(last);
        let text: String = rows
            .map(|(change, last)| row(change, ["0", "0"], last))
            .collect();
        let all = all_listed(&text.into()).unwrap();
        let last = all.iter().map(|listed| {
            let record = record(listed);
            (
                listed.number,
                listed.lacks_json,
                record.record.as_deref(),
                record.invalid_reason.as_deref(),
            )
        });
        assert_eq!(
            last.collect::<Vec<_>>(),
            [
                (1, false, None, None),
                (2, false, Some("{}"), None),
                (3, false, Some(""), Some("")),
                (4, false, None, Some("\u{1f}1\u{1f}ä9")),
                (5, false, Some("{\"\u{1f}\":"), Some("x")),
                (6, true, None, Some("why")),
            ]
        );
        let record = record(&all[4]);
        assert_eq!(
            (&*record.uri, &*record.did),
            ("at://did:plc:ann/com.huddle.note/a", "did:plc:ann")
        );
        assert_eq!((&record.cid, &record.validity), (&None, &None));
        assert_eq!(record.refused_cid.as_deref(), Some("bafy"));
        assert_eq!(&*record.last_indexed_at, "2026-01-01T00:00:02.000Z");
        // The row, its URI twice, and its CBOR; then what was not read.
        let bytes = |listed: &Listed| listed.bytes as usize - ChangedRow::BYTES - 2 * 34;
        assert_eq!(
            (bytes(&all[0]), bytes(&all[1]), bytes(&all[5])),
            (9, 11, 9 + 16385)
        );
    }

    #[test]
    fn a_stale_row_is_there_and_one_that_is_being_deleted_only_counts() {
        let last = "2\u{1f}-\u{1f}{}";
        let text = row(1, ["1", "0"], last) + &row(2, ["0", "1"], last);
        let all = all_listed(&text.into()).unwrap();
        assert!(record(&all[0]).is_stale);
        assert!(all[1].row.is_none());
        assert_eq!(all[0].bytes, all[1].bytes);
    }

    #[test]
    fn a_row_that_cannot_be_read_names_its_column() {
        let row = |last: &str| row(1, ["0", "0"], last);
        let whole = row("2\u{1f}-\u{1f}{}");
        for (text, column) in [
            (whole.replacen('1', "x", 1), "change"),
            (whole.replace("wss://relay", "a\u{1f}b"), "record"),
            (row("3\u{1f}-\u{1f}{}"), "record"),
            (row("1\u{1f}-\u{1f}ä"), "record"),
            (row("-\u{1f}4\u{1f}{}"), "invalid_reason"),
            (row("1"), "record"),
            (format!("{whole} "), "change"),
        ] {
            let error = all_listed(&text.clone().into()).unwrap_err();
            assert_eq!(error.column, column, "{text:?}");
            assert_eq!(error.change == 0, column == "change", "{text:?}");
        }
        assert!(all_listed(&ByteString::new()).unwrap().is_empty());
    }
}
