//! One node, decoded from its block.

use std::sync::Arc;

use cid::Cid;
use sha2::{Digest, Sha256};

use crate::atproto::car::is_address;
use crate::atproto::cbor::{CborError, Reader};
use crate::atproto::cbor_writer::Writer;

/// The longest block of a node, in bytes. Records have the same limit.
pub const MAX_NODE_BYTES: usize = 1 << 20;

/// The most entries of one node. Three of four keys have the layer 0, so a run of this length
/// without a key of a higher layer does not happen by chance.
pub const MAX_ENTRIES: usize = 1024;

/// The approximate size of an entry in a block, in bytes.
const ENTRY_BYTES: usize = 128;

/// The most bytes of all keys of one node. A key need not be a valid path, and may be of any length.
/// Since each key leaves out what it shares with the one before, a block could stand for far more
/// bytes than it has.
pub const MAX_KEY_BYTES: usize = 2 * MAX_NODE_BYTES;

/// A node: subtree, entry, subtree, entry, …, subtree, where a subtree may be absent. Decoding does
/// not follow the links, so it validates this node only and not the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The subtree of the keys before the first entry.
    pub left: Option<Cid>,
    /// In ascending order of their keys.
    pub entries: Vec<Entry>,
    layer: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The whole key. The block leaves out the prefix that it shares with the key before. `Arc`,
    /// because the key also bounds the subtrees beside it.
    pub key: Arc<[u8]>,
    /// The record's CID, of any codec and hash.
    pub value: Cid,
    /// The subtree of the keys between this entry and the next one.
    pub right: Option<Cid>,
}

/// A block that is not a valid node. Entries are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Cbor(#[from] CborError),
    #[error("{0} entries, {MAX_ENTRIES} are allowed")]
    Entries(usize),
    #[error("more than {MAX_KEY_BYTES} bytes of keys")]
    KeyBytes,
    #[error("entry {entry}: its key is of layer {found}, the first one's of layer {expected}")]
    Layer {
        entry: usize,
        expected: u32,
        found: u32,
    },
    #[error("a link to a subtree that is not DAG-CBOR under SHA-256")]
    Link,
    #[error("the field {0:?} is missing")]
    Missing(&'static str),
    #[error("entry {entry}: its key is not greater than the one before")]
    Order { entry: usize },
    #[error("entry {entry}: its prefix is not what its key shares with the one before")]
    Prefix { entry: usize },
    #[error("{0} bytes, {MAX_NODE_BYTES} are allowed")]
    Size(usize),
    #[error("a field that the format does not know")]
    UnknownField,
}

impl Node {
    /// Decodes a node from its block, which must have the only valid encoding.
    ///
    /// # Errors
    /// If `block` is too long or not canonical DAG-CBOR; if a field is missing, unknown or of
    /// another type; if the keys do not ascend, if a prefix is not exactly what two keys share, or
    /// if the keys are of different layers.
    pub fn decode(block: &[u8]) -> Result<Self, NodeError> {
        if block.len() > MAX_NODE_BYTES {
            return Err(NodeError::Size(block.len()));
        }
        let mut reader = Reader::new(block);
        let (mut left, mut entries) = (None, None);
        let mut keys = reader.map()?;
        while let Some(key) = keys.next(&mut reader)? {
            match key {
                b"e" => entries = Some(read_entries(&mut reader)?),
                b"l" => left = Some(link(&mut reader)?),
                _ => return Err(NodeError::UnknownField),
            }
        }
        reader.end()?;
        let entries = entries.ok_or(NodeError::Missing("e"))?;
        Ok(Self {
            left: left.ok_or(NodeError::Missing("l"))?,
            layer: common_layer(&entries)?,
            entries,
        })
    }

    /// A node of `layer`. All its keys must be of this layer.
    pub(super) fn new(layer: u32, left: Option<Cid>, entries: Vec<Entry>) -> Self {
        Self {
            left,
            layer: (!entries.is_empty()).then_some(layer),
            entries,
        }
    }

