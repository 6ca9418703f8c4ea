//! Builds frames for tests.

use cid::Cid;
use ipld_core::{ipld, ipld::Ipld};
use sha2::{Digest, Sha256};

pub(crate) const DID: &str = "did:plc:ann";
pub(crate) const TIME: &str = "2026-07-04T14:38:07.877Z";
const REV: &str = "3jzfcijpj2z2a";

/// A message of type `t`.
pub(crate) fn frame(t: &str, payload: &Ipld) -> Vec<u8> {
    let mut frame = cbor(&ipld!({ "t": t, "op": 1 }));
    frame.extend(cbor(payload));
    frame
}

/// The address of a block as DAG-CBOR under SHA-256.
pub(crate) fn cid_of(block: &[u8]) -> Cid {
    let mut bytes = vec![0x01, 0x71, 0x12, 0x20];
    bytes.extend(Sha256::digest(block));
    Cid::try_from(bytes).unwrap()
}

/// A CAR with blocks under their correct addresses.
pub(crate) fn car(root: Cid, blocks: &[&[u8]]) -> Vec<u8> {
    let blocks: Vec<(Cid, &[u8])> = blocks.iter().map(|b| (cid_of(b), *b)).collect();
    car_of(root, &blocks)
}

fn car_of(root: Cid, blocks: &[(Cid, &[u8])]) -> Vec<u8> {
    let mut car = Vec::new();
    let header = cbor(&ipld!({ "roots": [Ipld::Link(root)], "version": 1 }));
    push_section(&mut car, &header);
    for (cid, block) in blocks {
        push_section(&mut car, &[&cid.to_bytes(), *block].concat());
    }
    car
}

fn push_section(car: &mut Vec<u8>, section: &[u8]) {
    let mut length = section.len();
    while length >= 0x80 {
        car.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    car.push(length as u8);
    car.extend(section);
}

fn cbor(value: &Ipld) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(value).unwrap()
}

/// A valid `#commit`, unless a test changes a field.
pub(crate) struct CommitFrame {
    pub(crate) rev: String,
    pub(crate) since: Option<Ipld>,
    pub(crate) time: String,
    pub(crate) block_did: String,
    pub(crate) block_rev: String,
    pub(crate) block_version: u64,
    /// The root of the CAR, if it is not the commit block.
    pub(crate) root: Option<Cid>,
    /// The CAR, if it is not built from the operations.
    pub(crate) blocks: Option<Vec<u8>>,
    pub(crate) extra_blocks: Vec<Vec<u8>>,
    pub(crate) ops: Vec<Operation>,
}

pub(crate) struct Operation {
    action: &'static str,
    path: String,
    cid: Option<Cid>,
    /// The record in the CAR, at the address `cid`.
    block: Option<Vec<u8>>,
}

impl Default for CommitFrame {
    fn default() -> Self {
        Self {
            rev: REV.to_owned(),
            since: None,
            time: TIME.to_owned(),
            block_did: DID.to_owned(),
            block_rev: REV.to_owned(),
            block_version: 3,
            root: None,
            blocks: None,
            extra_blocks: Vec::new(),
            ops: Vec::new(),
        }
    }
}

impl CommitFrame {
    pub(crate) fn create(self, path: &str, record: &Ipld) -> Self {
        self.op("create", path, Some(record))
    }

    pub(crate) fn update(self, path: &str, record: &Ipld) -> Self {
        self.op("update", path, Some(record))
    }

    pub(crate) fn delete(self, path: &str) -> Self {
        self.op("delete", path, None)
    }

    pub(crate) fn op(mut self, action: &'static str, path: &str, record: Option<&Ipld>) -> Self {
        let block = record.map(cbor);
        self.ops.push(Operation {
            action,
            path: path.to_owned(),
            cid: block.as_deref().map(cid_of),
            block,
        });
        self
    }

    /// Leaves the record of `path` out of the CAR.
    pub(crate) fn forget_block(&mut self, path: &str) {
        self.operation(path).block = None;
    }

    /// Puts another record into the CAR under the old address.
    pub(crate) fn replace_block(&mut self, path: &str, record: &Ipld) {
        self.operation(path).block = Some(cbor(record));
    }

    pub(crate) fn block(&mut self, path: &str) -> Vec<u8> {
        self.operation(path).block.clone().unwrap()
    }

    fn operation(&mut self, path: &str) -> &mut Operation {
        self.ops.iter_mut().find(|op| op.path == path).unwrap()
    }

    pub(crate) fn data(&self) -> Cid {
        cid_of(b"the MST root")
    }

    pub(crate) fn car(&self) -> Vec<u8> {
        let commit = self.commit_block();
        let root = self.root.unwrap_or(cid_of(&commit));
        let records = self
            .ops
            .iter()
            .filter_map(|op| Some((op.cid?, op.block.as_deref()?)));
        let extra = self.extra_blocks.iter().map(|b| (cid_of(b), b.as_slice()));
        let blocks: Vec<(Cid, &[u8])> = [(cid_of(&commit), commit.as_slice())]
            .into_iter()
            .chain(records)
            .chain(extra)
            .collect();
        car_of(root, &blocks)
    }

    fn commit_block(&self) -> Vec<u8> {
        cbor(&ipld!({
            "did": self.block_did.as_str(),
            "rev": self.block_rev.as_str(),
            "sig": Ipld::Bytes(vec![0; 64]),
            "data": Ipld::Link(self.data()),
            "prev": null,
            "version": self.block_version,
        }))
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let ops: Vec<Ipld> = self
            .ops
            .iter()
            .map(|op| {
                ipld!({
                    "action": op.action,
                    "path": op.path.as_str(),
                    "cid": op.cid.map_or(Ipld::Null, Ipld::Link),
                })
            })
            .collect();
        let blocks = self.blocks.clone().unwrap_or_else(|| self.car());
        frame(
            "#commit",
            &ipld!({
                "seq": 7,
                "repo": DID,
                "rev": self.rev.as_str(),
                "since": self.since.clone().unwrap_or(Ipld::Null),
                "time": self.time.as_str(),
                "commit": Ipld::Link(cid_of(&self.commit_block())),
                "blocks": Ipld::Bytes(blocks),
                "ops": ops,
            }),
        )
    }
}
