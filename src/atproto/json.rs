//! The JSON form of the data model: links become `{"$link": …}`, bytes `{"$bytes": …}`.
//!
//! Spec: <https://atproto.com/specs/data-model#representations>.

use data_encoding::BASE64_NOPAD;
use serde_json::{Map, Value, json};

use super::cbor::{CborError, CborFault, Item, MAX_DEPTH, MapKeys, Reader, fault, link, utf8};

/// Converts one value of the data model from strict DAG-CBOR to JSON.
///
/// Integers keep 64 bits, signed or unsigned, and text keeps U+0000. A map that itself contains the
/// key `$link` or `$bytes` cannot be distinguished from a link or bytes afterwards; the CBOR stays
/// authoritative.
///
/// # Errors
/// If `cbor` is not exactly one value of canonical DAG-CBOR; if it contains something that the data
/// model or JSON cannot hold (a float, an integer below -2^63, a CID that is not of version 1); or
/// if it nests deeper than [`MAX_DEPTH`].
pub fn dag_cbor_to_json(cbor: &[u8]) -> Result<Value, CborError> {
    let mut reader = Reader::new(cbor);
    let value = read_value(&mut reader, 0)?;
    reader.end()?;
    Ok(value)
}

fn read_value(reader: &mut Reader<'_>, depth: usize) -> Result<Value, CborError> {
    let start = reader.position();
    Ok(match reader.item()? {
        Item::Array(_) | Item::Map(_) if depth == MAX_DEPTH => {
            return Err(fault(CborFault::Nesting, start));
        }
        Item::Array(count) => Value::Array(
            (0..count)
                .map(|_| read_value(reader, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        Item::Bool(value) => Value::Bool(value),
        Item::Bytes(bytes) => json!({ "$bytes": BASE64_NOPAD.encode(bytes) }),
        Item::Float(_) => return Err(fault(CborFault::Float, start)),
        Item::Link(bytes) => json!({ "$link": link(bytes, start)?.to_string() }),
        Item::Map(count) => Value::Object(read_entries(reader, count, depth)?),
        Item::Negative(n) => match i64::try_from(n) {
            Ok(n) => Value::from(-1 - n),
            Err(_) => return Err(fault(CborFault::IntegerRange, start)),
        },
        Item::Null => Value::Null,
        Item::Text(bytes) => Value::String(utf8(bytes, start)?.to_owned()),
        Item::Unsigned(value) => Value::from(value),
    })
}

fn read_entries(
    reader: &mut Reader<'_>,
    count: usize,
    depth: usize,
) -> Result<Map<String, Value>, CborError> {
    let mut entries = Map::new();
    let mut keys = MapKeys::new(count);
    let mut key_start = reader.position();
    while let Some(key) = keys.next(reader)? {
        let key = utf8(key, key_start)?.to_owned();
        entries.insert(key, read_value(reader, depth + 1)?);
        key_start = reader.position();
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use ipld_core::{cid::Cid, ipld, ipld::Ipld};
    use proptest::prelude::*;

    use super::*;
    use crate::atproto::cbor::check;

    fn cbor(value: &Ipld) -> Vec<u8> {
        serde_ipld_dagcbor::to_vec(value).unwrap()
    }

    #[test]
    fn links_and_bytes_take_their_json_form() {
        let text = "bafyreiguce4jh7kcbmof3pmcvasifqtw24b6isakj5ve5ga2b4z4alpc4i";
        let cid: Cid = text.parse().unwrap();
        let record = ipld!({ "a": Ipld::Link(cid), "b": Ipld::Bytes(vec![1, 2, 3, 4]) });
        assert_eq!(
            dag_cbor_to_json(&cbor(&record)).unwrap(),
            json!({ "a": { "$link": text }, "b": { "$bytes": "AQIDBA" } })
        );
    }

    #[test]
    fn a_nul_is_legal_text() {
        let record = ipld!({ "text": "a\0b" });
        assert_eq!(
            dag_cbor_to_json(&cbor(&record)).unwrap(),
            json!({ "text": "a\0b" })
        );
    }

    #[test]
    fn integers_keep_64_bits() {
        for integer in [i128::from(i64::MIN), -1, 0, i128::from(u64::MAX)] {
            let value = dag_cbor_to_json(&cbor(&Ipld::Integer(integer))).unwrap();
            assert_eq!(value.to_string(), integer.to_string());
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
            prop_assert_eq!(dag_cbor_to_json(&cbor), Ok(json_of(value)));
        }

        #[test]
        fn check_and_conversion_agree(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(check(&bytes), dag_cbor_to_json(&bytes).map(drop));
        }
    }
}
