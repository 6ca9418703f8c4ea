//! Records how earlier runs ended.

use std::collections::BTreeMap;

use super::count;
use super::writer::Writer;
use crate::model::SourceId;
use crate::store::{CrashHistory, FrameDigest, StoreError};

pub(super) async fn begin_run(
    writer: &Writer,
    source: &SourceId,
) -> Result<CrashHistory, StoreError> {
    let mut transaction = writer.begin().await?;
    // A frame that ends the process is in progress at every crash, so one crash without it clears a
    // frame.
    sqlx::query(
        "DELETE FROM crash_suspects WHERE source = ?1 AND frame_sha256 IS NOT \
         (SELECT in_hand FROM unfinished_runs WHERE source = ?1)",
    )
    .bind(source.as_str())
    .execute(&mut *transaction)
    .await?;
    sqlx::query(
        "INSERT INTO crash_suspects (source, frame_sha256, crashes) \
         SELECT source, in_hand, 1 FROM unfinished_runs \
         WHERE source = ? AND in_hand IS NOT NULL \
         ON CONFLICT (source, frame_sha256) DO UPDATE SET crashes = crashes + 1",
    )
    .bind(source.as_str())
    .execute(&mut *transaction)
    .await?;
    let runs: i64 = sqlx::query_scalar(
        "INSERT INTO unfinished_runs (source, runs) VALUES (?, 1) \
         ON CONFLICT (source) DO UPDATE SET runs = runs + 1, in_hand = NULL \
         RETURNING runs",
    )
    .bind(source.as_str())
    .fetch_one(&mut *transaction)
    .await?;
    let suspects: Vec<(Vec<u8>, i64)> =
        sqlx::query_as("SELECT frame_sha256, crashes FROM crash_suspects WHERE source = ?")
            .bind(source.as_str())
            .fetch_all(&mut *transaction)
            .await?;
    transaction.commit().await?;
    Ok(CrashHistory {
        crashes: count(runs).saturating_sub(1),
        suspects: by_digest(suspects),
    })
}

pub(super) async fn mark_in_progress(
    writer: &Writer,
    source: &SourceId,
    frame: Option<FrameDigest>,
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    sqlx::query("UPDATE unfinished_runs SET in_hand = ?2 WHERE source = ?1")
        .bind(source.as_str())
        .bind(frame.map(|digest| digest.to_vec()))
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

pub(super) async fn forget(writer: &Writer, source: &SourceId) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    for statement in [
        "DELETE FROM unfinished_runs WHERE source = ?",
        "DELETE FROM crash_suspects WHERE source = ?",
    ] {
        sqlx::query(statement)
            .bind(source.as_str())
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}

/// Converts the rows. Values that are no digest are left out: only an outsider can have written
/// them.
fn by_digest(rows: Vec<(Vec<u8>, i64)>) -> BTreeMap<FrameDigest, u32> {
    rows.into_iter()
        .filter_map(|(digest, crashes)| Some((digest.try_into().ok()?, count(crashes))))
        .collect()
}
