//! Parsed frames.

use std::collections::BTreeMap;

use cid::Cid;
use ipld_core::ipld::Ipld;
use simulated_network::car::{Blocks, read_car};
use simulated_network::frame::LogEntry;

/// The type and the payload of a frame.
pub(crate) fn parse(entry: &LogEntry) -> (String, BTreeMap<String, Ipld>) {
    let mut objects = serde_ipld_dagcbor::de::Deserializer::from_slice(&entry.frame);
    let mut next = || <Ipld as serde::Deserialize>::deserialize(&mut objects).unwrap();
    let (header, payload) = (next(), next());
    let t = match header.get("t").unwrap() {
        Some(Ipld::String(t)) => t.clone(),
        _ => String::new(),
    };
    let Ipld::Map(payload) = payload else {
        panic!("a payload is a map");
    };
    (t, payload)
}

pub(crate) fn text<'a>(payload: &'a BTreeMap<String, Ipld>, field: &str) -> &'a str {
    match &payload[field] {
        Ipld::String(text) => text,
        other => panic!("{field} is {other:?}"),
    }
}

pub(crate) fn car(payload: &BTreeMap<String, Ipld>) -> (Cid, Blocks) {
    match &payload["blocks"] {
        Ipld::Bytes(blocks) => read_car(blocks).unwrap(),
        other => panic!("blocks are {other:?}"),
    }
}

pub(crate) fn data_of(block: &[u8]) -> Cid {
    let commit: Ipld = serde_ipld_dagcbor::from_slice(block).unwrap();
    match commit.get("data").unwrap() {
        Some(Ipld::Link(data)) => *data,
        other => panic!("data is {other:?}"),
    }
}
