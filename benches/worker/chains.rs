//! Chains of commits, of accounts whose keys a PLC directory serves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use huddle_firehose::atproto::key::VerifyingKey;
use huddle_firehose::atproto::signed_commit::SignedCommit;
use huddle_firehose::atproto::syntax::Did;
use huddle_firehose::source::firehose::decode::{Evidence, decode};
use huddle_firehose::source::interest::Interest;
use jiff::Timestamp;
use simulated_network::account::Account;
use simulated_network::frame::{self, LogEntry, Stamp};
use simulated_network::network::Network;
use simulated_network::record::{self, WANTED};
use simulated_network::repo::{CommitFrame, Write};
use simulated_network::shape::Shape;
use simulated_network::tid::tid;

use crate::frames::FIRST_SEQ;

const ACCOUNTS: usize = 500;
/// Records of other applications in each repository. They give its tree the depth, and each commit
/// the size, that they have in production.
const HISTORY: usize = 100;
/// 2026-02-01T00:00:00Z, in microseconds.
const BEGINNING: u64 = 1_769_904_000_000_000;
/// The time between two commits, in microseconds.
const PAUSE: u64 = 1_000;

/// A signed block, and the key that signed it.
pub(crate) type Signed = (SignedCommit, VerifyingKey);

/// Commits that create one record of `com.huddle.*` each.
pub(crate) struct Chains {
    /// The network with the accounts.
    pub(crate) network: Arc<Mutex<Network>>,
    pub(crate) dids: Vec<Did>,
    pub(crate) log: Vec<LogEntry>,
    pub(crate) signed: Vec<Signed>,
}

impl Chains {
    /// `count` commits of 500 repositories. About half are signed on each curve.
    pub(crate) fn new(count: usize) -> Self {
        let mut random = Rng::with_seed(1);
        let shape = Shape {
            accounts: ACCOUNTS,
            ..Shape::default()
        };
        let network = Network::new(1, shape);
        let mut accounts = network.accounts().to_vec();
        let mut clock = BEGINNING;
        let mut create = |account: &mut Account, paths: &[String], random: &mut Rng| {
            clock += PAUSE;
            create_at(clock, account, paths, random)
        };
        for account in &mut accounts {
            let path = |number| format!("app.bsky.feed.like/{}", tid(number, 0));
            let paths: Vec<String> = (0..HISTORY as u64).map(path).collect();
            create(account, &paths, &mut random);
        }
        let mut this = Self {
            dids: accounts.iter().map(did_of).collect(),
            network: Arc::new(Mutex::new(network)),
            log: Vec::with_capacity(count),
            signed: Vec::with_capacity(count),
        };
        let interest = Interest::new(["com.huddle.*".parse().unwrap()]).with_evidence();
        let keys: BTreeMap<Did, VerifyingKey> = accounts
            .iter()
            .map(|account| (did_of(account), key_of(account)))
            .collect();
        for seq in (FIRST_SEQ..).take(count) {
            let collection = random.choice(WANTED).unwrap();
            let path = format!("{collection}/{}", tid(BEGINNING + seq, 0));
            let account = random.choice(&mut accounts).unwrap();
            let (time, commit) = create(account, &[path], &mut random);
            let stamp = Stamp {
                seq,
                time: time.to_string(),
            };
            let frame = frame::commit(stamp, &account.did, commit);
            let decoded = decode(&frame, &interest).unwrap();
            let Some(Evidence::Commit(evidence)) = decoded.evidence else {
                panic!("a commit without evidence");
            };
            let key = keys[&evidence.commit.did];
            this.signed.push((evidence.commit, key));
            this.log.push(LogEntry::numbered(seq, frame));
        }
        this
    }

    pub(crate) fn last_seq(&self) -> u64 {
        FIRST_SEQ + self.log.len() as u64 - 1
    }
}

/// Makes `account` create a record at each of `paths`, in one commit.
fn create_at(
    clock: u64,
    account: &mut Account,
    paths: &[String],
    random: &mut Rng,
) -> (Timestamp, CommitFrame) {
    let time = Timestamp::from_microsecond(clock as i64).unwrap();
    let writes = paths.iter().map(|path| Write {
        path: path.clone(),
        value: Some(record::to_ipld(&record::record(path, time, &[], random))),
    });
    let writes = writes.collect();
    (time, account.repo.apply(writes, tid(clock, 0)))
}

fn did_of(account: &Account) -> Did {
    Did::parse(&account.did).unwrap()
}

fn key_of(account: &Account) -> VerifyingKey {
    account.repo.key().public_multibase().parse().unwrap()
}
