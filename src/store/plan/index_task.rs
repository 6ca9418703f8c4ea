//! The message of the queue `index-tasks`, and the body of its dead letters.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::effect::{RecordUpsert, RecordVersion};
use crate::atproto::json::{json_between, json_length};
use crate::atproto::syntax::{Did, Nsid, RecordKey, Tid};
use crate::atproto::verify::Level;
use crate::model::SourceId;

/// One change to one record, as JSON: `{type, collection, uri, did, rkey, record?, timestamp}`, and
/// what an operator needs to find its origin.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct IndexTask {
    #[serde(rename = "type")]
    pub kind: TaskKind,
    pub collection: Nsid,
    pub uri: String,
    pub did: Did,
    pub rkey: RecordKey,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Box<RawValue>>,
    /// The event's time.
    pub timestamp: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cid: Option<String>,
    pub rev: Tid,
    pub seq: u64,
    pub source: SourceId,
    /// How much of its commit was verified. An earlier version did not keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<TaskLevel>,
    pub attempts: u32,
}

/// How much of a commit was verified, as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskLevel {
    Chain,
    Commit,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskKind {
    Upsert,
    Delete,
}

impl IndexTask {
    /// The task without its record: see [`with_record`].
    pub fn upsert(upsert: &RecordUpsert, source: &SourceId, attempts: u32) -> Self {
        Self {
            cid: Some(upsert.cid.to_string()),
            ..Self::bare(TaskKind::Upsert, &upsert.version, source, attempts)
        }
    }

    pub fn delete(version: &RecordVersion, source: &SourceId, attempts: u32) -> Self {
        Self::bare(TaskKind::Delete, version, source, attempts)
    }

    fn bare(kind: TaskKind, version: &RecordVersion, source: &SourceId, attempts: u32) -> Self {
        Self {
            kind,
            collection: version.collection.clone(),
            uri: version.uri(),
            did: version.did.clone(),
            rkey: version.rkey.clone(),
            record: None,
            timestamp: version.time,
            cid: None,
            rev: version.rev.clone(),
            seq: version.seq,
            source: source.clone(),
            verified: Some(TaskLevel::of(version.verified)),
            attempts,
        }
    }
}

impl TaskLevel {
    fn of(level: Option<Level>) -> Self {
        match level {
            Some(Level::Chain) => Self::Chain,
            Some(Level::Commit) => Self::Commit,
            None => Self::None,
        }
    }

    pub fn level(self) -> Option<Level> {
        match self {
            Self::Chain => Some(Level::Chain),
            Self::Commit => Some(Level::Commit),
            Self::None => None,
        }
    }
}

/// The text of `task` with the JSON of its record, which is written only when the task is stored. A
/// task whose record cannot be converted stays as it is: the raw bytes are stored beside it.
pub fn with_record(task: &str, record: &[u8]) -> String {
    let fields = task
        .strip_suffix('}')
        .map(|fields| format!("{fields},\"record\":"));
    let text = match (fields, json_length(record)) {
        (Some(fields), Ok(length)) => json_between(&fields, record, length, "}").ok(),
        _ => None,
    };
    text.unwrap_or_else(|| task.to_owned())
}
