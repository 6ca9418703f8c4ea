//! Reads DAG-CBOR in place: every item is a view into the input.
//!
//! The reader refuses what DAG-CBOR forbids in a single item: indefinite lengths, heads that are
//! longer than necessary, tags other than 42, half and single precision floats, and simple values
//! other than the booleans and null. The reader checks every length against the rest of the input
//! before it returns the length. So an allocation by such a length cannot exceed the input.
//!
//! Spec: <https://ipld.io/specs/codecs/dag-cbor/spec/>, <https://atproto.com/specs/data-model>.

use cid::Cid;

/// The deepest nesting of arrays and maps. The data model recommends 32; real records stay below
/// 20.
pub const MAX_DEPTH: usize = 64;

/// The tag of a CID, the only tag that DAG-CBOR allows.
pub(crate) const CID_TAG: u64 = 42;

/// The multihash code of SHA-256.
const SHA2_256: u64 = 0x12;

// The major types.
const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const SIMPLE: u8 = 7;

/// Bytes that are not the expected DAG-CBOR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault} at byte {offset}")]
pub struct CborError {
    pub fault: CborFault,
    /// The start of the faulty item, in bytes from the start of the input.
    pub offset: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CborFault {
    #[error("map keys out of order or repeated")]
    KeyOrder,
    #[error("a repeated map key")]
    KeyRepeated,
    #[error("a float, which the data model forbids")]
    Float,
    #[error("an item of indefinite length")]
    Indefinite,
    #[error("an integer below the 64-bit range")]
    IntegerRange,
    #[error("an invalid CID")]
    Link,
    #[error("nested deeper than {MAX_DEPTH} levels")]
    Nesting,
    #[error("a head longer than it needs to be")]
    NotMinimal,
    #[error("bytes after the end")]
    Trailing,
    #[error("input ends too early")]
    Truncated,
    #[error("expected {0}")]
    Unexpected(&'static str),
    #[error("a tag or simple value that DAG-CBOR forbids")]
    Unsupported,
    #[error("text that is not UTF-8")]
    Utf8,
}

/// The head of one item, with the content of a string or link. The content of an array or map
/// follows as further items.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Item<'a> {
    /// The number of items that follow.
    Array(usize),
    Bool(bool),
    Bytes(&'a [u8]),
    Float(f64),
    /// The bytes of a CID, unchecked, without the zero that precedes them.
    Link(&'a [u8]),
    /// The number of pairs that follow.
    Map(usize),
    /// The value is `-1 - n`.
    Negative(u64),
    Null,
    /// Not yet checked to be UTF-8.
    Text(&'a [u8]),
    Unsigned(u64),
}

/// A position in a slice of DAG-CBOR.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes have been read.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn item(&mut self) -> Result<Item<'a>, CborError> {
        let start = self.at;
        let (major, argument) = self.head()?;
        Ok(match major {
            UNSIGNED => Item::Unsigned(argument),
            NEGATIVE => Item::Negative(argument),
            BYTES => Item::Bytes(self.take(argument, start)?),
            TEXT => Item::Text(self.take(argument, start)?),
            ARRAY => Item::Array(self.count(argument, 1, start)?),
            MAP => Item::Map(self.count(argument, 2, start)?),
            TAG => self.link(argument, start)?,
            _ => match (self.at - start, argument) {
                (1, 20) => Item::Bool(false),
                (1, 21) => Item::Bool(true),
                (1, 22) => Item::Null,
                (9, bits) => Item::Float(f64::from_bits(bits)),
                _ => return Err(fault(CborFault::Unsupported, start)),
            },
        })
    }

    /// Reads the head of a map of a block. The caller then reads the keys one by one, which must be
    /// in canonical order.
    pub(crate) fn map(&mut self) -> Result<MapKeys<'a>, CborError> {
        self.pairs().map(MapKeys::new)
    }

    /// Reads the head of a map and returns the number of pairs that follow.
    pub(crate) fn pairs(&mut self) -> Result<usize, CborError> {
        let start = self.at;
        match self.head()? {
            (MAP, count) => self.count(count, 2, start),
            _ => Err(fault(CborFault::Unexpected("a map"), start)),
        }
    }

    /// Reads the head of an array and returns the number of items that follow.
    pub(crate) fn array(&mut self) -> Result<usize, CborError> {
        let start = self.at;
        match self.head()? {
            (ARRAY, count) => self.count(count, 1, start),
            _ => Err(fault(CborFault::Unexpected("an array"), start)),
        }
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], CborError> {
        let start = self.at;
        match self.item()? {
            Item::Bytes(bytes) => Ok(bytes),
            _ => Err(fault(CborFault::Unexpected("bytes"), start)),
        }
    }

    pub(crate) fn link_to_block(&mut self) -> Result<Cid, CborError> {
        let start = self.at;
        let missing = fault(CborFault::Unexpected("a link"), start);
        self.nullable_link()?.ok_or(missing)
    }

    /// A link, or null.
    pub(crate) fn nullable_link(&mut self) -> Result<Option<Cid>, CborError> {
        let start = self.at;
        match self.item()? {
            Item::Link(bytes) => link(bytes, start).map(Some),
            Item::Null => Ok(None),
            _ => Err(fault(CborFault::Unexpected("a link or null"), start)),
        }
    }

    /// A link of any version, codec and hash, or null.
    pub(crate) fn nullable_opaque_link(&mut self) -> Result<Option<Cid>, CborError> {
        let start = self.at;
        match self.item()? {
            Item::Link(mut bytes) => match Cid::read_bytes(&mut bytes) {
                Ok(cid) if bytes.is_empty() => Ok(Some(cid)),
                _ => Err(fault(CborFault::Link, start)),
            },
            Item::Null => Ok(None),
            _ => Err(fault(CborFault::Unexpected("a link or null"), start)),
        }
    }

    /// The key of a map, not yet checked to be UTF-8.
    #[inline]
    pub(crate) fn key(&mut self) -> Result<&'a [u8], CborError> {
        let start = self.at;
        match self.head()? {
            (TEXT, length) => self.take(length, start),
            _ => Err(fault(CborFault::Unexpected("a text key"), start)),
        }
    }

