//! Dead letters as an operator sees them: which are meant, and how they are listed.

use data_encoding::BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::atproto::pattern::Pattern;
use crate::atproto::syntax::Did;

/// Which dead letters are meant: those that fit all that is said. An empty one means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LetterFilter {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<i64>,
    /// Those whose errors are the same but for names and numbers: see `model/error_group.rs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Those whose error contains this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collection: Option<Pattern>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub did: Option<Did>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Those that were kept at that time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Those that were kept before that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl LetterFilter {
    /// Whether a text is empty. It would fit every letter, or none: more probably a variable of a script was
    /// not set.
    pub fn has_empty_text(&self) -> bool {
        let texts = [&self.group, &self.stage, &self.reason, &self.source];
        let mut texts = texts.into_iter().flatten();
        texts.any(|text| text.trim().is_empty())
    }
}

/// A dead letter without its bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct LetterRow {
    pub id: i64,
    pub source: String,
    pub seq: Option<i64>,
    pub did: Option<String>,
    pub uri: Option<String>,
    pub stage: String,
    pub error: String,
    pub error_group: Option<String>,
    pub attempts: i64,
    /// The length of its bytes.
    pub bytes: i64,
    pub created_at: String,
    pub retried_at: Option<String>,
}

/// A dead letter with its bytes.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct WholeLetter {
    #[sqlx(flatten)]
    pub row: LetterRow,
    /// The index task as JSON, of a record.
    pub task: Option<String>,
    /// The record as DAG-CBOR, or the frame.
    pub raw: Vec<u8>,
}

/// Dead letters with the same error, but for names and numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct LetterGroup {
    /// `None` for letters of an earlier version, until the worker has set it.
    pub group: Option<String>,
    pub stage: String,
    pub letters: i64,
    pub bytes: i64,
    pub first_at: String,
    pub last_at: String,
    /// The newest one.
    pub sample: i64,
    pub error: String,
    pub uri: Option<String>,
    pub did: Option<String>,
}

/// How many dead letters are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct LetterCount {
    pub letters: i64,
    pub bytes: i64,
    /// The highest id of all letters, meant or not.
    pub through: i64,
}

/// What a retry of a dead letter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryNeeds {
    /// It holds a record, or no bytes.
    Database,
    /// It holds a frame, whose account's key may have to be looked up.
    Network,
}

/// The letters of a filter that come next.
#[derive(Clone, Copy, Debug)]
pub struct LetterRange<'a> {
    pub filter: &'a LetterFilter,
    /// Those with a higher id,
    pub after: i64,
    /// and at most this one.
    pub through: i64,
    pub limit: u32,
}

impl WholeLetter {
    /// The letter as JSON, with the record as JSON where it holds one.
    pub fn json(&self) -> Value {
        let mut letter = json!(self.row);
        if let Some(members) = letter.as_object_mut() {
            let task = self.task.as_deref();
            let task = task.and_then(|task| serde_json::from_str::<Value>(task).ok());
            members.insert("task".to_owned(), task.unwrap_or_default());
        }
        letter
    }

    /// The same with its bytes in base64.
    pub fn json_with_bytes(&self) -> Value {
        let mut letter = self.json();
        if let Some(members) = letter.as_object_mut() {
            members.insert("raw".to_owned(), BASE64.encode(&self.raw).into());
        }
        letter
    }
}
