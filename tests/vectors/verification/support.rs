//! Messages that a test can take apart, alter and sign again.

use std::collections::{BTreeMap, HashSet};

use cid::Cid;
use huddle_firehose::atproto::key::VerifyingKey;
use huddle_firehose::atproto::verify::{CommitEvidence, Level, VerifyError, verify_commit};
use ipld_core::ipld::Ipld;
use jiff::Timestamp;
use serde_ipld_dagcbor::de::from_reader_once;
use simulated_network::car::{Blocks, address_of, encode, read_car, write_car};
use simulated_network::frame::LogEntry;
use simulated_network::key::SigningKey;
use simulated_network::network::Network;
use simulated_network::shape::Shape;

pub(crate) type Fields = BTreeMap<String, Ipld>;

/// A message of a simulated network, and the key of its account.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) t: String,
    pub(crate) frame: Vec<u8>,
    pub(crate) payload: Fields,
    pub(crate) key: SigningKey,
}

/// The type and the payload of a frame.
pub(crate) fn split(mut frame: &[u8]) -> (String, &[u8]) {
    let header: Ipld = from_reader_once(&mut frame).unwrap();
    let Ok(Some(Ipld::String(t))) = header.take("t") else {
        return (String::new(), frame);
    };
    (t, frame)
}

/// Later than any rev of a simulated network.
pub(crate) fn now() -> Timestamp {
    "2027-01-01T00:00:00Z".parse().unwrap()
}

/// The messages of a network after a number of actions.
pub(crate) fn messages(seed: u64, steps: usize) -> Vec<Message> {
    let mut network = Network::new(seed, Shape::default());
    let mut messages: Vec<Message> = network
        .log()
        .iter()
        .filter_map(|entry| Message::of(entry, &network))
        .collect();
    for _ in 0..steps {
        let entries = network.step().to_vec();
        let found = entries.iter().map(|entry| Message::of(entry, &network));
        messages.extend(found.flatten());
    }
    messages
}

/// The commits among them that change each path once.
pub(crate) fn commits(seed: u64, steps: usize) -> Vec<Message> {
    let mut messages = messages(seed, steps);
    messages.retain(|message| message.t == "#commit" && !message.repeats_a_path());
    messages
}

impl Message {
    /// `None` for a message without an account.
    fn of(entry: &LogEntry, network: &Network) -> Option<Self> {
        let (t, payload) = split(&entry.frame);
        let Ok(Ipld::Map(payload)) = serde_ipld_dagcbor::from_slice(payload) else {
            panic!("a payload is a map");
        };
        let did = payload.get("repo").or(payload.get("did"))?;
        let Ipld::String(did) = did else {
            panic!("a DID is text");
        };
        Some(Self {
            t,
            frame: entry.frame.to_vec(),
            key: network.account(did)?.repo.key().clone(),
            payload,
        })
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        encode(&Ipld::Map(self.payload.clone()))
    }

    pub(crate) fn public(&self) -> VerifyingKey {
        self.key.public_multibase().parse().unwrap()
    }

    pub(crate) fn verify(&self, level: Level) -> Result<CommitEvidence, VerifyError> {
        verify(&self.bytes(), &self.public(), level)
    }

    pub(crate) fn ops(&mut self) -> &mut Vec<Ipld> {
        match self.payload.get_mut("ops") {
            Some(Ipld::List(ops)) => ops,
            other => panic!("ops are {other:?}"),
        }
    }

    /// The first operation with this action.
    pub(crate) fn op(&mut self, action: &str) -> Option<&mut Fields> {
        let mut ops = self.ops().iter_mut().map(fields);
        ops.find(|op| op["action"] == Ipld::from(action))
    }

    pub(crate) fn set(&mut self, field: &str, value: impl Into<Ipld>) {
        self.payload.insert(field.to_owned(), value.into());
    }

    pub(crate) fn car(&self) -> (Cid, Blocks) {
        match &self.payload["blocks"] {
            Ipld::Bytes(car) => read_car(car).unwrap(),
            other => panic!("blocks are {other:?}"),
        }
    }

    pub(crate) fn change_car(&mut self, change: impl FnOnce(&mut Cid, &mut Blocks)) {
        let (mut root, mut blocks) = self.car();
        change(&mut root, &mut blocks);
        self.set("blocks", write_car(root, &blocks));
    }

    /// The fields of the commit block.
    pub(crate) fn commit_block(&self) -> Fields {
        let (root, blocks) = self.car();
        match serde_ipld_dagcbor::from_slice(&blocks[&root]) {
            Ok(Ipld::Map(fields)) => fields,
            other => panic!("a commit block is {other:?}"),
        }
    }

    /// The root of the tree.
    pub(crate) fn data(&self) -> Cid {
        link(&self.commit_block()["data"])
    }

    /// Replaces the commit block.
    pub(crate) fn set_commit_block(&mut self, block: &Fields) {
        let block = encode(&Ipld::Map(block.clone()));
        let cid = address_of(&block);
        self.change_car(|root, blocks| {
            blocks.remove(root);
            blocks.insert(cid, block);
            *root = cid;
        });
        self.set("commit", Ipld::Link(cid));
    }

    /// Changes the commit block and signs it.
    pub(crate) fn sign_with(&mut self, change: impl FnOnce(&mut Fields)) {
        let mut block = self.commit_block();
        block.remove("sig");
        change(&mut block);
        let signature = self.key.sign(&encode(&Ipld::Map(block.clone())));
        block.insert("sig".to_owned(), Ipld::Bytes(signature));
        self.set_commit_block(&block);
    }

    pub(crate) fn repeats_a_path(&self) -> bool {
        let Ipld::List(ops) = &self.payload["ops"] else {
            panic!("ops are a list");
        };
        let mut paths = HashSet::new();
        let mut all = ops.iter().map(|op| op.get("path").unwrap().unwrap());
        !all.all(|path| match path {
            Ipld::String(path) => paths.insert(path),
            other => panic!("a path is {other:?}"),
        })
    }
}

pub(crate) fn verify(
    payload: &[u8],
    key: &VerifyingKey,
    level: Level,
) -> Result<CommitEvidence, VerifyError> {
    let evidence = CommitEvidence::of(payload)?;
    verify_commit(&evidence, key, level, now())?;
    Ok(evidence)
}

pub(crate) fn fields(value: &mut Ipld) -> &mut Fields {
    match value {
        Ipld::Map(fields) => fields,
        other => panic!("not a map: {other:?}"),
    }
}

pub(crate) fn link(value: &Ipld) -> Cid {
    match value {
        Ipld::Link(cid) => *cid,
        other => panic!("not a link: {other:?}"),
    }
}
