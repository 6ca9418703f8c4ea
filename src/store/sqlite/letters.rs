//! Dead letters as an operator sees them: listed, grouped, counted, discarded, and tried again.

use serde_json::Value as Json;

use super::apply::{self, Progress};
use super::commit::ERROR_CHARS;
use super::script::Script;
use super::writer::Failure;
use super::{PAGE, SqliteStore, commands, integer, now, timely};
use crate::model::error_group;
use crate::store::datetime::sortable;
use crate::store::letters::{
    LetterCount, LetterFilter, LetterGroup, LetterRange, LetterRow, RetryNeeds, WholeLetter,
};
use crate::store::plan::{RepoChange, Retry};
use crate::store::{PieceLimit, StoreError, Written};
use crate::telemetry::excerpt::excerpt;

/// The most groups that are listed.
const MOST_GROUPS: i64 = 500;

/// The columns of a [`LetterRow`].
macro_rules! columns {
    () => {
        "id, source, seq, did, uri, stage, error, error_group, attempts, \
         octet_length(raw) AS bytes, created_at, retried_at"
    };
}

/// The letters that a filter means. Its values are the parameters 1 to 9.
macro_rules! are_meant {
    () => {
        "(?1 IS NULL OR id IN (SELECT value FROM json_each(?1))) \
         AND (?2 IS NULL OR error_group = ?2) AND (?3 IS NULL OR stage = ?3) \
         AND (?4 IS NULL OR instr(error, ?4) > 0) AND (?5 IS NULL OR uri GLOB ?5) \
         AND (?6 IS NULL OR did = ?6) AND (?7 IS NULL OR source = ?7) \
         AND (?8 IS NULL OR created_at >= ?8) AND (?9 IS NULL OR created_at < ?9)"
    };
}

/// Binds the values of a filter to a query.
macro_rules! bind {
    ($query:expr, $filter:expr) => {{
        let values = Values::of($filter);
        $query
            .bind(values.ids)
            .bind(values.group)
            .bind(values.stage)
            .bind(values.reason)
            .bind(values.uris)
            .bind(values.did)
            .bind(values.source)
            .bind(values.since)
            .bind(values.until)
    }};
}

const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM dead_letters WHERE ",
    are_meant!(),
    " AND id < ?10 ORDER BY id DESC LIMIT ?11"
);

const WHOLE: &str = concat!(
    "SELECT ",
    columns!(),
    ", task, raw FROM dead_letters WHERE id = ?"
);

const MISSING: &str = "SELECT DISTINCT value FROM json_each(?) \
                       WHERE value NOT IN (SELECT id FROM dead_letters) ORDER BY value";

/// The rows of the newest letters give the samples.
const GROUPS: &str = concat!(
    "SELECT grouped.*, newest.error, newest.uri, newest.did FROM (SELECT error_group AS \"group\", \
     stage, count(*) AS letters, coalesce(sum(octet_length(raw)), 0) AS bytes, \
     min(created_at) AS first_at, max(created_at) AS last_at, max(id) AS sample FROM dead_letters \
     WHERE ",
    are_meant!(),
    " GROUP BY error_group, stage ORDER BY letters DESC, sample DESC LIMIT ?10) AS grouped \
     JOIN dead_letters AS newest ON newest.id = grouped.sample \
     ORDER BY letters DESC, sample DESC"
);

const COUNT: &str = concat!(
    "SELECT count(*) AS letters, coalesce(sum(octet_length(raw)), 0) AS bytes, \
     (SELECT coalesce(max(id), 0) FROM dead_letters) AS through FROM dead_letters WHERE ",
    are_meant!()
);

/// What a letter holds decides what its retry needs: `?13` is 1 for frames.
const NEXT: &str = concat!(
    "SELECT id FROM dead_letters WHERE id > ?10 AND id <= ?11 AND ",
    are_meant!(),
    " AND (uri IS NULL AND octet_length(raw) > 0 AND stage <> 'sink') = ?13 ORDER BY id LIMIT ?12"
);