    /// The block of this node, which [`decode`](Self::decode) reads back.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(ENTRY_BYTES * (self.entries.len() + 1));
        writer.map(2);
        writer.text("e");
        writer.array(self.entries.len());
        let mut previous: &[u8] = &[];
        for Entry { key, value, right } in &self.entries {
            let shared = common_prefix(previous, key);
            writer.map(4);
            writer.text("k");
            writer.bytes(&key[shared..]);
            writer.text("p");
            writer.unsigned(shared as u64);
            writer.text("t");
            writer.nullable_link(right.as_ref());
            writer.text("v");
            writer.link(value);
            previous = key;
        }
        writer.text("l");
        writer.nullable_link(self.left.as_ref());
        writer.finish()
    }

    /// The bytes that it takes in memory. Since each key leaves out what it shares with the one before,
    /// short blocks can stand for far more.
    pub(super) fn memory(&self) -> usize {
        let entry = |entry: &Entry| entry.key.len() + size_of::<Entry>();
        self.entries.iter().map(entry).sum()
    }

    /// The layer of its keys; `None` if the node has no keys. Its position in the tree then decides
    /// the layer.
    pub fn layer(&self) -> Option<u32> {
        self.layer
    }
}

/// The layer of a key: the number of leading zero bits of its SHA-256, in pairs.
pub fn layer_of(key: &[u8]) -> u32 {
    let digest = Sha256::digest(key);
    let whole_bytes = digest.iter().take_while(|byte| **byte == 0).count();
    let rest = digest
        .get(whole_bytes)
        .map_or(0, |byte| byte.leading_zeros());
    (whole_bytes as u32 * 8 + rest) / 2
}

/// An entry in the form of the block.
struct RawEntry<'a> {
    /// `p`: the number of bytes that the key shares with the key before.
    shared: u64,
    /// `k`: the rest of the key.
    rest: &'a [u8],
    /// `v`
    value: Cid,
    /// `t`
    right: Option<Cid>,
}

fn read_entries(reader: &mut Reader<'_>) -> Result<Vec<Entry>, NodeError> {
    let count = reader.array()?;
    if count > MAX_ENTRIES {
        return Err(NodeError::Entries(count));
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    let mut key_bytes = 0;
    for index in 0..count {
        let RawEntry {
            shared,
            rest,
            value,
            right,
        } = read_entry(reader)?;
        let previous = entries.last().map(|entry| &*entry.key);
        let key = whole_key(index, previous, shared, rest)?;
        key_bytes += key.len();
        if key_bytes > MAX_KEY_BYTES {
            return Err(NodeError::KeyBytes);
        }
        entries.push(Entry { key, value, right });
    }
    Ok(entries)
}

fn read_entry<'a>(reader: &mut Reader<'a>) -> Result<RawEntry<'a>, NodeError> {
    let (mut rest, mut shared, mut right, mut value) = (None, None, None, None);
    let mut keys = reader.map()?;
    while let Some(key) = keys.next(reader)? {
        match key {
            b"k" => rest = Some(reader.bytes()?),
            b"p" => shared = Some(reader.unsigned()?),
            b"t" => right = Some(link(reader)?),
            b"v" => value = reader.nullable_opaque_link()?,
            _ => return Err(NodeError::UnknownField),
        }
    }
    Ok(RawEntry {
        shared: shared.ok_or(NodeError::Missing("p"))?,
        rest: rest.ok_or(NodeError::Missing("k"))?,
        value: value.ok_or(NodeError::Missing("v"))?,
        right: right.ok_or(NodeError::Missing("t"))?,
    })
}

fn link(reader: &mut Reader<'_>) -> Result<Option<Cid>, NodeError> {
    match reader.nullable_link()? {
        Some(cid) if !is_address(&cid) => Err(NodeError::Link),
        link => Ok(link),
    }
}

