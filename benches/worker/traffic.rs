//! Signed commits of the simulated network, with chains that hold, and the documents of their
//! accounts.

use std::collections::BTreeMap;
use std::sync::Arc;

use fastrand::Rng;
use huddle_firehose::atproto::key::VerifyingKey;
use huddle_firehose::atproto::signed_commit::SignedCommit;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::source::firehose::decode::{Evidence, decode};
use huddle_firehose::source::interest::Interest;
use ipld_core::cid::Cid;
use ipld_core::ipld::Ipld;
use serde_json::Value;
use simulated_network::account::Account;
use simulated_network::car::{address_of, encode, write_car};
use simulated_network::frame::{self, Stamp};
use simulated_network::http::document;
use simulated_network::network::Network;
use simulated_network::shape::Shape;
use simulated_network::tid::tid;

use crate::frames::FIRST_SEQ;
use crate::writing::{self, BEGINNING, Unsigned, in_parallel, time_of};

/// The time between two commits, in microseconds.
const PAUSE: u64 = 1_000;
/// The different repositories. Each is that of many accounts.
const REPOSITORIES: usize = 8;
/// Where the accounts live. It is not asked.
const HOST: &str = "https://host.example";

/// Which commits to make.
pub(crate) struct Plan {
    pub(crate) accounts: usize,
    pub(crate) commits: usize,
    /// Records in each repository before its first commit here. They give its tree the depth, and
    /// each commit the size, that they have in production.
    pub(crate) history: usize,
    pub(crate) action: fn(&mut Rng) -> Action,
}

/// What a commit does. Each has one operation.
pub(crate) enum Action {
    /// A new record of this collection.
    Create(&'static str),
    /// One of the records goes.
    Delete,
}

/// A signed block, and the key that signed it.
pub(crate) type Signed = (SignedCommit, Arc<VerifyingKey>);

/// Commits in the order of their seqs.
pub(crate) struct Traffic {
    pub(crate) frames: Vec<Vec<u8>>,
    /// The DID documents of all accounts.
    pub(crate) documents: Vec<Value>,
}

impl Traffic {
    /// Makes the commits of `plan`, each by a random account. About half of the accounts sign on
    /// each curve.
    pub(crate) fn new(plan: &Plan) -> Self {
        let shape = Shape {
            accounts: plan.accounts,
            ..Shape::default()
        };
        let network = Network::new(1, shape);
        let accounts = network.accounts();
        let mut random = Rng::with_seed(1);
        let mut turns = vec![Vec::new(); plan.accounts];
        for number in 0..plan.commits {
            turns[random.usize(..plan.accounts)].push(number);
        }
        let longest = turns.iter().map(Vec::len).max().unwrap_or(0);
        let repositories = writing::repositories(plan, REPOSITORIES, longest);
        let made = in_parallel(plan.accounts, |number| {
            let commits = &repositories[number % REPOSITORIES];
            sign_all(&accounts[number], &turns[number], commits)
        });
        let mut numbered: Vec<(usize, Vec<u8>)> = made.into_iter().flatten().collect();
        numbered.sort_by_key(|(number, _)| *number);
        Self {
            frames: numbered.into_iter().map(|(_, frame)| frame).collect(),
            documents: accounts
                .iter()
                .map(|account| document(account, HOST))
                .collect(),
        }
    }

    pub(crate) fn dids(&self) -> Vec<Did> {
        self.documents.iter().map(did_of).collect()
    }

    /// The signed blocks of all commits.
    pub(crate) fn signed(&self) -> Vec<Signed> {
        let documents = self.documents.iter();
        let keys: BTreeMap<Did, Arc<VerifyingKey>> = documents
            .map(|document| (did_of(document), Arc::new(key_of(document))))
            .collect();
        let interest = Interest::new(["*".parse().unwrap()]).with_evidence();
        let signed = |frame: &Vec<u8>| {
            let decoded = decode(frame, &interest).unwrap();
            let Some(Evidence::Commit(evidence)) = decoded.evidence else {
                panic!("a commit without evidence");
            };
            let key = Arc::clone(&keys[&evidence.commit.did]);
            (evidence.commit, key)
        };
        self.frames.iter().map(signed).collect()
    }
}

/// The frames of the commits that `account` makes, which have these numbers.
fn sign_all(account: &Account, numbers: &[usize], commits: &[Unsigned]) -> Vec<(usize, Vec<u8>)> {
    let mut since = tid(BEGINNING - PAUSE, 0);
    let mut signed = |(&number, commit)| {
        let clock = BEGINNING + number as u64 * PAUSE;
        let rev = tid(clock, 0);
        let stamp = Stamp {
            seq: FIRST_SEQ + number as u64,
            time: time_of(clock).to_string(),
        };
        let frame = sign(account, stamp, &rev, &since, commit);
        since = rev;
        (number, frame)
    };
    numbers.iter().zip(commits).map(&mut signed).collect()
}

/// The frame of a commit that follows on the rev `since`.
fn sign(account: &Account, stamp: Stamp, rev: &str, since: &str, commit: &Unsigned) -> Vec<u8> {
    let mut frame = commit.frame.clone();
    let block = commit_block(account, rev, frame.head.data);
    let address = address_of(&block);
    let mut blocks = commit.blocks.clone();
    blocks.insert(address, block);
    frame.head.commit = address;
    frame.head.rev = rev.to_owned();
    frame.since = frame.since.map(|_| since.to_owned());
    frame.blocks = write_car(address, &blocks);
    frame::commit(stamp, &account.did, frame).to_vec()
}

fn commit_block(account: &Account, rev: &str, data: Cid) -> Vec<u8> {
    let mut commit = BTreeMap::from([
        ("did".to_owned(), Ipld::from(account.did.as_str())),
        ("version".to_owned(), Ipld::Integer(3)),
        ("data".to_owned(), Ipld::Link(data)),
        ("rev".to_owned(), Ipld::from(rev)),
        ("prev".to_owned(), Ipld::Null),
    ]);
    let signature = account.repo.key().sign(&encode(&Ipld::Map(commit.clone())));
    commit.insert("sig".to_owned(), Ipld::Bytes(signature));
    encode(&Ipld::Map(commit))
}

fn did_of(document: &Value) -> Did {
    Did::parse(document["id"].as_str().unwrap()).unwrap()
}

fn key_of(document: &Value) -> VerifyingKey {
    let key = document["verificationMethod"][0]["publicKeyMultibase"].as_str();
    key.unwrap().parse().unwrap()
}