const NEXT_OF_ALL: &str = concat!(
    "SELECT id FROM dead_letters WHERE id > ?10 AND id <= ?11 AND ",
    are_meant!(),
    " ORDER BY id LIMIT ?12"
);

/// The values of a filter, as SQLite compares them.
struct Values {
    ids: Option<String>,
    group: Option<String>,
    stage: Option<String>,
    reason: Option<String>,
    uris: Option<String>,
    did: Option<String>,
    source: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

impl Values {
    fn of(filter: &LetterFilter) -> Self {
        let LetterFilter {
            ids,
            group,
            stage,
            reason,
            collection,
            did,
            source,
            since,
            until,
        } = filter;
        Self {
            ids: (!ids.is_empty()).then(|| serde_json::json!(ids).to_string()),
            group: group.clone(),
            stage: stage.clone(),
            reason: reason.clone(),
            // A pattern has no other special character, and a DID and a key have no slash.
            uris: collection
                .as_ref()
                .map(|pattern| format!("at://*/{pattern}/*")),
            did: did.as_ref().map(ToString::to_string),
            source: source.clone(),
            since: since.map(sortable),
            until: until.map(sortable),
        }
    }
}

impl SqliteStore {
    /// Dead letters with an id below `before`, the newest first, at most `limit`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn dead_letters(
        &self,
        filter: &LetterFilter,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<LetterRow>, StoreError> {
        Ok(bind!(sqlx::query_as(LIST), filter)
            .bind(before.unwrap_or(i64::MAX))
            .bind(limit.min(PAGE))
            .fetch_all(self.reader())
            .await?)
    }

    /// Dead letters with a higher id, the oldest first, at most `limit`.
    pub(super) async fn letters_after(
        &self,
        after: i64,
        limit: u32,
    ) -> Result<Vec<LetterRow>, StoreError> {
        let sql = concat!(
            "SELECT ",
            columns!(),
            " FROM dead_letters WHERE id > ? ORDER BY id LIMIT ?"
        );
        Ok(sqlx::query_as(sql)
            .bind(after)
            .bind(limit)
            .fetch_all(self.reader())
            .await?)
    }

    /// One dead letter with its bytes.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn dead_letter(&self, id: i64) -> Result<Option<WholeLetter>, StoreError> {
        Ok(sqlx::query_as(WHOLE)
            .bind(id)
            .fetch_optional(self.reader())
            .await?)
    }

