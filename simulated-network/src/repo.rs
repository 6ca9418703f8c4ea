//! A repository: its records, their tree, and the signed commit.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use cid::Cid;
use ipld_core::ipld::Ipld;

use crate::car::{Blocks, address_of, encode, read_car, write_car};
use crate::key::SigningKey;
use crate::mst::Tree;

#[derive(Clone, Debug)]
pub struct Repository {
    did: String,
    key: SigningKey,
    records: BTreeMap<String, Record>,
    tree: Tree,
    head: Option<Head>,
}

#[derive(Clone, Debug)]
struct Record {
    cid: Cid,
    block: Vec<u8>,
}

/// The newest commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub commit: Cid,
    pub rev: String,
    /// The root of the tree.
    pub data: Cid,
    block: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Create,
    Delete,
    Update,
}

/// A change of one path. A delete has no value, any other action has one.
#[derive(Clone, Debug)]
pub struct Write {
    pub path: String,
    pub value: Option<Ipld>,
}

/// An operation in the form of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub action: Action,
    pub path: String,
    pub cid: Option<Cid>,
    pub prev: Option<Cid>,
}

/// The content of a commit message, without seq and time.
#[derive(Clone, Debug)]
pub struct CommitFrame {
    pub head: Head,
    pub since: Option<String>,
    pub prev_data: Option<Cid>,
    pub ops: Vec<Op>,
    /// A CAR file: the commit block, all new nodes and records, and the nodes that are needed to
    /// undo the operations.
    pub blocks: Vec<u8>,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Update => "update",
        }
    }
}

impl CommitFrame {
    /// Takes the blocks of the records away. The tree stays whole.
    ///
    /// # Panics
    /// If the blocks are not a CAR file.
    pub fn omit_records(&mut self) {
        let (root, mut blocks) = read_car(&self.blocks).expect("a commit has a CAR");
        blocks.retain(|cid, _| self.ops.iter().all(|op| op.cid != Some(*cid)));
        self.blocks = write_car(root, &blocks);
    }
}