/// The key of the entry at `index`. Its prefix must be exactly what it shares with `previous`;
/// otherwise one node would have several valid encodings.
fn whole_key(
    index: usize,
    previous: Option<&[u8]>,
    shared: u64,
    rest: &[u8],
) -> Result<Arc<[u8]>, NodeError> {
    let entry = index;
    let before = previous.unwrap_or_default();
    let prefix = usize::try_from(shared)
        .ok()
        .and_then(|shared| before.get(..shared))
        .ok_or(NodeError::Prefix { entry })?;
    let key: Arc<[u8]> = prefix.iter().chain(rest).copied().collect();
    if previous.is_some_and(|previous| *key <= *previous) {
        return Err(NodeError::Order { entry });
    }
    if common_prefix(before, &key) != prefix.len() {
        return Err(NodeError::Prefix { entry });
    }
    Ok(key)
}

fn common_prefix(left: &[u8], right: &[u8]) -> usize {
    let pairs = left.iter().zip(right);
    pairs.take_while(|(left, right)| left == right).count()
}

fn common_layer(entries: &[Entry]) -> Result<Option<u32>, NodeError> {
    let Some(first) = entries.first() else {
        return Ok(None);
    };
    let expected = layer_of(&first.key);
    for (entry, Entry { key, .. }) in entries.iter().enumerate().skip(1) {
        let found = layer_of(key);
        if found != expected {
            return Err(NodeError::Layer {
                entry,
                expected,
                found,
            });
        }
    }
    Ok(Some(expected))
}

#[cfg(test)]
mod tests {
    use ipld_core::{ipld, ipld::Ipld};

    use super::*;
    use crate::atproto::cbor::CborFault;
    use crate::source::firehose::decode::sample::cid_of;

    /// Keys of layer 0, in order. The last two share three bytes.
    const KEYS: [&str; 3] = ["a/4", "b/31", "b/32"];

    fn entry(shared: usize, rest: &[u8]) -> Ipld {
        ipld!({
            "p": shared as u64,
            "k": Ipld::Bytes(rest.to_vec()),
            "v": Ipld::Link(cid_of(b"record")),
            "t": null,
        })
    }

    fn node(entries: Vec<Ipld>) -> Ipld {
        ipld!({ "l": null, "e": entries })
    }

    fn decode(node: &Ipld) -> Result<Node, NodeError> {
        Node::decode(&serde_ipld_dagcbor::to_vec(node).unwrap())
    }

    fn decode_entries(entries: &[(usize, &str)]) -> Result<Node, NodeError> {
        let entries = entries.iter().map(|(p, k)| entry(*p, k.as_bytes()));
        decode(&node(entries.collect()))
    }

    /// A valid node after `change` was applied to its map.
    fn changed(change: impl FnOnce(&mut Ipld)) -> Result<Node, NodeError> {
        let mut node = node(vec![entry(0, KEYS[0].as_bytes())]);
        change(&mut node);
        decode(&node)
    }

    fn map(value: &mut Ipld) -> &mut std::collections::BTreeMap<String, Ipld> {
        match value {
            Ipld::Map(map) => map,
            other => panic!("not a map: {other:?}"),
        }
    }

    fn first_entry(node: &mut Ipld) -> &mut std::collections::BTreeMap<String, Ipld> {
        match map(node).get_mut("e") {
            Some(Ipld::List(entries)) => map(&mut entries[0]),
            other => panic!("no entries: {other:?}"),
        }
    }

    #[test]
    fn a_node_gives_whole_keys() {
        let left = cid_of(b"left");
        let right = cid_of(b"right");
        let mut last = entry(3, b"2");
        map(&mut last).insert("t".to_owned(), Ipld::Link(right));
        let entries = vec![entry(0, b"a/4"), entry(0, b"b/31"), last];
        let node = decode(&ipld!({ "l": Ipld::Link(left), "e": entries })).unwrap();
        let keys: Vec<&[u8]> = node.entries.iter().map(|entry| &*entry.key).collect();
        assert_eq!(keys, KEYS.map(str::as_bytes));
        assert_eq!(node.left, Some(left));
        assert_eq!(node.entries[0].right, None);
        assert_eq!(node.entries[2].right, Some(right));
        assert_eq!(node.entries[2].value, cid_of(b"record"));
        assert_eq!(node.layer(), Some(0));
    }

