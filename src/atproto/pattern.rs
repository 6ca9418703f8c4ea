//! Patterns for collections, as an operator writes them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::syntax;

/// A set of collections: one by name (`com.huddle.booking`), all below an authority
/// (`com.huddle.*`), or all (`*`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Pattern {
    /// Exactly this NSID.
    Exact(Box<str>),
    /// Every NSID that begins with this text, which is empty or ends with a dot.
    Prefix(Box<str>),
}

impl Pattern {
    pub fn matches(&self, collection: &str) -> bool {
        match self {
            Self::Exact(nsid) => **nsid == *collection,
            Self::Prefix(prefix) => collection.starts_with(&**prefix),
        }
    }

    /// Orders patterns that match the same collection. The greater one is more specific.
    pub fn specificity(&self) -> (bool, usize) {
        match self {
            Self::Exact(nsid) => (true, nsid.len()),
            Self::Prefix(prefix) => (false, prefix.len()),
        }
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let error = || PatternError {
            found: text.chars().take(128).collect(),
        };
        match text.strip_suffix('*') {
            Some("") => Ok(Self::Prefix("".into())),
            // A prefix is valid if an NSID can begin with it.
            Some(prefix) if prefix.ends_with('.') && syntax::is_nsid(&format!("{prefix}a.a")) => {
                Ok(Self::Prefix(prefix.into()))
            }
            None if syntax::is_nsid(text) => Ok(Self::Exact(text.into())),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(nsid) => f.write_str(nsid),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// A text that is not a collection pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a collection pattern: {found:?} (give an NSID such as com.huddle.booking, \
     a prefix that ends with a dot and a star such as com.huddle.*, or * for everything)"
)]
pub struct PatternError {
    /// At most 128 characters of the text.
    pub found: String,
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.to_string()
    }
}
