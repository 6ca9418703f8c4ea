//! The JSON form of the data model: links become `{"$link": …}`, bytes `{"$bytes": …}`.
//!
//! The text is written straight from the DAG-CBOR. A tree of JSON values would take up to a hundred
//! times the bytes of a record: an empty byte string is one byte, and as a tree a map of its own.
//!
//! Spec: <https://atproto.com/specs/data-model#representations>.

use data_encoding::BASE64_NOPAD;

use super::cbor::{CborError, CborFault, Item, MAX_DEPTH, MapKeys, Reader, fault, link, utf8};

/// A text of more bytes is long.
const LONG: usize = 1 << 20;

/// The capacity of a long text. The allocator of glibc keeps memory of up to 32 MiB for the thread that
/// freed it, and each thread has its own. More is mapped by itself and given back at once, and what is
/// not written of it takes no memory.
const MAPPED: usize = 33 << 20;

/// How often the bytes of a record its JSON may have: an empty byte string is one byte, and
/// `{"$bytes":""},` has 14.
pub const MOST_JSON_GROWTH: usize = 14;

/// Converts one value of the data model from strict DAG-CBOR to JSON. Map keys keep their order.
///
/// Integers keep 64 bits, signed or unsigned, and text keeps U+0000. A map that itself contains the
/// key `$link` or `$bytes` cannot be distinguished from a link or bytes afterwards; the CBOR stays
/// authoritative.
///
/// # Errors
/// If `cbor` is not exactly one value of canonical DAG-CBOR; if it contains something that the data
/// model or JSON cannot hold (a float, an integer below -2^63, a CID that is not of version 1); or
/// if it nests deeper than [`MAX_DEPTH`].
pub fn dag_cbor_to_json(cbor: &[u8]) -> Result<String, CborError> {
    json_of_length(cbor, json_length(cbor)?)
}

/// Like [`dag_cbor_to_json`], if [`json_length`] was asked before. The text is allocated at once.
///
/// # Errors
/// The same.
pub(crate) fn json_of_length(cbor: &[u8], length: usize) -> Result<String, CborError> {
    json_between("", cbor, length, "")
}

/// The JSON of `cbor`, which has this `length`, with a text before and behind it.
///
/// # Errors
/// The same as [`dag_cbor_to_json`].
pub(crate) fn json_between(
    before: &str,
    cbor: &[u8],
    length: usize,
    behind: &str,
) -> Result<String, CborError> {
    let length = before.len() + length + behind.len();
    let capacity = match length <= LONG {
        true => length,
        false => length.max(MAPPED),
    };
    let mut text = String::with_capacity(capacity);
    text.push_str(before);
    write(cbor, &mut text)?;
    text.push_str(behind);
    Ok(text)
}

/// The length of the JSON that [`dag_cbor_to_json`] would write, in bytes. Takes no memory.
///
/// # Errors
/// The same.
pub fn json_length(cbor: &[u8]) -> Result<usize, CborError> {
    let mut length = Length(0);
    write(cbor, &mut length)?;
    Ok(length.0)
}

/// Receives the pieces of a JSON text.
trait Sink {
    fn text(&mut self, text: &str);
    fn base64(&mut self, bytes: &[u8]);
}

/// Only counts the bytes of the text.
struct Length(usize);

impl Sink for String {
    fn text(&mut self, text: &str) {
        self.push_str(text);
    }

    fn base64(&mut self, bytes: &[u8]) {
        BASE64_NOPAD.encode_append(bytes, self);
    }
}

impl Sink for Length {
    fn text(&mut self, text: &str) {
        self.0 += text.len();
    }

    fn base64(&mut self, bytes: &[u8]) {
        self.0 += BASE64_NOPAD.encode_len(bytes.len());
    }
}

fn write(cbor: &[u8], json: &mut impl Sink) -> Result<(), CborError> {
    let mut reader = Reader::new(cbor);
    write_value(&mut reader, json, 0)?;
    reader.end()
}

