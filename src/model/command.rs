//! The commands of operators, and the audit, as the tables have them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Position;

/// A command before it is written to the table.
#[derive(Clone, Debug, PartialEq)]
pub struct NewCommand {
    pub kind: String,
    /// Its other fields: an object.
    pub arguments: Value,
    /// Who asks for it.
    pub actor: String,
    pub reason: Option<String>,
    /// A second request with the same key is the first one.
    pub idempotency_key: Option<String>,
}

/// A row of `commands`. Datetimes are UTC text of fixed width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandRow {
    pub id: i64,
    pub kind: String,
    pub arguments: Value,
    pub actor: String,
    pub reason: Option<String>,
    pub created_at: String,
    pub state: CommandState,
    pub started_at: Option<String>,
    pub ended_at: Option<String>,
    /// How many times in a row it was running when the worker died.
    pub interruptions: u32,
    /// How far a long command is.
    pub progress: Option<Value>,
    pub result: Option<Value>,
    pub error: Option<String>,
}

/// The state of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandState {
    Cancelled,
    Denied,
    Done,
    Failed,
    /// It was running when the worker died, and is done again.
    Interrupted,
    Queued,
    Running,
}

impl CommandState {
    pub const ALL: [Self; 7] = [
        Self::Cancelled,
        Self::Denied,
        Self::Done,
        Self::Failed,
        Self::Interrupted,
        Self::Queued,
        Self::Running,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Denied => "denied",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
            Self::Queued => "queued",
            Self::Running => "running",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether nothing more becomes of it.
    pub fn is_ended(self) -> bool {
        match self {
            Self::Cancelled | Self::Denied | Self::Done | Self::Failed => true,
            Self::Interrupted | Self::Queued | Self::Running => false,
        }
    }
}

/// What becomes of a request for a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Submitted {
    New(CommandRow),
    /// The same request was made before, with the same key.
    Known(CommandRow),
    /// Another request was made with the same key.
    KeyIsTaken,
    /// As many commands wait as may.
    Full,
}

/// How a command ends.
#[derive(Clone, Debug, PartialEq)]
pub enum CommandEnd {
    Done(Value),
    Failed(String),
}

/// A row of `audit` before it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    pub actor: String,
    /// The command; `None` for what the worker does by itself.
    pub command: Option<i64>,
    pub action: String,
    /// The account, source or setting that it is about.
    pub target: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
    pub reason: Option<String>,
    pub outcome: AuditOutcome,
}

/// What a command writes in the transaction of its effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    pub audit: AuditEntry,
    /// The result of the command, which ends with this transaction; `None` if more of it follows.
    pub result: Option<Value>,
}

/// How an act ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditOutcome {
    Denied(String),
    Failed(String),
    Ok,
}

impl AuditOutcome {
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::Failed(_) => "failed",
            Self::Ok => "ok",
        }
    }

    /// Why it failed or was denied.
    pub fn problem(&self) -> Option<&str> {
        match self {
            Self::Denied(problem) | Self::Failed(problem) => Some(problem),
            Self::Ok => None,
        }
    }
}

/// A row of `audit`, as an operator reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRow {
    pub id: i64,
    pub at: String,
    pub actor: String,
    pub command: Option<i64>,
    pub action: String,
    pub target: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
    pub reason: Option<String>,
    pub outcome: String,
    pub problem: Option<String>,
}

/// A setting that was changed while the worker ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunTimeSetting {
    pub name: String,
    pub value: Value,
    /// What the configuration said when it was changed.
    pub configured: Value,
    pub set_at: String,
    pub set_by: String,
}

/// Since when, and why, something is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub since: String,
    pub actor: String,
    pub reason: Option<String>,
}

/// Where a cursor stood at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct CursorMark {
    pub position: Position,
    /// By the worker's clock.
    pub marked_at: String,
    /// It is as old as was asked for. Otherwise it is the oldest.
    pub is_old_enough: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_read_as_it_is_written() {
        for state in CommandState::ALL {
            assert_eq!(CommandState::parse(state.as_str()), Some(state));
            assert_eq!(serde_json::json!(state), state.as_str());
        }
        assert_eq!(CommandState::parse("unknown"), None);
    }
}
