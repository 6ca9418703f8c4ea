//! Records which jobs are in progress, so that one that ends the process can be found.

use jiff::Timestamp;

use super::count;
use super::script::{Script, Value};
use super::writer::Writer;
use crate::store::StoreError;
use crate::store::datetime::sortable;
use crate::store::repo_store::{JobKey, SuspectedJob};

/// A row of `suspected_jobs`.
#[derive(sqlx::FromRow)]
struct Row {
    did: String,
    job: String,
    runs: i64,
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
        runs: count(row.runs),
        set_aside_until: row.set_aside_until.and_then(|time| time.parse().ok()),
    });
    Ok(jobs.collect())
}

/// The argument of each is a JSON array of pairs of a DID and a job.
const ENDED: &str = "DELETE FROM jobs_in_progress \
     WHERE (did, job) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))";
const CLEARED: &str = "DELETE FROM suspected_jobs \
     WHERE (did, job) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))";
const STARTED: &str = "INSERT INTO jobs_in_progress (did, job) \
     SELECT value ->> 0, value ->> 1 FROM json_each(?) WHERE true ON CONFLICT DO NOTHING";

pub(super) async fn note(
    writer: &Writer,
    started: &[JobKey],
    ended: &[JobKey],
    cleared: &[JobKey],
) -> Result<(), StoreError> {
    let mut script = Script::default();
    for (statement, jobs) in [(ENDED, ended), (CLEARED, cleared), (STARTED, started)] {
        if !jobs.is_empty() {
            script.push(statement, [pairs(jobs)]);
        }
    }
    let (transaction, _answers) = writer.begin_with(script).await?;
    transaction.commit().await
}

fn pairs(jobs: &[JobKey]) -> Value {
    let pairs: Vec<_> = jobs.iter().map(|key| (&key.did, &key.job)).collect();
    Value::Text(serde_json::json!(pairs).to_string())
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
