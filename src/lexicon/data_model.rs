//! The JSON forms of the protocol's data model: maps, links, byte strings and blobs.
//! <https://atproto.com/specs/data-model>

use serde_json::{Map, Value};

use super::format::Format;

/// A reference to a blob.
pub(super) struct Blob<'a> {
    pub(super) mime_type: &'a str,
    /// In bytes; `None` in the legacy form, which has no size.
    pub(super) size: Option<u64>,
}

impl<'a> Blob<'a> {
    pub(super) fn read(value: &'a Value) -> Option<Self> {
        let object = value.as_object()?;
        let mime_type = object
            .get("mimeType")?
            .as_str()
            .filter(|text| !text.is_empty())?;
        if is_typed_blob(object) {
            let size = object.get("size")?.as_u64()?;
            return is_link(object.get("ref")?).then_some(Self {
                mime_type,
                size: Some(size),
            });
        }
        let is_legacy = object.len() == 2 && Format::Cid.accepts(object.get("cid")?.as_str()?);
        is_legacy.then_some(Self {
            mime_type,
            size: None,
        })
    }
}

/// The map in `value`; `None` if `value` is another type, or a JSON object that stands for a link,
/// bytes or a blob.
pub(super) fn plain_object(value: &Value) -> Option<&Map<String, Value>> {
    let is_special = |object: &Map<String, Value>| {
        object.contains_key("$link") || object.contains_key("$bytes") || is_typed_blob(object)
    };
    value.as_object().filter(|object| !is_special(object))
}

fn is_typed_blob(object: &Map<String, Value>) -> bool {
    object.get("$type").and_then(Value::as_str) == Some("blob")
}

pub(super) fn is_link(value: &Value) -> bool {
    single_entry(value, "$link").is_some_and(|cid| Format::Cid.accepts(cid))
}

/// The length of the byte string `value`; `None` if it is not a byte string.
pub(super) fn byte_length(value: &Value) -> Option<usize> {
    single_entry(value, "$bytes").and_then(base64_length)
}

/// The text at `key`, if `value` is an object with only this key.
fn single_entry<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value
        .as_object()
        .filter(|object| object.len() == 1)?
        .get(key)?
        .as_str()
}

/// The number of bytes that base64 `text` stands for, with or without padding.
fn base64_length(text: &str) -> Option<usize> {
    let digits = text.trim_end_matches('=');
    let is_base64 = text.len() - digits.len() <= 2
        && digits.len() % 4 != 1
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'));
    is_base64.then_some(digits.len() * 3 / 4)
}
