//! Where a password or a key is, if it is not in a URL.

use std::fmt;
use std::path::PathBuf;

use super::SinkError;

/// A file or a variable of the environment. It is read each time that it is needed, so that it can be
/// replaced while the worker runs.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Secret {
    File(PathBuf),
    Variable(String),
}

impl Secret {
    /// The secret that the parameter `name` of a URL names, if it is `PREFIX_file` or `PREFIX_env`.
    pub(super) fn of(prefix: &str, name: &str, value: &str) -> Option<Self> {
        match name.strip_prefix(prefix)? {
            "_file" => Some(Self::File(PathBuf::from(value))),
            "_env" => Some(Self::Variable(value.to_owned())),
            _ => None,
        }
    }

    /// # Errors
    /// If there is no such file or variable, or nothing in it.
    pub(super) fn read(&self) -> Result<String, SinkError> {
        let read = match self {
            Self::File(path) => {
                std::fs::read_to_string(path).map_err(|error| format!("{self}: {error}"))
            }
            Self::Variable(name) => std::env::var(name).map_err(|error| format!("{self}: {error}")),
        };
        let text = read.map_err(SinkError::unavailable)?;
        match text.trim_end_matches(['\r', '\n']) {
            "" => Err(SinkError::unavailable(format_args!("{self} is empty"))),
            secret => Ok(secret.to_owned()),
        }
    }
}

/// Where the secret is.
impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the secret's file {}", path.display()),
            Self::Variable(name) => write!(f, "the secret's variable {name}"),
        }
    }
}
