//! Reads the keys of the maps of an envelope: the header of a frame, its payload and a commit's
//! operations.
//!
//! Nothing of an envelope is hashed or signed, so its keys may be in any order. The blocks of a
//! repository must have theirs in canonical order ([`Reader::map`]). A repeated key is refused in
//! both: readers would disagree on its value.

use std::collections::BTreeSet;

use super::cbor::{CborError, CborFault, Reader, fault};

/// The keys of one map. Nothing is allocated while they are in canonical order.
#[derive(Debug)]
pub(crate) struct EnvelopeKeys<'a> {
    /// At the first key.
    start: Reader<'a>,
    read: usize,
    remaining: usize,
    previous: Option<&'a [u8]>,
    /// The keys so far, if they are not in canonical order.
    seen: Option<BTreeSet<&'a [u8]>>,
}

impl<'a> EnvelopeKeys<'a> {
    /// Reads the head of a map.
    pub(crate) fn of(reader: &mut Reader<'a>) -> Result<Self, CborError> {
        let remaining = reader.pairs()?;
        Ok(Self {
            start: reader.clone(),
            read: 0,
            remaining,
            previous: None,
            seen: None,
        })
    }

    /// The next key, not yet checked to be UTF-8, or `None` at the end of the map. The caller must
    /// read or skip the value before the next call.
    #[inline]
    pub(crate) fn next(&mut self, reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, CborError> {
        if self.remaining == 0 {
            return Ok(None);
        }
        self.remaining -= 1;
        let start = reader.position();
        let key = reader.key()?;
        let is_in_order = self
            .previous
            .is_none_or(|previous| (previous.len(), previous) < (key.len(), key));
        if (self.seen.is_some() || !is_in_order) && !self.note(key)? {
            return Err(fault(CborFault::KeyRepeated, start));
        }
        self.previous = Some(key);
        self.read += 1;
        Ok(Some(key))
    }

    /// Notes a key of a map that is not in canonical order. Returns whether it is new.
    #[cold]
    fn note(&mut self, key: &'a [u8]) -> Result<bool, CborError> {
        let mut seen = match self.seen.take() {
            Some(seen) => seen,
            None => self.keys_so_far()?,
        };
        let is_new = seen.insert(key);
        self.seen = Some(seen);
        Ok(is_new)
    }

    fn keys_so_far(&self) -> Result<BTreeSet<&'a [u8]>, CborError> {
        let mut reader = self.start.clone();
        let mut keys = BTreeSet::new();
        for _ in 0..self.read {
            keys.insert(reader.key()?);
            reader.skip()?;
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys of a map from each of `keys` to 1, or the fault.
    fn keys(keys: &[&str]) -> Result<Vec<String>, CborFault> {
        let mut bytes = vec![0xa0 + keys.len() as u8];
        for key in keys {
            bytes.push(0x60 + key.len() as u8);
            bytes.extend(key.as_bytes());
            bytes.push(1);
        }
        let mut reader = Reader::new(&bytes);
        let mut map = EnvelopeKeys::of(&mut reader).unwrap();
        let mut found = Vec::new();
        while let Some(key) = map.next(&mut reader).map_err(|error| error.fault)? {
            found.push(String::from_utf8(key.to_vec()).unwrap());
            reader.unsigned().unwrap();
        }
        Ok(found)
    }

    #[test]
    fn keys_are_read_in_any_order() {
        for order in [["a", "b", "aa"], ["aa", "b", "a"], ["b", "aa", "a"]] {
            assert_eq!(keys(&order).unwrap(), order);
        }
    }

    #[test]
    fn a_repeated_key_is_refused_wherever_it_comes_again() {
        for order in [
            ["a", "a", "b"].as_slice(),
            &["a", "b", "a"],
            &["b", "a", "b"],
            &["b", "a", "c", "a"],
            &["a", "bb", "c", "bb"],
        ] {
            assert_eq!(keys(order), Err(CborFault::KeyRepeated), "{order:?}");
        }
    }
}
