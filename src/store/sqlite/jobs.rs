//! Records which jobs are in progress, so that one that ends the process can be found.

use jiff::Timestamp;

use super::writer::Writer;
use crate::store::StoreError;
use crate::store::datetime::sortable;
use crate::store::repo_store::{JobKey, SuspectedJob};

/// A row of `suspected_jobs`.
#[derive(sqlx::FromRow)]
struct Row {
    did: String,
    job: String,
    runs: u32,
    set_aside_until: Option<String>,
}

pub(super) async fn begin(writer: &Writer) -> Result<Vec<SuspectedJob>, StoreError> {
    let mut transaction = writer.begin().await?;
    for statement in [
        "INSERT INTO suspected_jobs (did, job, runs) SELECT did, job, 1 FROM jobs_in_progress \
         WHERE true ON CONFLICT (did, job) DO UPDATE SET runs = runs + 1, set_aside_until = NULL",
        "DELETE FROM jobs_in_progress",
    ] {
        sqlx::query(statement).execute(&mut *transaction).await?;
    }
    let rows: Vec<Row> =
        sqlx::query_as("SELECT did, job, runs, set_aside_until FROM suspected_jobs")
            .fetch_all(&mut *transaction)
            .await?;
    transaction.commit().await?;
    let jobs = rows.into_iter().map(|row| SuspectedJob {
        key: JobKey {
            did: row.did,
            job: row.job,
        },
        runs: row.runs,
        set_aside_until: row.set_aside_until.and_then(|time| time.parse().ok()),
    });
    Ok(jobs.collect())
}

pub(super) async fn note(
    writer: &Writer,
    started: &[JobKey],
    ended: &[JobKey],
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    for (statement, jobs) in [
        (
            "DELETE FROM jobs_in_progress WHERE did = ? AND job = ?",
            ended,
        ),
        (
            "DELETE FROM suspected_jobs WHERE did = ? AND job = ?",
            ended,
        ),
        (
            "INSERT INTO jobs_in_progress (did, job) VALUES (?, ?) ON CONFLICT DO NOTHING",
            started,
        ),
    ] {
        for key in jobs {
            sqlx::query(statement)
                .bind(&key.did)
                .bind(&key.job)
                .execute(&mut *transaction)
                .await?;
        }
    }
    transaction.commit().await
}

pub(super) async fn set_aside(
    writer: &Writer,
    key: &JobKey,
    until: Timestamp,
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    sqlx::query(
        "INSERT INTO suspected_jobs (did, job, runs, set_aside_until) VALUES (?1, ?2, 0, ?3) \
         ON CONFLICT (did, job) DO UPDATE SET set_aside_until = excluded.set_aside_until",
    )
    .bind(&key.did)
    .bind(&key.job)
    .bind(sortable(until))
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

pub(super) async fn end(writer: &Writer) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    sqlx::query("DELETE FROM jobs_in_progress")
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}
