//! The origin of a value.

use std::path::PathBuf;

pub(super) const ENVIRONMENT_PREFIX: &str = "HUDDLE_";

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    Environment,
    File(PathBuf),
    Flag,
    /// An operator has changed it while the worker ran.
    RunTime {
        by: String,
        at: String,
    },
}

impl Origin {
    /// The place where an operator finds `key`.
    pub(super) fn of(&self, key: &str) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::Environment => format!("environment {}", variable_name(key)),
            Self::File(path) => format!("file {}", path.display()),
            Self::Flag => format!("flag {}", flag_name(key)),
            Self::RunTime { by, at } => format!("run time, by {by} at {at}"),
        }
    }
}

/// Converts `batch_bytes` to `HUDDLE_BATCH_BYTES`.
pub(super) fn variable_name(key: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", key.to_ascii_uppercase())
}

/// Converts `batch_bytes` to `--batch-bytes`.
fn flag_name(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}
