//! Discoveries: the search for the repositories that hold wanted records.

use super::commit::ERROR_CHARS;
use super::parked_counts::parked_counts;
use super::script::Script;
use super::writer::Writer;
use super::{SqliteStore, commands, now, timely};
use crate::model::{BackfillCounts, Receipt, RepoCounts};
use crate::store::StoreError;
use crate::store::repo_store::{Discovery, Search};
use crate::telemetry::excerpt::excerpt;

pub(super) async fn begin(
    store: &SqliteStore,
    searches: &[Search],
    anew: bool,
    receipt: Option<&Receipt>,
) -> Result<(), StoreError> {
    let replaced = all(store).await?.into_iter().filter(|discovery| {
        let mut searches = searches.iter();
        !discovery.is_over && !searches.any(|search| search.is_like(&discovery.search))
    });
    let mut transaction = store.writer.begin().await?;
    let now = now();
    for discovery in replaced {
        sqlx::query("DELETE FROM discoveries WHERE collection = ?")
            .bind(discovery.search.as_str())
            .execute(&mut *transaction)
            .await?;
    }
    for search in searches {
        sqlx::query(
            "INSERT INTO discoveries (collection, started_at) VALUES (?1, ?2) \
             ON CONFLICT (collection) DO UPDATE SET pass = pass + 1, cursor = NULL, repos = 0, \
             started_at = ?2, ended_at = NULL, attempts = 0, error = NULL, is_unsupported = 0 \
             WHERE ?3 AND ended_at IS NOT NULL",
        )
        .bind(search.as_str())
        .bind(&now)
        .bind(anew)
        .execute(&mut *transaction)
        .await?;
    }
    if let Some(receipt) = receipt {
        let mut script = Script::default();
        commands::push_receipt(&mut script, receipt, &now);
        transaction.run(script).await?;
    }
    transaction.commit().await
}

/// How many repositories one transaction forgets.
const PIECE: i64 = 1000;

/// The repositories that a backfill has found and that are not being fetched. The argument is how many.
const FOUND: &str = "SELECT did FROM repos \
     WHERE urgency = 3 AND cause = 'backfill' AND state <> 'resyncing' LIMIT ?";

impl SqliteStore {
    /// Starts these searches anew where they are over, with the receipt of the command that asked for
    /// it.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn begin_discovery_by_command(
        &self,
        searches: &[Search],
        receipt: &Receipt,
    ) -> Result<(), StoreError> {
        timely(begin(self, searches, true, Some(receipt))).await
    }

    /// Ends all searches, and the commands that began them. A page that is on its way belongs to a pass
    /// that is over, so it changes nothing.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn end_backfill(&self, receipt: &Receipt) -> Result<(), StoreError> {
        timely(async {
            let (mut script, now) = (Script::default(), now());
            script.push(
                "UPDATE discoveries SET ended_at = ?, pass = pass + 1, has_next_pass = 0, \
                 error = 'cancelled by an operator' WHERE ended_at IS NULL",
                [now.as_str().into()],
            );
            script.push(
                "UPDATE commands SET state = 'cancelled', ended_at = ? \
                 WHERE kind = 'backfill_start' AND ended_at IS NULL",
                [now.as_str().into()],
            );
            commands::push_receipt(&mut script, receipt, &now);
            let (transaction, _answers) = self.writer.begin_with(script).await?;
            transaction.commit().await
        })
        .await
    }

    /// Forgets some of the repositories that a backfill has found and not fetched yet. Returns how many.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn forget_backfill_piece(&self) -> Result<u64, StoreError> {
        timely(async {
            let mut transaction = self.writer.begin().await?;
            let dids: Vec<String> = sqlx::query_scalar(FOUND)
                .bind(PIECE)
                .fetch_all(&mut *transaction)
                .await?;
            let list = serde_json::json!(dids).to_string();
            for statement in [
                "DELETE FROM repos WHERE did IN (SELECT value FROM json_each(?)) \
                 AND NOT EXISTS (SELECT 1 FROM records WHERE uri > 'at://' || repos.did || '/' \
                 AND uri < 'at://' || repos.did || '0')",
                "UPDATE repos SET state = 'unverified_chain', retry_at = NULL, attempts = 0 \
                 WHERE did IN (SELECT value FROM json_each(?))",
            ] {
                sqlx::query(statement)
                    .bind(&list)
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
            Ok(dids.len() as u64)
        })
        .await
    }
}

