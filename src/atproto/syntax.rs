//! Identifiers of the protocol, parsed once and valid from then on.
//!
//! Each type holds a string that satisfies its specification: <https://atproto.com/specs/did>,
//! `…/nsid`, `…/record-key`, `…/tid`.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A string that is not a valid identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {expected}: {found:?}")]
pub struct SyntaxError {
    pub expected: &'static str,
    /// At most 128 characters of the string.
    pub found: String,
}

impl SyntaxError {
    pub(super) fn new(expected: &'static str, found: &str) -> Self {
        Self {
            expected,
            found: found.chars().take(128).collect(),
        }
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal, $is_valid:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses `text`.
            pub fn parse(text: &str) -> Result<Self, SyntaxError> {
                if $is_valid(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(SyntaxError::new($what, text))
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = SyntaxError;

            fn try_from(text: String) -> Result<Self, SyntaxError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(identifier: $name) -> Self {
                identifier.0.as_ref().to_owned()
            }
        }
    };
}

identifier!(
    /// A decentralized identifier, `did:plc:…` or `did:web:…`.
    Did, "DID", is_did
);
identifier!(
    /// A namespaced identifier, such as `com.huddle.slotOffer`.
    Nsid, "NSID", is_nsid
);
identifier!(
    /// The last part of a record's path.
    RecordKey, "record key", is_record_key
);
identifier!(
    /// A timestamp identifier: 13 characters that sort by time. A commit's `rev` is one.
    Tid, "TID", is_tid
);

identifier!(
    /// The host name by which an account is known, in lower case.
    Handle, "handle", is_lower_handle
);

impl Handle {
    /// Parses `text` in any case. Handles do not differ by case.
    pub fn parse_any_case(text: &str) -> Result<Self, SyntaxError> {
        match is_handle(text) {
            true => Ok(Self(text.to_ascii_lowercase().into())),
            false => Err(SyntaxError::new("handle", text)),
        }
    }
}

identifier!(
    /// The word that says why an account is not active. The vocabulary is open.
    StatusWord, "account status", is_status_word
);

impl Tid {
    /// The time at which the TID was made, according to its author's clock. The upper of the 64
    /// bits are microseconds since 1970; the lower ten are the number of that clock.
    pub fn timestamp(&self) -> Timestamp {
        let bits = self.0.bytes().fold(0_u64, |bits, character| {
            let digit = match character {
                b'2'..=b'7' => character - b'2',
                _ => character.wrapping_sub(b'a') + 6,
            };
            bits << 5 | u64::from(digit)
        });
        i64::try_from(bits >> 10)
            .ok()
            .and_then(|micros| Timestamp::from_microsecond(micros).ok())
            .unwrap_or(Timestamp::MAX)
    }
}

pub(crate) fn is_did(text: &str) -> bool {
    let Some((method, id)) = text
        .strip_prefix("did:")
        .and_then(|rest| rest.split_once(':'))
    else {
        return false;
    };
    text.len() <= 2048
        && !method.is_empty()
        && method.bytes().all(|b| b.is_ascii_lowercase())
        && !id.is_empty()
        && !id.ends_with([':', '%'])
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'%' | b'-'))
}

pub(crate) fn is_nsid(text: &str) -> bool {
    let Some((authority, name)) = text.rsplit_once('.') else {
        return false;
    };
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    text.len() <= 317
        && authority.contains('.')
        && authority.split('.').all(is_label)
        && !authority.starts_with(|c: char| c.is_ascii_digit())
        && (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

pub(crate) fn is_record_key(text: &str) -> bool {
    (1..=512).contains(&text.len())
        && !matches!(text, "." | "..")
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'~' | b'-'))
}

pub(crate) fn is_tid(text: &str) -> bool {
    text.len() == 13
        && matches!(text.as_bytes()[0], b'2'..=b'7' | b'a'..=b'j')
        && text.bytes().all(|b| matches!(b, b'2'..=b'7' | b'a'..=b'z'))
}

/// A host name of at least two labels. The last one does not begin with a digit.
pub(crate) fn is_handle(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    text.len() <= 253
        && text
            .rsplit_once('.')
            .is_some_and(|(_, last)| last.starts_with(|c: char| c.is_ascii_alphabetic()))
        && text.split('.').all(is_label)
}

fn is_lower_handle(text: &str) -> bool {
    is_handle(text) && !text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// A short token, so that a column with it stays small and printable. The protocol's own words are
/// one token each, and a word of another lexicon is an NSID with a fragment.
fn is_status_word(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'#' | b'-')
        })
}

#[cfg(test)]
mod tests {
    use simulated_network::tid::tid;

    use super::*;

    #[test]
    fn a_tid_contains_its_time() {
        for micros in [0, 1, 1_767_225_600_123_456, (1 << 53) - 1] {
            let tid = Tid::parse(&tid(micros, 1023)).unwrap();
            assert_eq!(tid.timestamp().as_microsecond(), micros as i64);
        }
        let last = Tid::parse("jzzzzzzzzzzzz").unwrap();
        assert_eq!(last.timestamp().as_microsecond(), (1 << 54) - 1);
    }

    #[test]
    fn a_handle_is_kept_in_lower_case_and_nothing_else_is_a_handle() {
        let parsed = |text: &str| Handle::parse_any_case(text).map(String::from).ok();
        assert_eq!(parsed("Ann.Example").as_deref(), Some("ann.example"));
        assert_eq!(parsed("handle.invalid").as_deref(), Some("handle.invalid"));
        let long = format!("{}.example", "a".repeat(64));
        for wrong in [
            "",
            "ann",
            "ann..example",
            "ann.example\0",
            "ann.ex\u{202e}ample",
            &long,
        ] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
        assert!(Handle::parse("Ann.Example").is_err());
    }

    #[test]
    fn a_status_is_one_short_word() {
        for word in ["takendown", "desynchronized", "com.example.defs#paused"] {
            assert_eq!(StatusWord::parse(word).unwrap().as_str(), word);
        }
        for wrong in ["", "taken down", "gel\u{f6}scht", "<b>", &"x".repeat(65)] {
            assert!(StatusWord::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
