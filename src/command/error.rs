//! Why a command fails.

use crate::atproto::syntax::{Did, Nsid};
use crate::model::SourceId;
use crate::pipeline::rerun::Refused;
use crate::store::StoreError;
use crate::telemetry::log::LogError;

use super::kept::{InvalidSetting, SettingName};

/// The longest time for which a filter of the log is in force: a week.
pub(super) const MOST_LOG_SECONDS: u32 = 7 * 24 * 3600;

/// Why a command fails. What the database may accept a moment later is tried again instead.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("verify is none: repositories are not fetched at this level")]
    NothingIsFetched,

    #[error("{0} is excluded by dids_allow or dids_deny")]
    Excluded(Did),

    #[error(
        "{collection} has no view with a column {column} here; a worker reads the lexicons when it starts"
    )]
    NoColumn { collection: Nsid, column: String },

    #[error("there is nothing between seq {from} and seq {to}")]
    NothingBetween { from: u64, to: u64 },

    #[error(transparent)]
    Rerun(#[from] Refused),

    #[error("name what to judge again; all: true means all records")]
    NoRecords,

    #[error("name which dead letters are meant; all: true means all of them")]
    NoLetters,

    #[error("a text of the filter is empty; name what is meant, or leave it out")]
    EmptyText,

    #[error("the time is {0} s; a filter of the log is in force for 1 s to {max} s", max = MOST_LOG_SECONDS)]
    LogTime(u32),

    #[error("there is no dead letter {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    NoSuchLetters(Vec<i64>),

    #[error("no worker runs on this database")]
    NoWorker,

    #[error("the worker does not follow {0}; it follows {1}")]
    NotFollowed(SourceId, SourceId),

    #[error(
        "unknown source {source_id}: the database has cursors of {known}; set source_url to one of \
         them, or set the cursor with --new-source"
    )]
    UnknownSource { source_id: SourceId, known: String },

    #[error(
        "the events from seq {from} to seq {to} would be left out; add --accept-gap, and the gap is \
         recorded"
    )]
    WouldLoseEvents { from: u64, to: u64 },

    #[error(
        "no position of {0} was marked yet, so it is unknown where its cursor stood; use cursor set \
         or cursor reset"
    )]
    NoMarks(SourceId),

    #[error("{} has changed since it was looked at; look again", .0.as_str())]
    HasChanged(SettingName),

    #[error(transparent)]
    Setting(#[from] InvalidSetting),

    #[error(
        "the backfill cannot search for a pattern ({0}); name the collections in full, or set \
         backfill_discovery to repos or dids"
    )]
    NothingToSearch(String),

    #[error(
        "the search {search} cannot be made: {reason}; set directory_url or backfill_discovery"
    )]
    UnsupportedSearch { search: String, reason: String },

    #[error("no sink {name:?} is configured; {}", known_sinks(.known))]
    UnknownSink { name: String, known: Vec<String> },

    #[error(
        "the sink {sink} has everything up to change {at} only, so there is nothing to deliver again \
         behind {wanted}"
    )]
    AheadOfSink { sink: String, at: u64, wanted: u64 },

    #[error("the sink {0} was removed; sink resync brings it back, from the beginning")]
    SinkIsRemoved(String),

    #[error("it made its task panic, which is a fault of this program; the log has the place")]
    Panicked,

    #[error(transparent)]
    Log(#[from] LogError),

    #[error(transparent)]
    Store(#[from] StoreError),
}

fn known_sinks(known: &[String]) -> String {
    match known.is_empty() {
        true => "there is none".to_owned(),
        false => format!("there are {}", known.join(", ")),
    }
}

/// Whether the database may accept the same a moment later.
pub(super) fn is_transient(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Unavailable(_) | StoreError::Deadline | StoreError::Damaged(_)
    )
}