/// A row of `discoveries` as it is stored.
#[derive(sqlx::FromRow)]
struct Stored {
    collection: String,
    cursor: Option<String>,
    repos: i64,
    is_over: bool,
    unsupported: Option<String>,
    pass: i64,
}

pub(super) async fn all(store: &SqliteStore) -> Result<Vec<Discovery>, StoreError> {
    let rows: Vec<Stored> = sqlx::query_as(
        "SELECT collection, cursor, repos, ended_at IS NOT NULL AS is_over, pass, \
         iif(is_unsupported, error, NULL) AS unsupported FROM discoveries ORDER BY collection",
    )
    .fetch_all(store.reader())
    .await?;
    let discoveries = rows.into_iter().map(|row| {
        let search = Search::parse(&row.collection);
        Ok(Discovery {
            search: search.ok_or(StoreError::Corrupt(row.collection))?,
            cursor: row.cursor,
            repos: row.repos.unsigned_abs(),
            is_over: row.is_over,
            unsupported: row.unsupported,
            pass: row.pass,
        })
    });
    discoveries.collect()
}

pub(super) async fn note_failed_page(
    writer: &Writer,
    search: &Search,
    error: &str,
    is_unsupported: bool,
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    sqlx::query(
        "UPDATE discoveries SET attempts = attempts + 1, error = ?2, is_unsupported = ?3 \
         WHERE collection = ?1",
    )
    .bind(search.as_str())
    .bind(excerpt(error, ERROR_CHARS))
    .bind(is_unsupported)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// A row of [`counts`] as it is stored.
#[derive(sqlx::FromRow)]
struct Row {
    tracked: i64,
    desynchronized: i64,
    resyncing: i64,
    throttled: i64,
    rechecks: i64,
    with_parked: i64,
    parked_commits: i64,
    discovering: i64,
    fetched: i64,
    left: i64,
    failing: i64,
}

/// Counts repositories. All of them are counted in one index, and those with work due in another.
pub(super) async fn counts(store: &SqliteStore) -> Result<RepoCounts, StoreError> {
    let row: Row = sqlx::query_as(
        "SELECT (SELECT count(*) FROM repos) AS tracked, \
         count(*) FILTER (WHERE state = 'desynchronized') AS desynchronized, \
         count(*) FILTER (WHERE state = 'resyncing') AS resyncing, \
         count(*) FILTER (WHERE state = 'throttled') AS throttled, \
         count(*) FILTER (WHERE recheck_cause IS NOT NULL) AS rechecks, \
         count(*) FILTER (WHERE has_parked) AS with_parked, \
         (SELECT coalesce(sum(commits), 0) FROM parked_totals) AS parked_commits, \
         (SELECT count(*) FROM discoveries WHERE ended_at IS NULL AND is_unsupported = 0) AS discovering, \
         (SELECT count(*) FROM resyncs WHERE cause IN ('backfill', 'interest') AND error IS NULL \
             AND ended_at >= (SELECT min(started_at) FROM discoveries)) AS fetched, \
         count(*) FILTER (WHERE is_left) AS left, \
         count(*) FILTER (WHERE is_left AND attempts > 0) AS failing \
         FROM (SELECT *, cause IN ('backfill', 'interest') \
             AND state IN ('desynchronized', 'resyncing', 'throttled') AND NOT EXISTS ( \
                 SELECT 1 FROM accounts WHERE accounts.did = repos.did AND active = 0) AS is_left \
             FROM repos WHERE urgency IS NOT NULL)",
    )
    .fetch_one(store.reader())
    .await?;
    Ok(RepoCounts {
        tracked: row.tracked.unsigned_abs(),
        desynchronized: row.desynchronized.unsigned_abs(),
        resyncing: row.resyncing.unsigned_abs(),
        throttled: row.throttled.unsigned_abs(),
        rechecks: row.rechecks.unsigned_abs(),
        with_parked: row.with_parked.unsigned_abs(),
        parked_commits: row.parked_commits.unsigned_abs(),
        parked: parked_counts(store).await?,
        backfill: BackfillCounts {
            discovering: row.discovering.unsigned_abs(),
            fetched: row.fetched.unsigned_abs(),
            left: row.left.unsigned_abs(),
            failing: row.failing.unsigned_abs(),
        },
    })
}
