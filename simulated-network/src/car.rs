//! Blocks, and CAR files of version 1.

use std::collections::BTreeMap;

use cid::Cid;
use cid::multihash::Multihash;
use ipld_core::ipld;
use ipld_core::ipld::Ipld;
use sha2::{Digest, Sha256};

const DAG_CBOR: u64 = 0x71;
const SHA2_256: u64 = 0x12;

/// Blocks by their address, in a fixed order.
pub type Blocks = BTreeMap<Cid, Vec<u8>>;

/// Encodes a value as DAG-CBOR.
pub fn encode(value: &Ipld) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(value).expect("a value of the data model encodes")
}

/// The address of a DAG-CBOR block.
pub fn address_of(block: &[u8]) -> Cid {
    let digest =
        Multihash::wrap(SHA2_256, &Sha256::digest(block)).expect("a SHA-256 fits a multihash");
    Cid::new_v1(DAG_CBOR, digest)
}

/// A CAR file. The block of the root comes first.
pub fn write_car(root: Cid, blocks: &Blocks) -> Vec<u8> {
    let header = encode(&ipld!({ "version": 1, "roots": [root] }));
    let mut car = Vec::new();
    push_varint(&mut car, header.len());
    car.extend(header);
    let first = blocks.get_key_value(&root);
    let rest = blocks.iter().filter(|(cid, _)| **cid != root);
    for (cid, block) in first.into_iter().chain(rest) {
        let cid = cid.to_bytes();
        push_varint(&mut car, cid.len() + block.len());
        car.extend(cid);
        car.extend(block);
    }
    car
}

/// The root and the blocks of a CAR file; `None` if `car` is not one.
pub fn read_car(mut car: &[u8]) -> Option<(Cid, Blocks)> {
    let header: Ipld = serde_ipld_dagcbor::from_slice(take_section(&mut car)?).ok()?;
    let Ok(Some(Ipld::List(roots))) = header.take("roots") else {
        return None;
    };
    let &Ipld::Link(root) = roots.first()? else {
        return None;
    };
    let mut blocks = Blocks::new();
    while !car.is_empty() {
        let mut section = take_section(&mut car)?;
        let cid = Cid::read_bytes(&mut section).ok()?;
        blocks.insert(cid, section.to_vec());
    }
    Some((root, blocks))
}

fn push_varint(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_section<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut length = 0;
    for shift in (0..28).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        length |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            let (section, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            return Some(section);
        }
    }
    None
}
