//! The protocol's data model, as JSON and as DAG-CBOR: maps, links, byte strings and blobs.
//! <https://atproto.com/specs/data-model>

use serde_json::Value;

use super::format::Format;
use crate::atproto::cbor::Item;
use crate::atproto::cbor_value::CborValue;

/// A value of the data model that is validated and projected. Records are read in place from their
/// DAG-CBOR, because a tree of JSON values could take a hundred times their bytes.
pub trait DataValue<'a>: Copy {
    fn is_null(self) -> bool;
    fn as_bool(self) -> Option<bool>;
    /// An integer, if it has 64 bits with a sign.
    fn as_i64(self) -> Option<i64>;
    fn as_u64(self) -> Option<u64>;
    fn as_str(self) -> Option<&'a str>;
    fn elements(self) -> Option<impl ExactSizeIterator<Item = Self>>;
    /// The number of fields of a map; `None` if it is another type.
    fn field_count(self) -> Option<usize>;
    /// The value of a field, if this is a map that has it.
    fn get(self, field: &str) -> Option<Self>;

    fn is_map(self) -> bool {
        self.field_count().is_some()
    }

    /// Whether this is a map, and no JSON object that stands for a link, bytes or a blob.
    fn is_plain_map(self) -> bool {
        let has = |field| self.get(field).is_some();
        self.is_map() && !has("$link") && !has("$bytes") && !is_typed_blob(self)
    }

    fn is_link(self) -> bool {
        single_entry(self, "$link").is_some_and(|cid| Format::Cid.accepts(cid))
    }

    /// The length of a byte string; `None` if it is another type.
    fn byte_length(self) -> Option<usize> {
        single_entry(self, "$bytes").and_then(base64_length)
    }
}

impl<'a> DataValue<'a> for &'a Value {
    fn is_null(self) -> bool {
        Value::is_null(self)
    }

    fn as_bool(self) -> Option<bool> {
        Value::as_bool(self)
    }

    fn as_i64(self) -> Option<i64> {
        Value::as_i64(self)
    }

    fn as_u64(self) -> Option<u64> {
        Value::as_u64(self)
    }

    fn as_str(self) -> Option<&'a str> {
        Value::as_str(self)
    }

    fn elements(self) -> Option<impl ExactSizeIterator<Item = Self>> {
        self.as_array().map(|elements| elements.iter())
    }

    fn field_count(self) -> Option<usize> {
        self.as_object().map(serde_json::Map::len)
    }

    fn get(self, field: &str) -> Option<Self> {
        self.as_object().and_then(|object| object.get(field))
    }
}

impl<'a> DataValue<'a> for CborValue<'a> {
    fn is_null(self) -> bool {
        self.item() == Some(Item::Null)
    }

    fn as_bool(self) -> Option<bool> {
        match self.item()? {
            Item::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    fn as_i64(self) -> Option<i64> {
        match self.item()? {
            Item::Unsigned(value) => i64::try_from(value).ok(),
            Item::Negative(value) => i64::try_from(value).ok().map(|value| -1 - value),
            _ => None,
        }
    }

    fn as_u64(self) -> Option<u64> {
        match self.item()? {
            Item::Unsigned(value) => Some(value),
            _ => None,
        }
    }

    fn as_str(self) -> Option<&'a str> {
        CborValue::as_str(self)
    }

    fn elements(self) -> Option<impl ExactSizeIterator<Item = Self>> {
        CborValue::elements(self)
    }

    fn field_count(self) -> Option<usize> {
        match self.item()? {
            Item::Map(count) => Some(count),
            _ => None,
        }
    }

    fn get(self, field: &str) -> Option<Self> {
        CborValue::get(self, field)
    }

    fn is_link(self) -> bool {
        match self.item() {
            Some(Item::Link(_)) => true,
            _ => single_entry(self, "$link").is_some_and(|cid| Format::Cid.accepts(cid)),
        }
    }

    fn byte_length(self) -> Option<usize> {
        match self.item()? {
            Item::Bytes(bytes) => Some(bytes.len()),
            _ => single_entry(self, "$bytes").and_then(base64_length),
        }
    }
}

/// A reference to a blob.
pub(super) struct Blob<'a> {
    pub(super) mime_type: &'a str,
    /// In bytes; `None` in the legacy form, which has no size.
    pub(super) size: Option<u64>,
}

impl<'a> Blob<'a> {
    pub(super) fn read(value: impl DataValue<'a>) -> Option<Self> {
        let mime_type = value
            .get("mimeType")?
            .as_str()
            .filter(|text| !text.is_empty())?;
        if is_typed_blob(value) {
            let size = value.get("size")?.as_u64()?;
            return value.get("ref")?.is_link().then_some(Self {
                mime_type,
                size: Some(size),
            });
        }
        let is_legacy =
            value.field_count() == Some(2) && Format::Cid.accepts(value.get("cid")?.as_str()?);
        is_legacy.then_some(Self {
            mime_type,
            size: None,
        })
    }
}

fn is_typed_blob<'a>(value: impl DataValue<'a>) -> bool {
    value.get("$type").and_then(DataValue::as_str) == Some("blob")
}

/// The text at `key`, if `value` is a map with only this key.
fn single_entry<'a>(value: impl DataValue<'a>, key: &str) -> Option<&'a str> {
    let is_single = value.field_count() == Some(1);
    value.get(key).filter(|_| is_single)?.as_str()
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
