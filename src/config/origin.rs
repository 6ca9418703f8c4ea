//! Where a value came from.

use std::path::PathBuf;

pub(super) const ENVIRONMENT_PREFIX: &str = "HUDDLE_";

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    Environment,
    File(PathBuf),
    Flag,
}

impl Origin {
    /// The place in which an operator finds `key`.
    pub(super) fn of(&self, key: &str) -> String {
        match self {
            Self::Default => "default".to_owned(),
            Self::Environment => format!("environment {}", variable_name(key)),
            Self::File(path) => format!("file {}", path.display()),
            Self::Flag => format!("flag {}", flag_name(key)),
        }
    }
}

/// `batch_bytes` as `HUDDLE_BATCH_BYTES`.
pub(super) fn variable_name(key: &str) -> String {
    format!("{ENVIRONMENT_PREFIX}{}", key.to_ascii_uppercase())
}

/// `batch_bytes` as `--batch-bytes`.
fn flag_name(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}