    /// A boolean.
    pub(crate) fn flag(&mut self) -> Result<bool, CborError> {
        let start = self.at;
        match self.item()? {
            Item::Bool(flag) => Ok(flag),
            _ => Err(fault(CborFault::Unexpected("a boolean"), start)),
        }
    }

    /// Text, or null.
    pub(crate) fn nullable_text(&mut self) -> Result<Option<&'a str>, CborError> {
        let start = self.at;
        match self.item()? {
            Item::Text(bytes) => utf8(bytes, start).map(Some),
            Item::Null => Ok(None),
            _ => Err(fault(CborFault::Unexpected("text or null"), start)),
        }
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, CborError> {
        let start = self.at;
        match self.head()? {
            (TEXT, length) => utf8(self.take(length, start)?, start),
            _ => Err(fault(CborFault::Unexpected("text"), start)),
        }
    }

    pub(crate) fn unsigned(&mut self) -> Result<u64, CborError> {
        let start = self.at;
        match self.head()? {
            (UNSIGNED, value) => Ok(value),
            _ => Err(fault(CborFault::Unexpected("an unsigned integer"), start)),
        }
    }

    pub(crate) fn signed(&mut self) -> Result<i64, CborError> {
        let start = self.at;
        let item = self.item()?;
        signed(item).ok_or(fault(CborFault::Unexpected("a 64-bit integer"), start))
    }

    /// Moves past `expected`, if it is next.
    #[inline]
    pub(crate) fn pass<const N: usize>(&mut self, expected: &[u8; N]) -> Option<()> {
        let found = self.bytes.get(self.at..)?.first_chunk()?;
        (found == expected).then(|| self.at += N)
    }

    /// Moves past `count` bytes.
    #[inline]
    pub(crate) fn pass_bytes(&mut self, count: usize) -> Option<()> {
        let end = self.at.checked_add(count)?;
        (end <= self.bytes.len()).then(|| self.at = end)
    }

    /// Moves past a text, which may be no UTF-8.
    #[inline]
    pub(crate) fn pass_text(&mut self) -> Option<()> {
        self.key().ok().map(drop)
    }

    /// Skips one value of any type. It checks the heads, but not the order of keys, the text or the
    /// links.
    pub(crate) fn skip(&mut self) -> Result<(), CborError> {
        let mut pending = self.skip_head()?;
        if pending == 0 {
            return Ok(());
        }
        let mut outer = [0_usize; MAX_DEPTH];
        let mut depth = 0;
        loop {
            while pending == 0 {
                if depth == 0 {
                    return Ok(());
                }
                depth -= 1;
                pending = outer[depth];
            }
            pending -= 1;
            let start = self.at;
            let within = self.skip_head()?;
            if within > 0 {
                let Some(slot) = outer.get_mut(depth) else {
                    return Err(fault(CborFault::Nesting, start));
                };
                *slot = pending;
                depth += 1;
                pending = within;
            }
        }
    }

    /// Skips the head of one item, and the content of a string or link. Returns the number of items
    /// that follow and belong to it.
    #[inline]
    fn skip_head(&mut self) -> Result<usize, CborError> {
        let start = self.at;
        match self.head()? {
            (UNSIGNED | NEGATIVE, _) => Ok(0),
            (BYTES | TEXT, length) => self.take(length, start).map(|_| 0),
            (ARRAY, count) => self.count(count, 1, start),
            (MAP, count) => Ok(self.count(count, 2, start)? * 2),
            _ => {
                self.at = start;
                self.item().map(|_| 0)
            }
        }
    }

