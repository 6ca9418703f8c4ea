//! Checks that the tables agree with each other.

use sqlx::FromRow;

use super::SqliteStore;
use crate::store::StoreError;

/// A rule of the tables, and the rows that break it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub rule: &'static str,
    pub rows: i64,
    /// The key of one of them.
    pub example: Option<String>,
}

#[derive(FromRow)]
struct Found {
    rows: i64,
    example: Option<String>,
}

/// What each row of a projection has to agree with.
macro_rules! rows_equal_records {
    ($table:literal, $collection:literal) => {
        concat!(
            "SELECT count(*) AS rows, min(p.uri) AS example FROM ",
            $table,
            " AS p LEFT JOIN records AS r ON r.uri = p.uri WHERE r.uri IS NULL OR r.deleted = 1 \
             OR r.validity = 'invalid' OR r.cid IS NOT p.cid OR r.rev IS NOT p.rev \
             OR r.collection IS NOT '",
            $collection,
            "'"
        )
    };
}

/// Which records have to have a row. `$except` names those whose rows are purged by age.
macro_rules! records_have_rows {
    ($table:literal, $collection:literal, $except:literal) => {
        concat!(
            "SELECT count(*) AS rows, min(r.uri) AS example FROM records AS r WHERE r.collection = '",
            $collection,
            "' AND r.deleted = 0 AND r.validity = 'valid' AND NOT EXISTS (SELECT 1 FROM ",
            $table,
            " AS p WHERE p.uri = r.uri)",
            $except
        )
    };
}

/// Each rule, and the query for the rows that break it.
const RULES: [(&str, &str); 15] = [
    (
        "each row of offers_index is of a record that is kept, at its rev",
        rows_equal_records!("offers_index", "com.huddle.slotOffer"),
    ),
    (
        "each row of booking_requests is of a record that is kept, at its rev",
        rows_equal_records!("booking_requests", "com.huddle.bookingRequest"),
    ),
    (
        "each row of bookings is of a record that is kept, at its rev",
        rows_equal_records!("bookings", "com.huddle.booking"),
    ),
    (
        "each valid offer has a row",
        records_have_rows!("offers_index", "com.huddle.slotOffer", ""),
    ),
    (
        "each valid booking request that has not ended has a row",
        records_have_rows!(
            "booking_requests",
            "com.huddle.bookingRequest",
            " AND coalesce(json_extract(r.record, '$.status'), '') \
             NOT IN ('cancelled', 'completed', 'declined')"
        ),
    ),
    (
        "each valid booking has a row",
        records_have_rows!("bookings", "com.huddle.booking", ""),
    ),
    (
        "no verified record is newer than the head of its repository",
        "SELECT count(*) AS rows, min(did) AS example FROM repos \
         WHERE state = 'synchronized' AND rev IS NOT NULL AND EXISTS (SELECT 1 FROM records \
         WHERE uri > 'at://' || repos.did || '/' AND uri < 'at://' || repos.did || '0' \
         AND verified <> 'none' AND records.rev > repos.rev)",
    ),
    (
        "each record that is kept says whether it is valid",
        "SELECT count(*) AS rows, min(uri) AS example FROM records WHERE deleted = 0 \
         AND coalesce(validity, '') NOT IN ('valid', 'invalid', 'unvalidated')",
    ),
    (
        "each gap is of a source that has a cursor",
        "SELECT count(*) AS rows, min(id || '') AS example FROM gaps WHERE NOT EXISTS \
         (SELECT 1 FROM firehose_cursor WHERE firehose_cursor.source = gaps.source)",
    ),
    (
        "each gap that is closed says how",
        "SELECT count(*) AS rows, min(id || '') AS example FROM gaps \
         WHERE closed_at IS NOT NULL AND resolution IS NULL",
    ),
    (
        "no gap that time has made ends before it begins",
        "SELECT count(*) AS rows, min(id || '') AS example FROM gaps \
         WHERE cause IN ('outdated_cursor', 'cursor_moved') AND to_seq < from_seq",
    ),
    (
        "what is parked is counted",
        "SELECT abs(coalesce(sum(commits), 0) - (SELECT count(*) FROM kept_parked_commits)) AS rows, \
         NULL AS example FROM parked_totals",
    ),
    (
        "each repository knows whether commits of it are parked",
        "SELECT count(*) AS rows, min(did) AS example FROM repos WHERE has_parked <> EXISTS \
         (SELECT 1 FROM kept_parked_commits AS parked WHERE parked.did = repos.did)",
    ),
    (
        "each stale record is there",
        "SELECT count(*) AS rows, min(uri) AS example FROM stale_records \
         WHERE NOT EXISTS (SELECT 1 FROM records WHERE records.uri = stale_records.uri)",
    ),
    (
        "each view of a lexicon is there",
        "SELECT count(*) AS rows, min(name) AS example FROM lexicon_views WHERE NOT EXISTS \
         (SELECT 1 FROM sqlite_master WHERE sqlite_master.name = lexicon_views.name)",
    ),
];

impl SqliteStore {
    /// Checks every rule. It reads whole tables, each rule by itself: while a worker writes, two rules
    /// may see different moments, and no rule sees two.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn check_rules(&self) -> Result<Vec<Checked>, StoreError> {
        let mut checked = Vec::new();
        for (rule, query) in RULES {
            let Found { rows, example } = sqlx::query_as(query).fetch_one(self.reader()).await?;
            checked.push(Checked {
                rule,
                rows,
                example,
            });
        }
        Ok(checked)
    }

    /// What is wrong with the file itself; `None` if nothing is.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn integrity_fault(&self) -> Result<Option<String>, StoreError> {
        let lines: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check(1)")
            .fetch_all(self.reader())
            .await?;
        Ok(lines.into_iter().find(|line| line != "ok"))
    }
}
