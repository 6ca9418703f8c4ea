//! Reads CAR files, and keeps the blocks of the CAR of a commit.
//!
//! A CAR is a header that names roots, and then sections: a CID, and the block at that address. The
//! blocks of a repository are DAG-CBOR under SHA-256. A CAR may hold others, whose CIDs are opaque:
//! nothing that is read here refers to them.
//!
//! Spec: <https://ipld.io/specs/transport/car/carv1/>, <https://atproto.com/specs/repository>.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use cid::Cid;
use cid::multihash::Multihash;
use iroh_car::CarHeader;
use sha2::{Digest, Sha256};

use super::cbor::{self, CborError};

/// The multicodec of DAG-CBOR.
const DAG_CBOR: u64 = 0x71;
/// The multihash code of SHA-256.
const SHA2_256: u64 = 0x12;
/// The most bytes of a number in groups of seven bits: ten groups hold 64 bits.
const MAX_VARINT: usize = 10;
/// The first bytes of a CID of version 0, which has no codec: a SHA-256 of 32 bytes follows.
const CID_V0: [u8; 2] = [0x12, 32];
/// The version in a CID that has one.
const CID_V1: u64 = 1;

/// Bytes that are not a CAR file of version 1 with at least one root.
#[derive(Debug, thiserror::Error)]
pub enum CarError {
    #[error("CAR header: {0}")]
    Header(#[from] HeaderError),
    #[error("CAR section at byte {offset}: it begins with no CID")]
    Cid { offset: usize },
    #[error("CAR is cut short at byte {offset}")]
    Truncated { offset: usize },
}

/// A header that is not one of version 1 with at least one root.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    #[error(transparent)]
    Cbor(#[from] CborError),
    #[error(transparent)]
    Fields(#[from] iroh_car::Error),
    #[error("it has no root")]
    NoRoot,
}

/// The blocks of a CAR: all of them, or the requested ones. Their hashes are not checked yet.
#[derive(Debug)]
pub struct Blocks {
    /// The first of the roots that the CAR names. Its block need not be there.
    pub root: Cid,
    found: HashMap<Cid, Bytes>,
}

impl Blocks {
    /// Reads a whole CAR and keeps every block of a repository. A block that occurs twice is kept
    /// once.
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
        let (header, mut rest) = split_section(car).ok_or(CarError::Truncated { offset: 0 })?;
        let root = first_root(header)?;
        let mut found = HashMap::new();
        while !rest.is_empty() {
            let offset = car.len() - rest.len();
            let (section, behind) = split_section(rest).ok_or(CarError::Truncated { offset })?;
            rest = behind;
            let (cid, block) = split_cid(section).ok_or(CarError::Cid { offset })?;
            if let Some(cid) = address(cid).filter(|cid| is_wanted(cid)) {
                found
                    .entry(cid)
                    .or_insert_with(|| Bytes::copy_from_slice(block));
            }
        }
        Ok(Self { root, found })
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

/// The first root that a header names. Other roots count for nothing.
pub(crate) fn first_root(header: &[u8]) -> Result<Cid, HeaderError> {
    // After this check iroh-car allocates no more than the header's size.
    cbor::check(header)?;
    let header = CarHeader::decode(header)?;
    header.roots().first().copied().ok_or(HeaderError::NoRoot)
}

/// The CID at the start of a section, of any version, codec and hash, and the block after it.
pub(crate) fn split_cid(section: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match section.strip_prefix(&CID_V0) {
        Some(digest) => (32, digest),
        None => {
            let (version, rest) = split_varint(section)?;
            let (_codec, rest) = split_varint(rest).filter(|_| version == CID_V1)?;
            let (_hash, rest) = split_varint(rest)?;
            split_varint(rest)?
        }
    };
    let (_digest, block) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    section.split_at_checked(section.len() - block.len())
}

/// The CID in these bytes, if it is an address in a repository.
pub(crate) fn address(mut bytes: &[u8]) -> Option<Cid> {
    let cid = Cid::read_bytes(&mut bytes).ok()?;
    (bytes.is_empty() && is_address(&cid)).then_some(cid)
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

/// The next section and the bytes after it.
fn split_section(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = split_varint(bytes)?;
    rest.split_at_checked(usize::try_from(length).ok()?)
}

/// The number at the start, in groups of seven bits, and the bytes after it.
fn split_varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0_u64;
    for (index, byte) in bytes.iter().take(MAX_VARINT).enumerate() {
        let group = u64::from(byte & 0x7f);
        number |= group.checked_mul(1_u64.checked_shl(7 * u32::try_from(index).ok()?)?)?;
        if byte & 0x80 == 0 {
            return Some((number, &bytes[index + 1..]));
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
    fn only_the_first_root_counts() {
        const RAW: u64 = 0x55;
        let root = |roots: &[Cid]| {
            let header = CarHeader::new_v1(roots.to_vec()).encode().unwrap();
            first_root(&header).ok()
        };
        let (a, b) = (cid_of(b"a"), cid_of(b"b"));
        let opaque = Cid::new_v1(RAW, *b.hash());
        assert_eq!(root(&[a]), Some(a));
        assert_eq!(root(&[a, b]), Some(a));
        assert_eq!(root(&[a, opaque]), Some(a));
        assert_eq!(root(&[]), None);
    }

    /// A CID of version 1.
    fn cid_v1(codec: u8, hash: u8, digest: &[u8]) -> Vec<u8> {
        let length = digest.len();
        let length = match length {
            0..0x80 => vec![length as u8],
            _ => vec![length as u8 | 0x80, (length >> 7) as u8],
        };
        [&[1, codec, hash], length.as_slice(), digest].concat()
    }

    #[test]
    fn blocks_of_any_codec_and_hash_are_passed_by() {
        let mut bytes = car(cid_of(b"a"), &[b"a"]);
        for cid in [
            cid_v1(0x55, 0x12, &[7; 32]),
            cid_v1(0x71, 0x13, &[7; 64]),
            // The record itself, in place of its hash.
            cid_v1(0x71, 0x00, &[7; 300]),
            [&CID_V0[..], &[7; 32]].concat(),
        ] {
            let section = [cid.as_slice(), b"block"].concat();
            assert_eq!(split_cid(&section), Some((cid.as_slice(), &b"block"[..])));
            assert_eq!(address(&cid), None);
            let length = section.len();
            bytes.extend([length as u8 | 0x80, (length >> 7) as u8]);
            bytes.extend(section);
        }
        let blocks = Blocks::read_all(&bytes).unwrap();
        let kept: Vec<&Cid> = blocks.iter().map(|(cid, _)| cid).collect();
        assert_eq!(kept, [&cid_of(b"a")]);
    }

    #[test]
    fn a_section_without_a_cid_is_refused() {
        let whole = car(cid_of(b"a"), &[b"a"]);
        for section in [&b""[..], b"what", &[1, 0x71, 0x12, 32, 7], &[0x12, 32, 7]] {
            let length = u8::try_from(section.len()).unwrap();
            let bytes = [&whole, &[length][..], section].concat();
            assert!(matches!(
                Blocks::read_all(&bytes),
                Err(CarError::Cid { offset }) if offset == whole.len()
            ));
        }
    }

    #[test]
    fn an_address_is_recomputed() {
        assert!(is_address_of(&cid_of(b"a"), b"a"));
        assert!(!is_address_of(&cid_of(b"a"), b"b"));
    }
}
