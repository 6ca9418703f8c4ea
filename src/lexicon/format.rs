//! The string formats of Lexicon: <https://atproto.com/specs/lexicon#string-formats>.

use serde::Deserialize;

use crate::atproto::datetime;
use crate::atproto::syntax;

/// The longest at-uri or URI, in bytes.
const MAX_URI_LENGTH: usize = 8192;
const MAX_LANGUAGE_LENGTH: usize = 128;

/// A format that a string must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    AtIdentifier,
    AtUri,
    Cid,
    Datetime,
    Did,
    Handle,
    Language,
    Nsid,
    RecordKey,
    Tid,
    Uri,
}

impl Format {
    /// Whether `text` has this format. Checks the syntax only.
    pub fn accepts(self, text: &str) -> bool {
        match self {
            Self::AtIdentifier => is_at_identifier(text),
            Self::AtUri => is_at_uri(text),
            Self::Cid => is_cid(text),
            Self::Datetime => datetime::parse_utc(text).is_some(),
            Self::Did => syntax::is_did(text),
            Self::Handle => syntax::is_handle(text),
            Self::Language => is_language(text),
            Self::Nsid => syntax::is_nsid(text),
            Self::RecordKey => syntax::is_record_key(text),
            Self::Tid => syntax::is_tid(text),
            Self::Uri => is_uri(text),
        }
    }

    /// The name of the format in a lexicon document.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AtIdentifier => "at-identifier",
            Self::AtUri => "at-uri",
            Self::Cid => "cid",
            Self::Datetime => "datetime",
            Self::Did => "did",
            Self::Handle => "handle",
            Self::Language => "language",
            Self::Nsid => "nsid",
            Self::RecordKey => "record-key",
            Self::Tid => "tid",
            Self::Uri => "uri",
        }
    }
}

fn is_at_identifier(text: &str) -> bool {
    syntax::is_did(text) || syntax::is_handle(text)
}

/// `at://authority`, `at://authority/collection` or `at://authority/collection/rkey`.
fn is_at_uri(text: &str) -> bool {
    let Some(path) = text.strip_prefix("at://") else {
        return false;
    };
    let mut parts = path.splitn(3, '/');
    text.len() <= MAX_URI_LENGTH
        && parts.next().is_some_and(is_at_identifier)
        && parts.next().is_none_or(syntax::is_nsid)
        && parts.next().is_none_or(syntax::is_record_key)
}

/// A CID as text in any multibase. As in the specification, only the alphabet and the length are
/// checked. Version 0 (base58 without a multibase prefix) is not supported.
fn is_cid(text: &str) -> bool {
    (8..=256).contains(&text.len())
        && !text.starts_with("Qmb")
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'='))
}

/// A language tag of BCP 47. Checks the form of the subtags and that none is repeated; does not
/// check their order or their registration.
fn is_language(text: &str) -> bool {
    let is_subtag = |subtag: &&str| {
        (1..=8).contains(&subtag.len()) && subtag.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    if text.len() > MAX_LANGUAGE_LENGTH || !text.split('-').all(|subtag| is_subtag(&subtag)) {
        return false;
    }
    // The subtags after an `x` are private. They have no rules, but there must be at least one.
    let tag = text.to_ascii_lowercase();
    if tag.starts_with("x-") {
        return true;
    }
    let public = tag.split_once("-x-").map_or(&*tag, |(public, _)| public);
    let primary = text.split('-').next().unwrap_or_default();
    let is_primary = primary == "i"
        || (matches!(primary.len(), 2 | 3) && primary.bytes().all(|b| b.is_ascii_lowercase()));
    is_primary && has_distinct_subtags(public)
}

/// Whether no variant and no extension singleton of the lowercase tag `public` is repeated, and a
/// subtag follows each singleton.
fn has_distinct_subtags(public: &str) -> bool {
    let mut variants = Vec::new();
    let mut singletons = Vec::new();
    for subtag in public.split('-').skip(1) {
        let is_variant = subtag.len() >= 5
            || (subtag.len() == 4 && subtag.starts_with(|c: char| c.is_ascii_digit()));
        let seen = match subtag.len() {
            1 => &mut singletons,
            _ if is_variant && singletons.is_empty() => &mut variants,
            _ => continue,
        };
        if seen.contains(&subtag) {
            return false;
        }
        seen.push(subtag);
    }
    let last = public.rsplit('-').next().unwrap_or_default();
    last.len() > 1 || singletons.is_empty()
}

/// `scheme:rest`. Checks the alphabet of the scheme, and that the rest has no blank or invisible
/// characters.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    text.len() <= MAX_URI_LENGTH
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
        && !rest.is_empty()
        && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_subtags_of_a_language_tag_may_not_be_empty() {
        for tag in ["x-a", "de-x-a", "de-x-x-x", "en-a-bcd-x-a-a", "i-navajo"] {
            assert!(Format::Language.accepts(tag), "{tag}");
        }
        for tag in [
            "x",
            "de-x",
            "de-a-foo-x",
            "en-a",
            "de--de",
            "",
            "ninecharss",
        ] {
            assert!(!Format::Language.accepts(tag), "{tag}");
        }
    }

    #[test]
    fn the_name_of_a_format_is_the_same_in_documents_and_messages() {
        for name in [
            "at-identifier",
            "at-uri",
            "cid",
            "datetime",
            "did",
            "handle",
            "language",
            "nsid",
            "record-key",
            "tid",
            "uri",
        ] {
            let format: Format = serde_json::from_value(name.into()).unwrap();
            assert_eq!(format.as_str(), name);
        }
    }
}