    #[test]
    fn a_node_is_written_as_it_was_read() {
        let mut last = entry(3, b"2");
        map(&mut last).insert("t".to_owned(), Ipld::Link(cid_of(b"right")));
        let long = b"c/".iter().chain([b'x'; 300].iter()).copied();
        let entries = vec![entry(0, b"a/4"), entry(0, b"b/31"), last];
        for node in [
            node(Vec::new()),
            node(vec![entry(0, &long.collect::<Vec<u8>>())]),
            ipld!({ "l": Ipld::Link(cid_of(b"left")), "e": entries }),
        ] {
            let block = serde_ipld_dagcbor::to_vec(&node).unwrap();
            assert_eq!(Node::decode(&block).unwrap().encode(), block);
        }
    }

    #[test]
    fn a_node_without_entries_has_no_layer_of_its_own() {
        let node = decode(&node(Vec::new())).unwrap();
        assert_eq!(
            (node.layer(), node.left, node.entries.len()),
            (None, None, 0)
        );
    }

    #[test]
    fn the_layer_counts_leading_zeros_in_pairs() {
        for (key, layer) in [("", 0), ("blue", 1), ("88bfafc7", 2), ("884976f5", 6)] {
            assert_eq!(layer_of(key.as_bytes()), layer, "{key}");
        }
    }

    #[test]
    fn keys_must_rise() {
        for entries in [
            [(0, "b/31"), (0, "a/4")],
            [(0, "a/4"), (3, "")],
            [(0, "b/32"), (3, "1")],
        ] {
            assert_eq!(decode_entries(&entries), Err(NodeError::Order { entry: 1 }));
        }
    }

    #[test]
    fn a_prefix_must_be_exactly_what_two_keys_share() {
        for (entries, entry) in [
            (vec![(1, "/4")], 0),
            (vec![(0, "b/31"), (2, "32")], 1),
            (vec![(0, "b/31"), (0, "b/32")], 1),
            (vec![(0, "b/31"), (5, "2")], 1),
            (vec![(0, "b/31"), (usize::MAX, "2")], 1),
        ] {
            let refused = decode_entries(&entries);
            assert_eq!(refused, Err(NodeError::Prefix { entry }), "{entries:?}");
        }
    }

    #[test]
    fn a_key_that_is_no_path_is_read_like_any_other() {
        let long = "k".repeat(5000);
        for key in ["", "/", "a", "a/b/c", &long] {
            let node = decode_entries(&[(0, key)]).unwrap();
            assert_eq!(*node.entries[0].key, *key.as_bytes());
        }
        let not_text = decode(&node(vec![entry(0, b"a/\xff")])).unwrap();
        assert_eq!(*not_text.entries[0].key, *b"a/\xff");
    }

    #[test]
    fn prefixes_do_not_make_a_block_stand_for_endless_keys() {
        // Keys of layer 0 that share nearly all of a long prefix.
        let prefix = "k".repeat(MAX_NODE_BYTES / 2);
        let keys = (0..)
            .map(|n| format!("{prefix}{n:03}"))
            .filter(|key| layer_of(key.as_bytes()) == 0);
        let mut entries = Vec::new();
        let mut before = String::new();
        for key in keys.take(5) {
            let shared = common_prefix(before.as_bytes(), key.as_bytes());
            entries.push((shared, key[shared..].to_owned()));
            before = key;
        }
        let decoded = |count: usize| {
            let entries = entries[..count].iter();
            let entries: Vec<_> = entries.map(|(p, k)| (*p, k.as_str())).collect();
            decode_entries(&entries)
        };
        assert!(decoded(3).is_ok());
        assert_eq!(decoded(5), Err(NodeError::KeyBytes));
    }

