//! What the tables know of one repository, for an operator.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{SqliteStore, audit};
use crate::atproto::syntax::Did;
use crate::store::StoreError;

/// A part of the report: its name, the query that gives each row as JSON, and whether there are many rows.
/// The argument is the DID.
type Part = (&'static str, &'static str, bool);

const PARTS: [Part; 11] = [
    (
        "account",
        "SELECT json_object('handle', handle, 'active', iif(active, json('true'), json('false')), \
         'status', status, 'as_of', as_of, 'said_by', as_of_source, 'held_status', held_status, \
         'is_overridden', iif(is_overridden, json('true'), json('false')), \
         'is_unconfirmed', iif(is_unconfirmed, json('true'), json('false')), \
         'suspected_status', suspected_status, 'removed_at', removed_at, 'retry_at', retry_at, \
         'attempts', attempts) FROM accounts WHERE did = ?",
        false,
    ),
    (
        "identity",
        "SELECT json_object('host', pds, 'key', signing_key, 'handle', handle, \
         'looked_up_at', looked_up_at) FROM identities WHERE did = ?",
        false,
    ),
    (
        "repository",
        "SELECT json_object('state', state, 'cause', cause, 'rev', rev, 'data', data, \
         'is_proven', iif(is_proven, json('true'), json('false')), \
         'is_whole', iif(is_whole, json('true'), json('false')), \
         'seq', seq, 'source', source, 'time', time, 'recheck_cause', recheck_cause, \
         'urgency', urgency, 'retry_at', retry_at, 'attempts', attempts, \
         'waits_for_account', iif(waits_for_account, json('true'), json('false')), \
         'updated_at', updated_at) FROM repos WHERE did = ?",
        false,
    ),
    (
        "records",
        "SELECT json_object('collection', collection, 'records', sum(deleted = 0), \
         'tombstones', sum(deleted), 'newest', max(last_indexed_at)) FROM records \
         WHERE uri > 'at://' || ?1 || '/' AND uri < 'at://' || ?1 || '0' \
         GROUP BY collection ORDER BY collection LIMIT 100",
        true,
    ),
    (
        "parked_commits",
        "SELECT json_object('reason', reason, 'commits', count(*), 'bytes', sum(bytes), \
         'oldest_at', min(created_at)) FROM kept_parked_commits WHERE did = ? GROUP BY reason",
        true,
    ),
    (
        "resyncs",
        "SELECT json_object('cause', cause, 'host', host, 'started_at', started_at, \
         'ended_at', ended_at, 'rev', rev, 'created', created, 'updated', updated, \
         'deleted', deleted, 'unchanged', unchanged, 'bytes', bytes, 'error', error) \
         FROM resyncs WHERE did = ? ORDER BY id DESC LIMIT 20",
        true,
    ),
    (
        "dead_letters",
        "SELECT json_object('id', id, 'stage', stage, 'error', error, 'uri', uri, 'seq', seq, \
         'source', source, 'created_at', created_at) FROM dead_letters WHERE did = ? \
         ORDER BY id DESC LIMIT 20",
        true,
    ),
    (
        // A gap that is open touches each repository that is followed and was not compared since.
        "gaps",
        "SELECT json_object('id', id, 'source', source, 'cause', cause, 'from_seq', from_seq, \
         'from_time', from_time, 'to_seq', to_seq, 'to_time', to_time, 'opened_at', opened_at) \
         FROM gaps WHERE closed_at IS NULL AND EXISTS (SELECT 1 FROM repos WHERE did = ?) \
         ORDER BY id DESC LIMIT 20",
        true,
    ),
    (
        "jobs_in_progress",
        "SELECT json_object('job', job) FROM jobs_in_progress WHERE did = ?",
        true,
    ),
    (
        "suspected_jobs",
        "SELECT json_object('job', job, 'runs', runs, 'set_aside_until', set_aside_until) \
         FROM suspected_jobs WHERE did = ?",
        true,
    ),
    (
        "audit",
        "SELECT json_object('at', at, 'actor', actor, 'action', action, 'reason', reason, \
         'outcome', outcome) FROM audit WHERE target = ? ORDER BY id DESC LIMIT 20",
        true,
    ),
];

/// The state of a repository, as the audit keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct RepoSummary {
    pub state: String,
    pub rev: Option<String>,
    pub cause: Option<String>,
    pub recheck_cause: Option<i64>,
}

impl SqliteStore {
    /// The state of a repository; `None` if it is not tracked.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn repo_summary(&self, did: &Did) -> Result<Option<RepoSummary>, StoreError> {
        Ok(
            sqlx::query_as("SELECT state, rev, cause, recheck_cause FROM repos WHERE did = ?")
                .bind(did.as_str())
                .fetch_optional(self.reader())
                .await?,
        )
    }

    /// All that the tables know of a repository, with its history, the newest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn repo_report(&self, did: &Did) -> Result<Value, StoreError> {
        let mut reader = self.reader().acquire().await?;
        let mut report = Map::new();
        report.insert("did".to_owned(), did.as_str().into());
        for (name, sql, has_many) in PARTS {
            let rows: Vec<String> = sqlx::query_scalar(sql)
                .bind(did.as_str())
                .fetch_all(&mut *reader)
                .await?;
            let rows = rows.into_iter().map(|row| audit::parse(Some(row)));
            let mut rows: Vec<Value> = rows
                .map(|row| Ok(row?.unwrap_or_default()))
                .collect::<Result<_, StoreError>>()?;
            let value = match has_many {
                true => Value::Array(rows),
                false => rows.pop().unwrap_or_default(),
            };
            report.insert(name.to_owned(), value);
        }
        Ok(Value::Object(report))
    }

    /// The account that claims a handle, as far as the tables know.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn did_of_handle(&self, handle: &str) -> Result<Option<Did>, StoreError> {
        let did: Option<String> = sqlx::query_scalar(
            "SELECT did FROM accounts WHERE handle = ? ORDER BY handle_as_of DESC LIMIT 1",
        )
        .bind(handle.to_ascii_lowercase())
        .fetch_optional(self.reader())
        .await?;
        did.as_deref().map(super::due::parse_did).transpose()
    }
}
