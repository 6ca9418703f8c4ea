//! The search for repositories that hold what is wanted.

use super::writer::Writer;
use super::{SqliteStore, integer, now};
use crate::protocol::syntax::Nsid;
use crate::store::StoreError;
use crate::store::repos::{BackfillCounts, EnumeratedPage, Enumeration, RepoCounts};

pub(super) async fn begin(
    writer: &Writer,
    collections: &[Nsid],
    anew: bool,
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    let now = now();
    for collection in collections {
        sqlx::query(
            "INSERT INTO enumerations (collection, started_at) VALUES (?1, ?2) \
             ON CONFLICT (collection) DO UPDATE SET cursor = NULL, repos = 0, started_at = ?2, \
             ended_at = NULL, error = NULL WHERE ?3 AND ended_at IS NOT NULL",
        )
        .bind(collection.as_str())
        .bind(&now)
        .bind(anew)
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await
}

pub(super) async fn all(store: &SqliteStore) -> Result<Vec<Enumeration>, StoreError> {
    let rows: Vec<(String, Option<String>, i64, bool)> = sqlx::query_as(
        "SELECT collection, cursor, repos, ended_at IS NOT NULL FROM enumerations \
         ORDER BY collection",
    )
    .fetch_all(store.reader())
    .await?;
    let enumerations = rows
        .into_iter()
        .map(|(collection, cursor, repos, is_over)| {
            Ok(Enumeration {
                collection: Nsid::parse(&collection)
                    .map_err(|error| StoreError::Corrupt(error.to_string()))?,
                cursor,
                repos: repos.unsigned_abs(),
                is_over,
            })
        });
    enumerations.collect()
}

pub(super) async fn note_page(
    writer: &Writer,
    page: &EnumeratedPage<'_>,
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    let now = now();
    for did in page.dids {
        sqlx::query(
            "INSERT INTO repos (did, state, cause, updated_at) \
             VALUES (?, 'desynchronized', 'backfill', ?) ON CONFLICT (did) DO UPDATE SET \
             state = excluded.state, cause = excluded.cause, updated_at = excluded.updated_at \
             WHERE is_whole = 0 AND repos.state IN ('synchronized', 'unchained')",
        )
        .bind(did.as_str())
        .bind(&now)
        .execute(&mut *transaction)
        .await?;
    }
    sqlx::query(
        "UPDATE enumerations SET cursor = ?2, repos = repos + ?3, \
         ended_at = iif(?2 IS NULL, ?4, NULL) WHERE collection = ?1",
    )
    .bind(page.collection.as_str())
    .bind(page.cursor)
    .bind(integer(page.dids.len() as u64))
    .bind(&now)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

pub(super) async fn counts(store: &SqliteStore) -> Result<RepoCounts, StoreError> {
    let states: Vec<(String, i64)> = sqlx::query_as("SELECT state, count(*) FROM repos GROUP BY 1")
        .fetch_all(store.reader())
        .await?;
    let in_state = |wanted: &str| {
        let found = states.iter().find(|(state, _)| state == wanted);
        found.map_or(0, |(_, count)| count.unsigned_abs())
    };
    let (waiting, doubted, enumerating, found, left): (i64, i64, i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM waiting_commits), \
         (SELECT count(*) FROM repos WHERE doubted_by IS NOT NULL), \
         (SELECT count(*) FROM enumerations WHERE ended_at IS NULL), \
         (SELECT coalesce(sum(repos), 0) FROM enumerations), \
         (SELECT count(*) FROM repos WHERE cause = 'backfill' \
             AND state IN ('desynchronized', 'resyncing', 'throttled'))",
    )
    .fetch_one(store.reader())
    .await?;
    Ok(RepoCounts {
        synchronized: in_state("synchronized"),
        desynchronized: in_state("desynchronized"),
        resyncing: in_state("resyncing"),
        throttled: in_state("throttled"),
        unchained: in_state("unchained"),
        waiting_commits: waiting.unsigned_abs(),
        doubted: doubted.unsigned_abs(),
        backfill: BackfillCounts {
            enumerating: enumerating.unsigned_abs(),
            found: found.unsigned_abs(),
            left: left.unsigned_abs(),
        },
    })
}
