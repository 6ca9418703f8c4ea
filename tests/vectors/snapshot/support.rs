//! Repositories that a test can take apart, alter and sign again.

use std::collections::BTreeMap;
use std::sync::Arc;

use cid::Cid;
use huddle_firehose::atproto::key::VerifyingKey;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::repo::snapshot::{Limits, Snapshot, SnapshotError, Spool, SpoolError};
use ipld_core::ipld;
use ipld_core::ipld::Ipld;
use jiff::Timestamp;
use simulated_network::account::Account;
use simulated_network::car::{Blocks, address_of, encode, read_car};
use simulated_network::key::SigningKey;
use simulated_network::mst::Tree;
use simulated_network::network::Network;
use simulated_network::shape::Shape;

pub(crate) type Fields = BTreeMap<String, Ipld>;
pub(crate) type Section = (Cid, Vec<u8>);

/// More blocks than any repository in the tests has.
pub(crate) const PLENTY: Limits = Limits {
    bytes: 64 << 20,
    blocks: 1 << 20,
};

/// A whole repository, and the key of its account.
#[derive(Clone)]
pub(crate) struct Repo {
    pub(crate) did: Did,
    pub(crate) key: SigningKey,
    pub(crate) root: Cid,
    pub(crate) blocks: Blocks,
    /// The CID of each record, by path.
    pub(crate) records: BTreeMap<String, Cid>,
}

/// The accounts of a network after a number of actions. Each has a commit.
pub(crate) fn accounts(seed: u64, steps: usize) -> Vec<Account> {
    let mut network = Network::new(seed, Shape::default());
    network.steps(steps);
    network.accounts().to_vec()
}

/// Later than any rev of a simulated network.
pub(crate) fn now() -> Timestamp {
    "2027-01-01T00:00:00Z".parse().unwrap()
}

pub(crate) fn everything(_: &str) -> bool {
    true
}

impl Repo {
    pub(crate) fn of(account: &Account) -> Self {
        let repo = &account.repo;
        let (root, blocks) = read_car(&repo.export_car().unwrap()).unwrap();
        let paths = repo.paths();
        Self {
            did: Did::parse(&account.did).unwrap(),
            key: repo.key().clone(),
            root,
            blocks,
            records: paths
                .map(|path| (path.to_owned(), repo.cid(path).unwrap()))
                .collect(),
        }
    }

    /// A repository with many records.
    pub(crate) fn large() -> Self {
        let accounts = accounts(1, 600);
        let mut repos = accounts.iter().map(Self::of);
        repos.find(|repo| repo.records.len() > 30).unwrap()
    }

    /// A repository with exactly these records.
    pub(crate) fn holding(records: &[(&str, Ipld)]) -> Self {
        let mut repo = Self::of(&accounts(1, 0)[0]);
        repo.blocks.clear();
        repo.records.clear();
        for (path, record) in records {
            let block = encode(record);
            repo.records.insert((*path).to_owned(), address_of(&block));
            repo.blocks.insert(address_of(&block), block);
        }
        let tree = Tree::build(&repo.records);
        repo.blocks.extend(tree.blocks());
        repo.sign(tree.root);
        repo
    }

    /// Signs a commit of the tree under `data`.
    pub(crate) fn sign(&mut self, data: Cid) {
        self.set_commit(ipld!({
            "did": self.did.as_str(),
            "version": 3,
            "data": Ipld::Link(data),
            "rev": "3jzfcijpj2z2a",
            "prev": null,
        }));
    }

    pub(crate) fn commit(&self) -> Fields {
        match serde_ipld_dagcbor::from_slice(&self.blocks[&self.root]) {
            Ok(Ipld::Map(fields)) => fields,
            other => panic!("a commit block is {other:?}"),
        }
    }

    /// The root of the tree.
    pub(crate) fn data(&self) -> Cid {
        match self.commit()["data"] {
            Ipld::Link(data) => data,
            ref other => panic!("data is {other:?}"),
        }
    }

    /// Changes the commit, and signs it.
    pub(crate) fn sign_with(&mut self, change: impl FnOnce(&mut Fields)) {
        let mut commit = self.commit();
        commit.remove("sig");
        change(&mut commit);
        self.set_commit(Ipld::Map(commit));
    }

    fn set_commit(&mut self, unsigned: Ipld) {
        let signature = self.key.sign(&encode(&unsigned));
        self.set_signed(unsigned, signature);
    }

    pub(crate) fn set_signed(&mut self, unsigned: Ipld, signature: Vec<u8>) {
        let Ipld::Map(mut commit) = unsigned else {
            panic!("a commit is {unsigned:?}");
        };
        commit.insert("sig".to_owned(), Ipld::Bytes(signature));
        self.blocks.remove(&self.root);
        self.root = self.add(&Ipld::Map(commit));
    }

    pub(crate) fn add(&mut self, value: &Ipld) -> Cid {
        let block = encode(value);
        let cid = address_of(&block);
        self.blocks.insert(cid, block);
        cid
    }

    pub(crate) fn public(&self) -> VerifyingKey {
        self.key.public_multibase().parse().unwrap()
    }

    /// Its blocks, in the order of a host.
    pub(crate) fn sections(&self) -> Vec<Section> {
        let blocks = self.blocks.iter();
        blocks.map(|(cid, block)| (*cid, block.clone())).collect()
    }

    pub(crate) fn car(&self) -> Vec<u8> {
        write(&[self.root], &self.sections())
    }

    pub(crate) async fn verify(&self) -> Result<Snapshot, SnapshotError> {
        self.verify_where(everything).await
    }

    pub(crate) async fn verify_where(
        &self,
        wants: impl Fn(&str) -> bool,
    ) -> Result<Snapshot, SnapshotError> {
        let spool = Arc::new(spool(&self.car()).await.unwrap());
        Snapshot::verify(&spool, &self.did, &self.public(), now(), wants)
    }
}

pub(crate) async fn spool(car: &[u8]) -> Result<Spool, SpoolError> {
    Spool::read(car, PLENTY, &std::env::temp_dir()).await
}

/// A CAR with these roots and sections, in this order.
pub(crate) fn write(roots: &[Cid], sections: &[Section]) -> Vec<u8> {
    let roots = roots.iter().copied().map(Ipld::Link).collect();
    let header = ipld!({ "version": 1, "roots": Ipld::List(roots) });
    let mut car = Vec::new();
    push_section(&mut car, &encode(&header));
    for (cid, block) in sections {
        push_section(&mut car, &[cid.to_bytes(), block.clone()].concat());
    }
    car
}

pub(crate) fn push_section(car: &mut Vec<u8>, section: &[u8]) {
    push_varint(car, section.len());
    car.extend(section);
}

pub(crate) fn push_varint(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// All records of a snapshot in the wanted collections.
pub(crate) fn held(snapshot: &Snapshot, wants: impl Fn(&str) -> bool) -> Vec<(String, Cid)> {
    snapshot.records(wants).map(Result::unwrap).collect()
}