    pub(crate) fn end(&self) -> Result<(), CborError> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(fault(CborFault::Trailing, self.at))
        }
    }

    /// The major type and the argument of the next head.
    #[inline]
    fn head(&mut self) -> Result<(u8, u64), CborError> {
        let start = self.at;
        let Some(&initial) = self.bytes.get(start) else {
            return Err(fault(CborFault::Truncated, start));
        };
        let (major, info) = (initial >> 5, initial & 0x1f);
        self.at += 1;
        if info < 24 {
            return Ok((major, u64::from(info)));
        }
        let (argument, smallest) = match info {
            24 => (u64::from(u8::from_be_bytes(self.array_of(start)?)), 24),
            25 => (u64::from(u16::from_be_bytes(self.array_of(start)?)), 1 << 8),
            26 => (
                u64::from(u32::from_be_bytes(self.array_of(start)?)),
                1 << 16,
            ),
            27 => (u64::from_be_bytes(self.array_of(start)?), 1 << 32),
            31 => return Err(fault(CborFault::Indefinite, start)),
            _ => return Err(fault(CborFault::Unsupported, start)),
        };
        // Major type 7 holds the bits of a float, or a simple value that is refused later.
        if argument < smallest && major != SIMPLE {
            return Err(fault(CborFault::NotMinimal, start));
        }
        Ok((major, argument))
    }

    #[inline]
    fn array_of<const N: usize>(&mut self, start: usize) -> Result<[u8; N], CborError> {
        let Some(array) = self.bytes[self.at..].first_chunk() else {
            return Err(fault(CborFault::Truncated, start));
        };
        self.at += N;
        Ok(*array)
    }

    #[inline]
    fn take(&mut self, length: u64, start: usize) -> Result<&'a [u8], CborError> {
        let rest = &self.bytes[self.at..];
        match usize::try_from(length) {
            Ok(length) if length <= rest.len() => {
                self.at += length;
                Ok(&rest[..length])
            }
            _ => Err(fault(CborFault::Truncated, start)),
        }
    }

    /// The number of entries of a container, each of which takes at least `smallest` bytes.
    fn count(&self, count: u64, smallest: usize, start: usize) -> Result<usize, CborError> {
        let room = (self.bytes.len() - self.at) / smallest;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= room)
            .ok_or(fault(CborFault::Truncated, start))
    }

    fn link(&mut self, tag: u64, start: usize) -> Result<Item<'a>, CborError> {
        if tag != CID_TAG {
            return Err(fault(CborFault::Unsupported, start));
        }
        match self.item_behind_tag()? {
            Item::Bytes([0, cid @ ..]) => Ok(Item::Link(cid)),
            _ => Err(fault(CborFault::Link, start)),
        }
    }

    /// The item after a tag. A second tag is refused here, so tags cannot recurse.
    fn item_behind_tag(&mut self) -> Result<Item<'a>, CborError> {
        let start = self.at;
        match self.bytes.get(start) {
            Some(initial) if initial >> 5 == 2 => self.item(),
            Some(_) => Err(fault(CborFault::Link, start)),
            None => Err(fault(CborFault::Truncated, start)),
        }
    }
}

/// Reads the keys of a map and requires canonical order: shorter keys first, then bytewise.
#[derive(Debug)]
pub(crate) struct MapKeys<'a> {
    remaining: usize,
    previous: Option<&'a [u8]>,
}

impl<'a> MapKeys<'a> {
    pub(crate) fn new(remaining: usize) -> Self {
        Self {
            remaining,
            previous: None,
        }
    }

