//! The kinds of commands.

use std::num::NonZeroU32;

use jiff::Timestamp;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::kept::{SettingChange, SettingName};
use crate::atproto::syntax::{Did, Nsid};
use crate::model::SourceId;
use crate::store::letters::LetterFilter;
use crate::store::rejudge_store::Selection;

/// A command. Its form in JSON is an object with `kind` and the fields of the kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Show an account although the source holds it, or let the source decide again.
    Account {
        did: Did,
        is_shown: bool,
    },
    /// End the searches of a backfill, and forget the repositories that it has not fetched yet.
    BackfillCancel {},
    /// Search for no repositories, and fetch none because its past is wanted, until that is resumed.
    BackfillPause {},
    BackfillResume {},
    /// Search for the repositories that hold wanted records, and fetch them.
    BackfillStart {},
    /// Set a cursor to the beginning of what the source still holds.
    CursorReset {
        source: SourceId,
    },
    /// Set a cursor back by a time.
    CursorRewind {
        source: SourceId,
        by_seconds: u32,
    },
    /// Set a cursor to a seq.
    CursorSet(CursorSet),
    /// Delete dead letters.
    DeadLettersDiscard(BulkLetters),
    /// Try dead letters again.
    DeadLettersRetry(BulkLetters),
    /// Apply what was read, write the cursor, and end the process.
    Drain {},
    /// Make an index on a column of a collection's view, or drop it.
    LexiconIndex {
        collection: Nsid,
        column: String,
        #[serde(default)]
        drop: bool,
    },
    /// Change the filter of the log for a time.
    LogLevel {
        filter: String,
        for_seconds: u32,
    },
    /// Compare a repository with its host, and fetch it if they differ.
    Recheck {
        did: Did,
    },
    /// Judge stored records again.
    Reprocess(Reprocess),
    /// Read a stretch of the stream again, beside the live one, whose cursor stays where it is.
    Rerun {
        source: SourceId,
        /// The events behind this seq,
        from: u64,
        /// up to this one. By default up to where the cursor is at the beginning.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        to: Option<u64>,
    },
    /// Fetch a whole repository, and make the tables equal to it.
    Resync {
        did: Did,
    },
    /// Let the configuration decide about a setting again.
    SettingReset {
        name: SettingName,
    },
    /// Change a setting, whatever the configuration says.
    SettingSet {
        name: SettingName,
        value: SettingChange,
        /// The value that its sender has seen. It fails if that is not in force any more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expects: Option<Vec<String>>,
    },
    /// Deliver nothing to a sink until that is resumed, also after a restart.
    SinkPause {
        sink: String,
    },
    /// Follow the change feed no more for a sink, and forget where it was, until it is resynced. For one
    /// that the configuration still has.
    SinkRemove {
        sink: String,
    },
    SinkResume {
        sink: String,
    },
    /// Deliver everything again to a sink.
    SinkResync {
        sink: String,
    },
    /// Deliver again to a sink what comes behind a place.
    SinkRewind {
        sink: String,
        to: FeedPlace,
    },
    /// Read nothing from a source until that is resumed, also after a restart.
    SourcePause {
        source: SourceId,
    },
    /// Dial a source anew.
    SourceReconnect {
        source: SourceId,
    },
    SourceResume {
        source: SourceId,
    },
    /// Forget what is due for a repository.
    Untrack {
        did: Did,
    },
}

/// The new place of a cursor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CursorSet {
    pub source: SourceId,
    pub seq: u64,
    /// Events may be left out. The gap is recorded.
    #[serde(default)]
    pub accept_gap: bool,
    /// Also if the database has cursors, but none of this source.
    #[serde(default)]
    pub new_source: bool,
}

/// A place in the change feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedPlace {
    /// Behind the change of this number.
    Change(u64),
    /// Before the first change that was written at this time or later.
    Since(Timestamp),
}

/// An act on many dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BulkLetters {
    #[serde(deserialize_with = "object")]
    pub filter: LetterFilter,
    /// An empty filter is refused unless this is set.
    pub all: bool,
    /// Only tell what would become of them.
    pub dry_run: bool,
    /// How many in a second, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<NonZeroU32>,
}

/// Which stored records are judged again, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reprocess {
    #[serde(deserialize_with = "object")]
    pub selection: Selection,
    /// An empty selection means all records, and they are written also where they were judged by the
    /// rules in force.
    pub all: bool,
    /// Only count.
    pub dry_run: bool,
}

/// Reads a field that is a JSON object. serde takes an array as well, whose values have their meaning by their
/// place.
///
/// # Errors
/// If the field is something else, or its fields are not those of `T`.
pub fn object<'de, T: DeserializeOwned, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let fields = Map::<String, Value>::deserialize(deserializer)?;
    T::deserialize(Value::Object(fields)).map_err(D::Error::custom)
}