    #[test]
    fn keys_of_one_node_are_of_one_layer() {
        assert_eq!(
            decode_entries(&[(0, "a/4"), (0, "blue")]),
            Err(NodeError::Layer {
                entry: 1,
                expected: 0,
                found: 1
            })
        );
    }

    #[test]
    fn each_field_occurs_once_and_unknown_fields_are_refused() {
        let without = |field: &str| changed(|node| drop(first_entry(node).remove(field)));
        for field in ["k", "p", "t", "v"] {
            assert!(matches!(without(field), Err(NodeError::Missing(name)) if name == field));
        }
        for field in ["e", "l"] {
            let refused = changed(|node| drop(map(node).remove(field)));
            assert!(matches!(refused, Err(NodeError::Missing(name)) if name == field));
        }
        let unknown = |map: &mut std::collections::BTreeMap<String, Ipld>| {
            map.insert("x".to_owned(), Ipld::Null);
        };
        for refused in [
            changed(|node| unknown(map(node))),
            changed(|node| unknown(first_entry(node))),
        ] {
            assert_eq!(refused, Err(NodeError::UnknownField));
        }
        let null_value = changed(|node| drop(first_entry(node).insert("v".to_owned(), Ipld::Null)));
        assert_eq!(null_value, Err(NodeError::Missing("v")));
    }

    #[test]
    fn a_field_of_another_type_is_refused() {
        for (field, value) in [
            ("k", ipld!("text")),
            ("p", ipld!(-1)),
            ("t", ipld!(false)),
            ("v", ipld!({})),
        ] {
            let refused = changed(|node| drop(first_entry(node).insert(field.to_owned(), value)));
            assert!(
                matches!(refused, Err(NodeError::Cbor(error)) if matches!(error.fault, CborFault::Unexpected(_))),
                "{field}"
            );
        }
    }

    #[test]
    fn a_link_to_a_subtree_must_be_dag_cbor_under_sha_256() {
        let raw = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy";
        let link = Ipld::Link(raw.parse().unwrap());
        let refused = changed(|node| drop(first_entry(node).insert("t".to_owned(), link.clone())));
        assert_eq!(refused, Err(NodeError::Link));
        let refused = changed(|node| drop(map(node).insert("l".to_owned(), link.clone())));
        assert_eq!(refused, Err(NodeError::Link));
    }

    #[test]
    fn a_record_may_have_a_cid_of_any_codec_and_hash() {
        let sha_512 = cid::multihash::Multihash::wrap(0x13, &[7; 64]).unwrap();
        for value in [
            "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
                .parse()
                .unwrap(),
            "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"
                .parse()
                .unwrap(),
            Cid::new_v1(0x70, sha_512),
        ] {
            let mut node = node(vec![entry(0, KEYS[0].as_bytes())]);
            first_entry(&mut node).insert("v".to_owned(), Ipld::Link(value));
            let block = serde_ipld_dagcbor::to_vec(&node).unwrap();
            let decoded = Node::decode(&block).unwrap();
            assert_eq!(decoded.entries[0].value, value);
            assert_eq!(decoded.encode(), block);
        }
    }

    #[test]
    fn a_node_is_capped_before_it_is_read() {
        assert_eq!(
            Node::decode(&vec![0; MAX_NODE_BYTES + 1]),
            Err(NodeError::Size(MAX_NODE_BYTES + 1))
        );
        let crowd = vec![entry(0, b"a/4"); MAX_ENTRIES + 1];
        assert_eq!(
            decode(&node(crowd)),
            Err(NodeError::Entries(MAX_ENTRIES + 1))
        );
    }

    #[test]
    fn a_cut_or_prolonged_node_is_refused() {
        let mut block = serde_ipld_dagcbor::to_vec(&node(vec![entry(0, b"a/4")])).unwrap();
        for end in 0..block.len() {
            assert!(Node::decode(&block[..end]).is_err(), "cut at {end}");
        }
        block.push(0);
        assert!(Node::decode(&block).is_err());
    }
}