    /// The groups of dead letters, the largest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn letter_groups(
        &self,
        filter: &LetterFilter,
    ) -> Result<Vec<LetterGroup>, StoreError> {
        Ok(bind!(sqlx::query_as(GROUPS), filter)
            .bind(MOST_GROUPS)
            .fetch_all(self.reader())
            .await?)
    }

    /// Counts dead letters.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_letters(&self, filter: &LetterFilter) -> Result<LetterCount, StoreError> {
        Ok(bind!(sqlx::query_as(COUNT), filter)
            .fetch_one(self.reader())
            .await?)
    }

    /// Which of these ids no letter has, in the order of the ids.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn missing_letters(&self, ids: &[i64]) -> Result<Vec<i64>, StoreError> {
        Ok(sqlx::query_scalar(MISSING)
            .bind(serde_json::json!(ids).to_string())
            .fetch_all(self.reader())
            .await?)
    }

    /// The ids of the next letters whose retry needs this, in their order; of any letters if that is
    /// `None`.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn next_letters(
        &self,
        range: LetterRange<'_>,
        needs: Option<RetryNeeds>,
    ) -> Result<Vec<i64>, StoreError> {
        let sql = match needs {
            Some(_) => NEXT,
            None => NEXT_OF_ALL,
        };
        let query = bind!(sqlx::query_scalar(sql), range.filter)
            .bind(range.after)
            .bind(range.through)
            .bind(range.limit);
        let query = match needs {
            Some(needs) => query.bind(needs == RetryNeeds::Network),
            None => query,
        };
        Ok(query.fetch_all(self.reader()).await?)
    }

    /// Applies what follows from a letter that was tried again, with the progress of the command.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] if the database refuses it.
    pub async fn retry_letter(
        &self,
        retry: &Retry<'_>,
        progress: Progress<'_>,
    ) -> Result<Written, StoreError> {
        let change = RepoChange::Retried(retry);
        timely(apply::change_with_progress(&self.writer, change, progress)).await
    }

    /// What [`Self::retry_letter`] would write. Nothing is written.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn rehearse_retry(&self, retry: &Retry<'_>) -> Result<Written, StoreError> {
        timely(apply::rehearse(&self.writer, RepoChange::Retried(retry))).await
    }

    /// Notes that a letter was refused again, and why, with the progress of the command.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn keep_letter(
        &self,
        letter: &LetterRow,
        error: &str,
        progress: (i64, &Json),
    ) -> Result<(), StoreError> {
        let mut script = Script::default();
        script.push(
            "UPDATE dead_letters SET error = ?, error_group = ?, attempts = attempts + 1, \
             retried_at = ? WHERE id = ?",
            [
                excerpt(error, ERROR_CHARS).into(),
                error_group(&letter.stage, error).into(),
                now().into(),
                letter.id.into(),
            ],
        );
        self.run_with_progress(script, progress).await
    }

    /// Deletes letters, with the progress of the command.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn discard_letters(
        &self,
        ids: &[i64],
        progress: (i64, &Json),
    ) -> Result<(), StoreError> {
        let mut script = Script::default();
        script.push(
            "DELETE FROM dead_letters WHERE id IN (SELECT value FROM json_each(?))",
            [serde_json::json!(ids).to_string().into()],
        );
        self.run_with_progress(script, progress).await
    }

    async fn run_with_progress(
        &self,
        mut script: Script,
        (command, progress): (i64, &Json),
    ) -> Result<(), StoreError> {
        commands::push_progress(&mut script, command, progress);
        timely(async {
            let transaction = self.writer.begin().await?;
            let committed = transaction.commit_with(script).await;
            committed.map_err(Failure::into_store)
        })
        .await
    }
}

/// Letters of an earlier version without a group: the next ones, within `?1` rows and `?2` bytes, since a row
/// is written as a whole. In the order of the index of groups, which has those without one too.
const UNGROUPED: &str = "SELECT id, stage, error FROM ( \
     SELECT id, stage, error, sum(bytes) OVER (ORDER BY created_at, id) - bytes AS bytes_before FROM ( \
     SELECT id, stage, error, created_at, octet_length(raw) AS bytes FROM dead_letters \
     WHERE error_group IS NULL ORDER BY created_at, id LIMIT ?1)) WHERE bytes_before < ?2";

/// Sets the groups of a piece of the letters that an earlier version has kept. Returns whether there were
/// any.
pub(super) async fn group_piece(
    store: &SqliteStore,
    limit: PieceLimit,
) -> Result<bool, StoreError> {
    let rows: Vec<(i64, String, String)> = sqlx::query_as(UNGROUPED)
        .bind(integer(limit.rows))
        .bind(integer(limit.bytes))
        .fetch_all(store.reader())
        .await?;
    if rows.is_empty() {
        return Ok(false);
    }
    let groups = rows.into_iter();
    let groups = groups.map(|(id, stage, error)| (id, error_group(&stage, &error)));
    let groups = serde_json::json!(groups.collect::<Vec<_>>()).to_string();
    let mut script = Script::default();
    script.push(
        "UPDATE dead_letters SET error_group = named.value ->> 1 FROM json_each(?) AS named \
         WHERE dead_letters.id = named.value ->> 0 AND error_group IS NULL",
        [groups.into()],
    );
    let transaction = store.writer.begin().await?;
    let committed = transaction.commit_with(script).await;
    committed.map_err(Failure::into_store)?;
    Ok(true)
}
