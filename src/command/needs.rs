//! What each kind of command needs, and who may give it.

use serde::{Deserialize, Serialize};

use super::Command;

/// What a command needs to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The database alone. Without a worker it is carried out at once, under the lock.
    Database,
    /// A worker that runs. Without one it has no sense, and is refused.
    RunningWorker,
    /// The database alone, while nothing is read. A worker that runs applies what it has read, carries
    /// the command out, and goes on.
    StoppedPipeline,
    /// The network or the actors. Without a worker it waits for the next one.
    Worker,
}

/// How much a caller may do. Each role may do what the ones before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything.
    Read,
    /// Do what can be undone, or what the worker would do by itself.
    Operate,
    /// Change what is kept and where it is read, show what is hidden, and end the process.
    Admin,
}

impl Command {
    /// What it needs.
    pub fn needs(&self) -> Needs {
        match self {
            Self::Account { .. }
            | Self::BackfillCancel {}
            | Self::BackfillPause {}
            | Self::BackfillResume {}
            | Self::DeadLettersDiscard(_)
            | Self::DeadLettersRetry(_)
            | Self::LexiconIndex { .. }
            | Self::Recheck { .. }
            | Self::Reprocess(_)
            | Self::Resync { .. }
            | Self::SinkPause { .. }
            | Self::SinkRemove { .. }
            | Self::SinkResume { .. }
            | Self::SourcePause { .. }
            | Self::SourceResume { .. }
            | Self::Untrack { .. } => Needs::Database,
            Self::Drain {} | Self::LogLevel { .. } | Self::SourceReconnect { .. } => {
                Needs::RunningWorker
            }
            Self::CursorReset { .. }
            | Self::CursorRewind { .. }
            | Self::CursorSet(_)
            | Self::SettingReset { .. }
            | Self::SettingSet { .. } => Needs::StoppedPipeline,
            Self::BackfillStart {}
            | Self::Rerun { .. }
            | Self::SinkResync { .. }
            | Self::SinkRewind { .. } => Needs::Worker,
        }
    }

    /// The least role of those who may give it.
    pub fn role(&self) -> Role {
        match self {
            Self::BackfillCancel {}
            | Self::BackfillPause {}
            | Self::BackfillResume {}
            | Self::BackfillStart {}
            | Self::DeadLettersRetry(_)
            | Self::LexiconIndex { .. }
            | Self::LogLevel { .. }
            | Self::Recheck { .. }
            | Self::Reprocess(_)
            | Self::Rerun { .. }
            | Self::Resync { .. }
            | Self::SinkPause { .. }
            | Self::SinkResume { .. }
            | Self::SinkResync { .. }
            | Self::SinkRewind { .. }
            | Self::SourcePause { .. }
            | Self::SourceReconnect { .. }
            | Self::SourceResume { .. } => Role::Operate,
            Self::Account { .. }
            | Self::CursorReset { .. }
            | Self::CursorRewind { .. }
            | Self::CursorSet(_)
            | Self::DeadLettersDiscard(_)
            | Self::Drain {}
            | Self::SettingReset { .. }
            | Self::SettingSet { .. }
            | Self::SinkRemove { .. }
            | Self::Untrack { .. } => Role::Admin,
        }
    }

    /// Whether it is done in pieces, beside other commands: it has progress, and can be cancelled.
    pub fn is_long(&self) -> bool {
        matches!(
            self,
            Self::BackfillCancel {}
                | Self::BackfillStart {}
                | Self::DeadLettersDiscard(_)
                | Self::DeadLettersRetry(_)
                | Self::LexiconIndex { .. }
                | Self::Reprocess(_)
                | Self::Rerun { .. }
                | Self::SinkResync { .. }
                | Self::SinkRewind { .. }
        )
    }
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Read, Self::Operate, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }
}