impl Repository {
    /// A repository without a commit.
    pub fn new(did: &str, key: SigningKey) -> Self {
        Self {
            did: did.to_owned(),
            key,
            records: BTreeMap::new(),
            tree: Tree::build(&BTreeMap::new()),
            head: None,
        }
    }

    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// Signs further commits with another key.
    pub fn rotate_key(&mut self, key: SigningKey) {
        self.key = key;
    }

    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.records.keys().map(String::as_str)
    }

    pub fn cid(&self, path: &str) -> Option<Cid> {
        self.records.get(path).map(|record| record.cid)
    }

    /// Whether it has a record of `collection`.
    pub fn has_collection(&self, collection: &str) -> bool {
        let prefix = format!("{collection}/");
        self.paths().any(|path| path.starts_with(&prefix))
    }

    /// Applies the writes in order, and commits under `rev`, which must be later than the rev of
    /// the head.
    ///
    /// # Panics
    /// If `rev` is not later, or if a record to delete does not exist.
    pub fn apply(&mut self, writes: Vec<Write>, rev: String) -> CommitFrame {
        let writes = writes.into_iter();
        let blocks = writes.map(|write| (write.path, write.value.as_ref().map(encode)));
        self.apply_blocks(blocks.collect(), rev)
    }

    /// Like [`Self::apply`], with blocks that need not be records.
    ///
    /// # Panics
    /// As [`Self::apply`].
    pub fn apply_blocks(
        &mut self,
        writes: Vec<(String, Option<Vec<u8>>)>,
        rev: String,
    ) -> CommitFrame {
        let before = self.head.take();
        assert!(
            before.as_ref().is_none_or(|head| head.rev < rev),
            "revs of a repository rise"
        );
        let old_nodes = self.tree.blocks();
        let writes = writes.into_iter();
        let ops: Vec<Op> = writes
            .map(|(path, block)| self.write(path, block))
            .collect();
        self.tree = Tree::build(&self.values());
        let head = self.sign(rev);
        let mut blocks = self.proof(&ops);
        let new_nodes = self.tree.blocks().into_iter();
        blocks.extend(new_nodes.filter(|(cid, _)| !old_nodes.contains_key(cid)));
        // Readers start at the root, even if no node below it has changed.
        blocks.insert(self.tree.root, self.tree.root_block().to_vec());
        blocks.insert(head.commit, head.block.clone());
        let car = write_car(head.commit, &blocks);
        self.head = Some(head.clone());
        CommitFrame {
            head,
            since: before.as_ref().map(|head| head.rev.clone()),
            prev_data: before.map(|head| head.data),
            ops,
            blocks: car,
        }
    }

    fn write(&mut self, path: String, block: Option<Vec<u8>>) -> Op {
        let (cid, prev) = match block {
            Some(block) => {
                let cid = address_of(&block);
                let record = Record { cid, block };
                let before = self.records.insert(path.clone(), record);
                (Some(cid), before.map(|record| record.cid))
            }
            None => {
                let before = self.records.remove(&path);
                (None, Some(before.expect("a deleted record exists").cid))
            }
        };
        let action = match (cid, prev) {
            (None, _) => Action::Delete,
            (Some(_), None) => Action::Create,
            (Some(_), Some(_)) => Action::Update,
        };
        Op {
            action,
            path,
            cid,
            prev,
        }
    }

    fn values(&self) -> BTreeMap<String, Cid> {
        let records = self.records.iter();
        records
            .map(|(path, record)| (path.clone(), record.cid))
            .collect()
    }

    fn sign(&self, rev: String) -> Head {
        let mut commit = BTreeMap::from([
            ("did".to_owned(), Ipld::from(self.did.as_str())),
            ("version".to_owned(), Ipld::Integer(3)),
            ("data".to_owned(), Ipld::Link(self.tree.root)),
            ("rev".to_owned(), Ipld::from(rev.as_str())),
            ("prev".to_owned(), Ipld::Null),
        ]);
        let signature = self.key.sign(&encode(&Ipld::Map(commit.clone())));
        commit.insert("sig".to_owned(), Ipld::Bytes(signature));
        let block = encode(&Ipld::Map(commit));
        Head {
            commit: address_of(&block),
            rev,
            data: self.tree.root,
            block,
        }
    }

    /// The records that `ops` wrote and that still exist, and the nodes on the way to each path and
    /// to its neighbours. Undoing a delete splits the subtree between the neighbours; undoing a
    /// create joins the subtrees beside it.
    fn proof(&self, ops: &[Op]) -> Blocks {
        let mut blocks = Blocks::new();
        let mut paths = BTreeSet::new();
        for op in ops {
            let path = op.path.as_str();
            let before = self
                .records
                .range::<str, _>((Bound::Unbounded, Bound::Excluded(path)));
            let after = self
                .records
                .range::<str, _>((Bound::Excluded(path), Bound::Unbounded));
            paths.insert(path);
            paths.extend(before.rev().take(1).map(|(path, _)| path.as_str()));
            paths.extend(after.take(1).map(|(path, _)| path.as_str()));
            if let Some(record) = self.records.get(path) {
                blocks.insert(record.cid, record.block.clone());
            }
        }
        for path in paths {
            self.tree.add_path(path, &mut blocks);
        }
        blocks
    }

    /// The whole repository as a CAR file; `None` if it has no commit.
    pub fn export_car(&self) -> Option<Vec<u8>> {
        let head = self.head.as_ref()?;
        let mut blocks = self.tree.blocks();
        let records = self.records.values();
        blocks.extend(records.map(|record| (record.cid, record.block.clone())));
        blocks.insert(head.commit, head.block.clone());
        Some(write_car(head.commit, &blocks))
    }

    /// The newest commit block, in the CAR of a `#sync`.
    pub fn sync_frame(&self) -> Option<(&Head, Vec<u8>)> {
        let head = self.head.as_ref()?;
        let blocks = Blocks::from([(head.commit, head.block.clone())]);
        Some((head, write_car(head.commit, &blocks)))
    }
}

/// Whether a commit block is signed by the key of a DID document.
pub fn is_signed_by(block: &[u8], public_multibase: &str) -> bool {
    let Ok(Ipld::Map(mut commit)) = serde_ipld_dagcbor::from_slice(block) else {
        return false;
    };
    let Some(Ipld::Bytes(signature)) = commit.remove("sig") else {
        return false;
    };
    crate::key::verifies(public_multibase, &encode(&Ipld::Map(commit)), &signature)
}
