//! A value of the data model, read in place from its DAG-CBOR.
//!
//! Nothing is decoded before it is asked for, and nothing is allocated. A field of a map is searched
//! for among the keys before it.

use super::cbor::{Item, Reader};

/// A value at the beginning of `bytes`. What follows it there does not belong to it.
///
/// The bytes must have been checked as a whole before, as
/// [`json_length`](super::json::json_length) does. A value that cannot be read is like one of another
/// type.
#[derive(Clone, Copy, Debug)]
pub struct CborValue<'a> {
    bytes: &'a [u8],
}

/// The items of an array.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    bytes: &'a [u8],
    remaining: usize,
}

impl<'a> CborValue<'a> {
    pub fn of(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn item(self) -> Option<Item<'a>> {
        Reader::new(self.bytes).item().ok()
    }

    pub fn as_str(self) -> Option<&'a str> {
        match self.item()? {
            Item::Text(text) => str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// The value of `key`, if this is a map that has it.
    pub fn get(self, key: &str) -> Option<Self> {
        let mut reader = Reader::new(self.bytes);
        let key = key.as_bytes();
        for _ in 0..reader.pairs().ok()? {
            let found = reader.key().ok()?;
            if found == key {
                return Some(Self::of(&self.bytes[reader.position()..]));
            }
            // Keys are in canonical order, shorter ones first.
            if (found.len(), found) > (key.len(), key) {
                return None;
            }
            reader.skip().ok()?;
        }
        None
    }

    /// The items, if this is an array.
    pub fn elements(self) -> Option<Elements<'a>> {
        let mut reader = Reader::new(self.bytes);
        let remaining = reader.array().ok()?;
        Some(Elements {
            bytes: &self.bytes[reader.position()..],
            remaining,
        })
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = CborValue<'a>;

    fn next(&mut self) -> Option<CborValue<'a>> {
        self.remaining = self.remaining.checked_sub(1)?;
        let value = CborValue::of(self.bytes);
        let mut reader = Reader::new(self.bytes);
        reader.skip().ok()?;
        self.bytes = &self.bytes[reader.position()..];
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining, Some(self.remaining))
    }
}

impl ExactSizeIterator for Elements<'_> {}

#[cfg(test)]
mod tests {
    use ipld_core::{ipld, ipld::Ipld};

    use super::*;

    fn cbor(value: &Ipld) -> Vec<u8> {
        serde_ipld_dagcbor::to_vec(value).unwrap()
    }

    #[test]
    fn a_field_is_found_behind_any_other() {
        let record = cbor(&ipld!({
            "a": [1, [2, 3], { "x": null }],
            "bb": { "b": "inner" },
            "ccc": "text",
        }));
        let value = CborValue::of(&record);
        assert_eq!(value.get("ccc").unwrap().as_str(), Some("text"));
        let inner = value.get("bb").and_then(|inner| inner.get("b"));
        assert_eq!(inner.unwrap().as_str(), Some("inner"));
        for absent in ["", "b", "aaa", "zzzz"] {
            assert!(value.get(absent).is_none(), "{absent}");
        }
        let elements: Vec<_> = value.get("a").unwrap().elements().unwrap().collect();
        assert_eq!(elements.len(), 3);
        assert_eq!(elements[0].item(), Some(Item::Unsigned(1)));
        assert_eq!(elements[1].elements().unwrap().len(), 2);
        assert!(elements[2].get("x").is_some());
    }

    #[test]
    fn a_value_of_another_type_has_no_fields_and_no_elements() {
        let text = cbor(&Ipld::String("text".to_owned()));
        assert!(CborValue::of(&text).get("a").is_none());
        assert!(CborValue::of(&text).elements().is_none());
        assert!(CborValue::of(&[]).as_str().is_none());
    }
}