fn write_value(
    reader: &mut Reader<'_>,
    json: &mut impl Sink,
    depth: usize,
) -> Result<(), CborError> {
    let start = reader.position();
    match reader.item()? {
        Item::Array(_) | Item::Map(_) if depth == MAX_DEPTH => {
            return Err(fault(CborFault::Nesting, start));
        }
        Item::Array(count) => {
            json.text("[");
            for index in 0..count {
                if index > 0 {
                    json.text(",");
                }
                write_value(reader, json, depth + 1)?;
            }
            json.text("]");
        }
        Item::Bool(true) => json.text("true"),
        Item::Bool(false) => json.text("false"),
        Item::Bytes(bytes) => {
            json.text("{\"$bytes\":\"");
            json.base64(bytes);
            json.text("\"}");
        }
        Item::Float(_) => return Err(fault(CborFault::Float, start)),
        Item::Link(bytes) => {
            json.text("{\"$link\":\"");
            json.text(&link(bytes, start)?.to_string());
            json.text("\"}");
        }
        Item::Map(count) => write_entries(reader, json, count, depth)?,
        Item::Negative(n) => match i64::try_from(n) {
            Ok(n) => json.text(&(-1 - n).to_string()),
            Err(_) => return Err(fault(CborFault::IntegerRange, start)),
        },
        Item::Null => json.text("null"),
        Item::Text(bytes) => write_text(utf8(bytes, start)?, json),
        Item::Unsigned(value) => json.text(&value.to_string()),
    }
    Ok(())
}

fn write_entries(
    reader: &mut Reader<'_>,
    json: &mut impl Sink,
    count: usize,
    depth: usize,
) -> Result<(), CborError> {
    json.text("{");
    let mut keys = MapKeys::new(count);
    let mut key_start = reader.position();
    let mut is_first = true;
    while let Some(key) = keys.next(reader)? {
        if !std::mem::take(&mut is_first) {
            json.text(",");
        }
        write_text(utf8(key, key_start)?, json);
        json.text(":");
        write_value(reader, json, depth + 1)?;
        key_start = reader.position();
    }
    json.text("}");
    Ok(())
}

/// Writes a JSON string. What JSON requires to be escaped is escaped, and nothing else.
fn write_text(text: &str, json: &mut impl Sink) {
    json.text("\"");
    let mut rest = text;
    while let Some(at) = rest.bytes().position(is_escaped) {
        let (plain, escaped) = rest.split_at(at);
        json.text(plain);
        // Every escaped character is one byte long.
        let (escaped, behind) = escaped.split_at(1);
        write_escape(escaped, json);
        rest = behind;
    }
    json.text(rest);
    json.text("\"");
}

fn is_escaped(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..0x20)
}