/// A text or a row that is no command of this version.
#[derive(Debug, thiserror::Error)]
#[error("not a command of this version: {0}")]
pub struct InvalidCommand(#[from] serde_json::Error);

impl Command {
    /// The name of its kind, and its other fields.
    ///
    /// # Errors
    /// The serializer's error. It does not occur for these types.
    pub fn into_parts(self) -> Result<(String, Value), InvalidCommand> {
        let mut arguments = serde_json::to_value(self)?;
        let kind = arguments
            .as_object_mut()
            .and_then(|object| object.remove("kind"));
        let kind = kind.and_then(|kind| kind.as_str().map(str::to_owned));
        Ok((kind.unwrap_or_default(), arguments))
    }

    /// Reads a command from its parts.
    ///
    /// # Errors
    /// If this version has no such kind, or its fields are not valid.
    pub fn from_parts(kind: &str, arguments: &Value) -> Result<Self, InvalidCommand> {
        let mut whole = arguments.clone();
        if let Some(object) = whole.as_object_mut() {
            object.insert("kind".to_owned(), kind.into());
        }
        Ok(serde_json::from_value(whole)?)
    }

    /// What it is about, for the audit; empty for the worker.
    pub fn target(&self) -> String {
        match self {
            Self::Account { did, .. }
            | Self::Recheck { did }
            | Self::Resync { did }
            | Self::Untrack { did } => did.to_string(),
            Self::CursorReset { source }
            | Self::CursorRewind { source, .. }
            | Self::CursorSet(CursorSet { source, .. })
            | Self::Rerun { source, .. }
            | Self::SourcePause { source }
            | Self::SourceReconnect { source }
            | Self::SourceResume { source } => source.to_string(),
            Self::SinkPause { sink }
            | Self::SinkRemove { sink }
            | Self::SinkResume { sink }
            | Self::SinkResync { sink }
            | Self::SinkRewind { sink, .. } => sink.clone(),
            Self::SettingReset { name } | Self::SettingSet { name, .. } => name.as_str().to_owned(),
            Self::BackfillCancel {}
            | Self::BackfillPause {}
            | Self::BackfillResume {}
            | Self::BackfillStart {}
            | Self::DeadLettersDiscard(_)
            | Self::DeadLettersRetry(_)
            | Self::Drain {}
            | Self::LogLevel { .. }
            | Self::Reprocess(_) => String::new(),
            Self::LexiconIndex { collection, .. } => collection.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_array_is_no_filter() {
        for (kind, field) in [
            ("dead_letters_discard", "filter"),
            ("dead_letters_retry", "filter"),
            ("reprocess", "selection"),
        ] {
            let of = |value: Value| Command::from_parts(kind, &json!({ field: value }));
            assert!(of(json!([[1], "a"])).is_err(), "{kind}");
            assert!(of(json!({ "did": "did:plc:ann" })).is_ok(), "{kind}");
        }
    }

    #[test]
    fn a_command_is_read_as_it_is_written() {
        let did = Did::parse("did:plc:ann").unwrap();
        let source = SourceId::new("wss://relay.example/");
        let ids = LetterFilter {
            ids: vec![7],
            ..LetterFilter::default()
        };
        for (command, kind, arguments) in [
            (
                Command::Account {
                    did,
                    is_shown: true,
                },
                "account",
                json!({ "did": "did:plc:ann", "is_shown": true }),
            ),
            (Command::Drain {}, "drain", json!({})),
            (
                Command::DeadLettersRetry(BulkLetters {
                    filter: ids,
                    per_second: NonZeroU32::new(5),
                    ..BulkLetters::default()
                }),
                "dead_letters_retry",
                json!({ "filter": { "ids": [7] }, "all": false, "dry_run": false, "per_second": 5 }),
            ),
            (
                Command::CursorRewind {
                    source,
                    by_seconds: 60,
                },
                "cursor_rewind",
                json!({ "source": "wss://relay.example/", "by_seconds": 60 }),
            ),
        ] {
            let parts = command.clone().into_parts().unwrap();
            assert_eq!(parts, (kind.to_owned(), arguments));
            assert_eq!(Command::from_parts(&parts.0, &parts.1).unwrap(), command);
        }
    }

    #[test]
    fn an_unknown_kind_or_field_is_named() {
        for (kind, arguments, word) in [
            ("explode", json!({}), "explode"),
            ("drain", json!({ "when": 1 }), "when"),
            ("resync", json!({ "did": "did:plc:ann", "when": 1 }), "when"),
            ("resync", json!({ "did": "ann" }), "ann"),
            ("resync", json!({}), "did"),
            (
                "dead_letters_discard",
                json!({ "filter": {}, "when": 1 }),
                "when",
            ),
            (
                "dead_letters_discard",
                json!({ "filter": { "kind": 1 } }),
                "kind",
            ),
        ] {
            let error = Command::from_parts(kind, &arguments).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }
}
