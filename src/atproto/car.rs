//! Reads the CAR file of a commit and keeps the blocks in it.
//!
//! iroh-car does the parsing. iroh-car allocates as many bytes as a length field announces, so
//! every length is first checked against the size of the slice. iroh-car is asynchronous, but a
//! read from a slice never waits.
//!
//! Spec: <https://ipld.io/specs/transport/car/carv1/>, <https://atproto.com/specs/repository>.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use cid::Cid;
use cid::multihash::Multihash;
use futures_util::FutureExt;
use iroh_car::CarReader;
use sha2::{Digest, Sha256};

use super::cbor::{self, CborError};

/// The multicodec of DAG-CBOR.
const DAG_CBOR: u64 = 0x71;
/// The multihash code of SHA-256.
const SHA2_256: u64 = 0x12;
/// The most bytes of a section's length field: ten groups of seven bits hold 64 bits.
const MAX_VARINT: usize = 10;

/// Bytes that are not a CAR file of version 1 with at least one root.
#[derive(Debug, thiserror::Error)]
pub enum CarError {
    #[error("CAR header: {0}")]
    Header(#[from] CborError),
    #[error("CAR is cut short at byte {offset}")]
    Truncated { offset: usize },
    #[error("CAR: {0}")]
    Unreadable(#[from] iroh_car::Error),
    /// Cannot happen over a slice with the present iroh-car, which only waits for input.
    #[error("CAR reader wanted to wait")]
    WouldWait,
}

/// The blocks of a CAR: all of them, or the requested ones. Their hashes are not checked yet.
#[derive(Debug)]
pub struct Blocks {
    /// The first of the roots that the CAR names. Its block need not be there.
    pub root: Cid,
    found: HashMap<Cid, Bytes>,
}

impl Blocks {
    /// Reads a whole CAR and keeps every block. A block that occurs twice is kept once.
    ///
    /// # Errors
    /// If `car` is not a CAR, or is cut short.
    pub fn read_all(car: &[u8]) -> Result<Self, CarError> {
        Self::read_where(car, |_| true)
    }

    /// Reads a whole CAR and keeps only the blocks of `wanted`.
    pub(crate) fn read(car: &[u8], wanted: &HashSet<Cid>) -> Result<Self, CarError> {
        Self::read_where(car, |cid| wanted.contains(cid))
    }

    fn read_where(car: &[u8], is_wanted: impl Fn(&Cid) -> bool) -> Result<Self, CarError> {
        check_lengths(car)?;
        read_sections(car, is_wanted)
            .now_or_never()
            .ok_or(CarError::WouldWait)?
    }

    pub fn get(&self, cid: &Cid) -> Option<&Bytes> {
        self.found.get(cid)
    }

    pub(crate) fn contains(&self, cid: &Cid) -> bool {
        self.found.contains_key(cid)
    }

    /// All blocks, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&Cid, &Bytes)> {
        self.found.iter()
    }
}

async fn read_sections(car: &[u8], is_wanted: impl Fn(&Cid) -> bool) -> Result<Blocks, CarError> {
    let mut reader = CarReader::new(car).await?;
    let [root, ..] = reader.header().roots() else {
        return Err(CarError::Truncated { offset: 0 });
    };
    let root = *root;
    let mut found = HashMap::new();
    while let Some((cid, block)) = reader.next_block().await? {
        if is_wanted(&cid) {
            found.entry(cid).or_insert_with(|| block.into());
        }
    }
    Ok(Blocks { root, found })
}

/// Whether `cid` is an address of DAG-CBOR under SHA-256. Repositories consist only of such blocks.
pub(crate) fn is_address(cid: &Cid) -> bool {
    cid.version() == cid::Version::V1
        && cid.codec() == DAG_CBOR
        && cid.hash().code() == SHA2_256
        && cid.hash().size() == 32
}

/// The address of `block` as DAG-CBOR under SHA-256.
pub(crate) fn address_of(block: &[u8]) -> Cid {
    #[expect(clippy::expect_used, reason = "32 bytes fit into 64")]
    let hash = Multihash::wrap(SHA2_256, &Sha256::digest(block)).expect("a SHA-256 fits");
    Cid::new_v1(DAG_CBOR, hash)
}

/// Whether `cid` is the address of `block`.
pub(crate) fn is_address_of(cid: &Cid, block: &[u8]) -> bool {
    is_address(cid) && *cid.hash().digest() == *Sha256::digest(block)
}

/// Checks all lengths before iroh-car reads the file: each section must lie within the slice, and
/// the header must be canonical DAG-CBOR, so its own lengths lie within the slice as well.
/// Everything that iroh-car allocates is then smaller than the slice. iroh-car alone would also
/// accept a header that is not canonical DAG-CBOR, which other readers refuse.
fn check_lengths(car: &[u8]) -> Result<(), CarError> {
    let mut rest = car;
    let mut is_header = true;
    while is_header || !rest.is_empty() {
        let offset = car.len() - rest.len();
        let (section, behind) = split_section(rest).ok_or(CarError::Truncated { offset })?;
        if is_header {
            cbor::check(section)?;
            is_header = false;
        }
        rest = behind;
    }
    Ok(())
}

/// The next section and the bytes after it.
fn split_section(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut length = 0_usize;
    for (index, byte) in bytes.iter().take(MAX_VARINT).enumerate() {
        let group = usize::from(byte & 0x7f);
        length |= group.checked_mul(1_usize.checked_shl(7 * u32::try_from(index).ok()?)?)?;
        if byte & 0x80 == 0 {
            return bytes[index + 1..].split_at_checked(length);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::firehose::decode::sample::{car, cid_of};

    fn all(blocks: &[&[u8]]) -> HashSet<Cid> {
        blocks.iter().map(|block| cid_of(block)).collect()
    }

    #[test]
    fn only_wanted_blocks_are_kept() {
        let bytes = car(cid_of(b"a"), &[b"a", b"b", b"a", b"c"]);
        let blocks = Blocks::read(&bytes, &all(&[b"a", b"missing"])).unwrap();
        assert_eq!(blocks.root, cid_of(b"a"));
        assert_eq!(blocks.get(&cid_of(b"a")).unwrap(), b"a".as_slice());
        assert_eq!(blocks.get(&cid_of(b"b")), None);
        assert_eq!(blocks.get(&cid_of(b"missing")), None);
    }

    #[test]
    fn all_blocks_are_kept_once() {
        let bytes = car(cid_of(b"a"), &[b"a", b"b", b"a", b"c"]);
        let blocks = Blocks::read_all(&bytes).unwrap();
        let mut kept: Vec<&[u8]> = blocks.iter().map(|(_, block)| block.as_ref()).collect();
        kept.sort_unstable();
        assert_eq!(kept, [b"a", b"b", b"c"]);
    }

    #[test]
    fn a_car_cut_inside_a_section_is_an_error() {
        let bytes = car(cid_of(b"first"), &[b"first", b"second"]);
        let header = 1 + usize::from(bytes[0]);
        let first = header + 1 + usize::from(bytes[header]);
        for end in (0..bytes.len()).filter(|end| ![header, first].contains(end)) {
            let error = Blocks::read(&bytes[..end], &HashSet::new()).unwrap_err();
            assert!(
                matches!(error, CarError::Truncated { .. }),
                "{end}: {error}"
            );
        }
    }

    #[test]
    fn a_length_beyond_the_slice_is_refused_before_it_is_allocated() {
        let mut bytes = car(cid_of(b"a"), &[b"a"]);
        bytes.extend([0xff, 0xff, 0xff, 0x01, 0x00]);
        assert!(matches!(
            Blocks::read(&bytes, &HashSet::new()),
            Err(CarError::Truncated { .. })
        ));
        bytes.truncate(bytes.len() - 5);
        bytes.extend([0xff; 10]);
        assert!(Blocks::read(&bytes, &HashSet::new()).is_err());
    }

    #[test]
    fn a_header_that_announces_more_than_it_has_is_refused() {
        // {roots: [ … 2^32 items
        let header = b"\xa1\x65roots\x9b\x00\x00\x00\x01\x00\x00\x00\x00";
        let mut bytes = vec![u8::try_from(header.len()).unwrap()];
        bytes.extend(header);
        assert!(matches!(
            Blocks::read(&bytes, &HashSet::new()),
            Err(CarError::Header(_))
        ));
    }

    #[test]
    fn a_header_that_is_nearly_dag_cbor_is_refused() {
        let mut bytes = car(cid_of(b"a"), &[b"a"]);
        assert_eq!(bytes[2], 0x65, "the key `roots` is text of five bytes");
        bytes[2] = 0x45;
        assert!(matches!(Blocks::read_all(&bytes), Err(CarError::Header(_))));
    }

    #[test]
    fn an_address_is_recomputed() {
        assert!(is_address_of(&cid_of(b"a"), b"a"));
        assert!(!is_address_of(&cid_of(b"a"), b"b"));
    }
}