fn write_escape(character: &str, json: &mut impl Sink) {
    match character {
        "\"" => json.text("\\\""),
        "\\" => json.text("\\\\"),
        "\u{8}" => json.text("\\b"),
        "\u{c}" => json.text("\\f"),
        "\n" => json.text("\\n"),
        "\r" => json.text("\\r"),
        "\t" => json.text("\\t"),
        other => {
            const DIGITS: &str = "0123456789abcdef";
            let byte = usize::from(other.as_bytes().first().copied().unwrap_or_default());
            json.text("\\u00");
            json.text(&DIGITS[byte >> 4..][..1]);
            json.text(&DIGITS[byte & 0xf..][..1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use ipld_core::{cid::Cid, ipld, ipld::Ipld};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::atproto::cbor::check;

    fn cbor(value: &Ipld) -> Vec<u8> {
        serde_ipld_dagcbor::to_vec(value).unwrap()
    }

    /// The value that the JSON of `cbor` stands for.
    fn value_of(cbor: &[u8]) -> Result<Value, CborError> {
        dag_cbor_to_json(cbor).map(|text| serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn links_and_bytes_take_their_json_form() {
        let text = "bafyreiguce4jh7kcbmof3pmcvasifqtw24b6isakj5ve5ga2b4z4alpc4i";
        let cid: Cid = text.parse().unwrap();
        let record = ipld!({ "a": Ipld::Link(cid), "b": Ipld::Bytes(vec![1, 2, 3, 4]) });
        assert_eq!(
            value_of(&cbor(&record)).unwrap(),
            json!({ "a": { "$link": text }, "b": { "$bytes": "AQIDBA" } })
        );
    }

    #[test]
    fn a_nul_is_legal_text() {
        let record = ipld!({ "text": "a\0b" });
        assert_eq!(value_of(&cbor(&record)).unwrap(), json!({ "text": "a\0b" }));
    }

    #[test]
    fn integers_keep_64_bits() {
        for integer in [i128::from(i64::MIN), -1, 0, i128::from(u64::MAX)] {
            let json = dag_cbor_to_json(&cbor(&Ipld::Integer(integer))).unwrap();
            assert_eq!(json, integer.to_string());
        }
        let below = cbor(&Ipld::Integer(i128::from(i64::MIN) - 1));
        assert_eq!(
            dag_cbor_to_json(&below).unwrap_err().fault,
            CborFault::IntegerRange
        );
    }

    #[test]
    fn a_float_is_refused() {
        let error = dag_cbor_to_json(&cbor(&ipld!({ "x": 1.5 }))).unwrap_err();
        assert_eq!(error.fault, CborFault::Float);
    }

    fn any_ipld() -> impl Strategy<Value = Ipld> {
        let leaf = prop_oneof![
            Just(Ipld::Null),
            any::<bool>().prop_map(Ipld::Bool),
            any::<i64>().prop_map(|n| Ipld::Integer(n.into())),
            any::<String>().prop_map(Ipld::String),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Ipld::Bytes),
        ];
        leaf.prop_recursive(5, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Ipld::List),
                prop::collection::btree_map(any::<String>(), inner, 0..6).prop_map(Ipld::Map),
            ]
        })
    }

    /// The same conversion, from the generic value of another decoder.
    fn json_of(value: Ipld) -> Value {
        match value {
            Ipld::Null => Value::Null,
            Ipld::Bool(value) => value.into(),
            Ipld::Integer(value) => i64::try_from(value).unwrap().into(),
            Ipld::Float(value) => value.into(),
            Ipld::String(value) => value.into(),
            Ipld::Bytes(value) => json!({ "$bytes": BASE64_NOPAD.encode(&value) }),
            Ipld::List(values) => values.into_iter().map(json_of).collect(),
            Ipld::Map(entries) => entries
                .into_iter()
                .map(|(key, value)| (key, json_of(value)))
                .collect(),
            Ipld::Link(cid) => json!({ "$link": cid.to_string() }),
        }
    }

    proptest! {
        #[test]
        fn every_value_reads_as_the_generic_decoder_reads_it(value in any_ipld()) {
            let cbor = cbor(&value);
            prop_assert_eq!(check(&cbor), Ok(()));
            prop_assert_eq!(value_of(&cbor), Ok(json_of(value)));
        }

        #[test]
        fn text_is_escaped_like_by_another_writer(text in any::<String>(), control in "[\\x00-\\x22\\\\]*") {
            for text in [text, control] {
                let json = dag_cbor_to_json(&cbor(&Ipld::String(text.clone())));
                prop_assert_eq!(json, Ok(Value::from(text).to_string()));
            }
        }

        #[test]
        fn the_length_is_known_before_the_text_is_written(value in any_ipld()) {
            let cbor = cbor(&value);
            prop_assert_eq!(json_length(&cbor), dag_cbor_to_json(&cbor).map(|text| text.len()));
        }

        #[test]
        fn check_and_conversion_agree(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(check(&bytes), dag_cbor_to_json(&bytes).map(drop));
        }
    }
}