    /// The next key, not yet checked to be UTF-8, or `None` at the end of the map. The caller must
    /// read or skip the value before the next call.
    pub(crate) fn next(&mut self, reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, CborError> {
        if self.remaining == 0 {
            return Ok(None);
        }
        self.remaining -= 1;
        let start = reader.position();
        let key = reader.key()?;
        if let Some(previous) = self.previous
            && (previous.len(), previous) >= (key.len(), key)
        {
            return Err(fault(CborFault::KeyOrder, start));
        }
        self.previous = Some(key);
        Ok(Some(key))
    }
}

/// Checks that `bytes` are exactly one value of the data model: strict DAG-CBOR without floats.
pub(crate) fn check(bytes: &[u8]) -> Result<(), CborError> {
    let mut reader = Reader::new(bytes);
    check_value(&mut reader, 0)?;
    reader.end()
}

fn check_value(reader: &mut Reader<'_>, depth: usize) -> Result<(), CborError> {
    let start = reader.position();
    match reader.item()? {
        Item::Array(_) | Item::Map(_) if depth == MAX_DEPTH => {
            Err(fault(CborFault::Nesting, start))
        }
        Item::Array(count) => {
            for _ in 0..count {
                check_value(reader, depth + 1)?;
            }
            Ok(())
        }
        Item::Map(count) => {
            let mut keys = MapKeys::new(count);
            let mut key_start = reader.position();
            while let Some(key) = keys.next(reader)? {
                utf8(key, key_start)?;
                check_value(reader, depth + 1)?;
                key_start = reader.position();
            }
            Ok(())
        }
        Item::Float(_) => Err(fault(CborFault::Float, start)),
        Item::Link(bytes) => link(bytes, start).map(drop),
        Item::Text(bytes) => utf8(bytes, start).map(drop),
        Item::Negative(n) if i64::try_from(n).is_err() => {
            Err(fault(CborFault::IntegerRange, start))
        }
        Item::Bool(_) | Item::Bytes(_) | Item::Negative(_) | Item::Null | Item::Unsigned(_) => {
            Ok(())
        }
    }
}

/// Reads the CID of a link: version 1, with no bytes after it. Any codec and hash are accepted,
/// because blobs may use others. A SHA-256 must have its full length.
pub(crate) fn link(bytes: &[u8], offset: usize) -> Result<Cid, CborError> {
    let mut rest = bytes;
    let cid = Cid::read_bytes(&mut rest).map_err(|_| fault(CborFault::Link, offset))?;
    let is_cut = cid.hash().code() == SHA2_256 && cid.hash().size() != 32;
    if rest.is_empty() && cid.version() == cid::Version::V1 && !is_cut {
        Ok(cid)
    } else {
        Err(fault(CborFault::Link, offset))
    }
}

pub(crate) fn utf8(bytes: &[u8], offset: usize) -> Result<&str, CborError> {
    std::str::from_utf8(bytes).map_err(|_| fault(CborFault::Utf8, offset))
}

pub(crate) fn fault(fault: CborFault, offset: usize) -> CborError {
    CborError { fault, offset }
}

fn signed(item: Item<'_>) -> Option<i64> {
    match item {
        Item::Unsigned(value) => i64::try_from(value).ok(),
        Item::Negative(value) => i64::try_from(value).ok().map(|value| -1 - value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(bytes: &[u8]) -> Result<(), CborFault> {
        let mut reader = Reader::new(bytes);
        reader
            .skip()
            .and_then(|()| reader.end())
            .map_err(|error| error.fault)
    }

    #[test]
    fn skip_stops_at_the_end_of_the_value() {
        assert_eq!(skip(&[0x82, 0x01, 0xa1, 0x61, b'a', 0x80]), Ok(()));
        assert_eq!(skip(&[0x81, 0x01, 0x02]), Err(CborFault::Trailing));
        assert_eq!(
            skip(&[0xfb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]),
            Ok(()),
            "a float is skipped"
        );
    }

    #[test]
    fn a_length_beyond_the_input_is_refused_before_anything_is_read() {
        let huge = [0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(skip(&huge), Err(CborFault::Truncated));
        assert_eq!(skip(&[0x58, 0x20, 0x00]), Err(CborFault::Truncated));
        assert_eq!(
            skip(&[0xa2, 0x61, b'a', 0x01]),
            Err(CborFault::Truncated),
            "two pairs need four bytes"
        );
    }

    #[test]
    fn indefinite_lengths_and_foreign_tags_are_refused() {
        assert_eq!(skip(&[0x9f, 0xff]), Err(CborFault::Indefinite));
        assert_eq!(skip(&[0xc0, 0x00]), Err(CborFault::Unsupported));
        assert_eq!(skip(&[0xf9, 0x3e, 0x00]), Err(CborFault::Unsupported));
        assert_eq!(skip(&[0x1c]), Err(CborFault::Unsupported));
    }

    #[test]
    fn nesting_is_capped_however_long_the_input() {
        let mut deep = vec![0x81; 1_000_000];
        deep.push(0x00);
        assert_eq!(skip(&deep), Err(CborFault::Nesting));
        assert_eq!(check(&deep).unwrap_err().fault, CborFault::Nesting);

        let mut allowed = vec![0x81; MAX_DEPTH];
        allowed.push(0x00);
        assert_eq!(skip(&allowed), Ok(()));
        assert_eq!(check(&allowed), Ok(()));
    }

    #[test]
    fn a_million_tags_do_not_recurse() {
        let tags: Vec<u8> = [0xd8, 0x2a].repeat(1_000_000);
        assert_eq!(skip(&tags), Err(CborFault::Link));
    }

    #[test]
    fn an_error_names_its_offset() {
        let error = check(&[0x82, 0x01, 0xfb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a float, which the data model forbids at byte 2"
        );
    }
}
