//! Simulates accounts that do one random thing after another, and the messages of the relay about
//! them.

mod directed;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fastrand::Rng;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::account::{Account, Status};
use crate::adversary::{self, SpoiledOperation, Weapon};
use crate::frame::{self, LogEntry, Stamp};
use crate::key::SigningKey;
use crate::oracle::{Oracle, Record, What};
use crate::record::{self, SLOT_OFFER, StrongRef};
use crate::repo::{CommitFrame, Repository, Write};
use crate::shape::{Kind, Shape};
use crate::tid::tid;

/// The time between two events, in microseconds: at least a millisecond, which is the resolution of
/// many clocks, and at most two seconds.
const PAUSE: std::ops::Range<u64> = 1_000..2_000_000;
/// Longer than the difference between clocks, so that a consumer does not take a lower seq for a
/// replay. In microseconds.
const QUIET: u64 = 11_000_000;
/// The distance from a false seq to the true one.
const LEAP: u64 = 1_000_000;
/// The number of newest messages that may be repeated.
const REPEATED_WITHIN: usize = 20;
/// The number of offers that other records may refer to.
const REMEMBERED_REFS: usize = 32;

#[derive(Debug)]
pub struct Network {
    random: Rng,
    shape: Shape,
    /// Microseconds since 1970.
    clock: u64,
    next_seq: u64,
    accounts: Vec<Account>,
    refs: Vec<StrongRef>,
    log: Vec<LogEntry>,
    oracle: Oracle,
    /// Accounts whose last `#identity` named no handle.
    unnamed: BTreeSet<String>,
    omits_prev_data: bool,
    omits_since: bool,
    omits_records: bool,
}

/// A path and its new record; `None` deletes the record.
type Written = (String, Option<Value>);

impl Network {
    /// A network of accounts that were just created. The same seed and shape give byte-identical
    /// networks.
    pub fn new(seed: u64, shape: Shape) -> Self {
        let mut network = Self {
            random: Rng::with_seed(seed),
            clock: shape.beginning,
            next_seq: shape.first_seq,
            accounts: Vec::new(),
            refs: Vec::new(),
            log: Vec::new(),
            oracle: Oracle::default(),
            unnamed: BTreeSet::new(),
            omits_prev_data: false,
            omits_since: false,
            omits_records: false,
            shape,
        };
        for number in 0..network.shape.accounts {
            let account = Account::generate(number, &mut network.random);
            network.accounts.push(account);
            network.announce_handle(number);
            network.open(number);
        }
        network
    }

    pub fn log(&self) -> &[LogEntry] {
        &self.log
    }

    /// Whether the last `#identity` of an account named no handle, so that only its document does.
    pub fn is_unnamed(&self, did: &str) -> bool {
        self.unnamed.contains(did)
    }

    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    pub fn account(&self, did: &str) -> Option<&Account> {
        self.accounts.iter().find(|account| account.did == did)
    }

    /// Performs `count` random actions, and returns the new entries of the log.
    pub fn steps(&mut self, count: usize) -> &[LogEntry] {
        let before = self.log.len();
        for _ in 0..count {
            self.step();
        }
        &self.log[before..]
    }

    /// Performs one random action, and returns the new entries of the log: one or two, or none if
    /// no account could act.
    pub fn step(&mut self) -> &[LogEntry] {
        let before = self.log.len();
        let number = self.random.usize(..self.accounts.len());
        let is_active = self.accounts[number].is_active();
        match self.shape.kind(&mut self.random) {
            Kind::Commit if is_active => self.commit(number),
            Kind::Hostile => self.hostile(number),
            Kind::Identity => self.identity(number),
            Kind::Info => {
                let frame = frame::info("Maintenance");
                self.log.push(LogEntry::unnumbered(frame));
            }
            Kind::KeyRotation if is_active => self.rotate_key(number),
            Kind::Lie => self.lie(number),
            Kind::Migration if is_active => self.migrate(number),
            Kind::Repeat => self.repeat(),
            Kind::Status => self.change_status(number),
            Kind::Sync if is_active => self.sync(number),
            Kind::Text => self
                .log
                .push(LogEntry::text("{\"op\":1,\"t\":\"#commit\"}")),
            Kind::Unknown => self.unknown(number),
            Kind::Commit | Kind::KeyRotation | Kind::Migration | Kind::Sync => {}
        }
        &self.log[before..]
    }

    /// Restarts the seqs, like a relay that was set up again. Its earlier messages are no longer in
    /// the log.
    pub fn restart_sequence(&mut self) {
        self.next_seq = 1;
        // Setting up a relay takes longer than seconds.
        self.clock += 3_600_000_000;
        self.log.clear();
        self.oracle.restart_sequence();
    }

    /// Advances the clock, and then performs one more action that every consumer receives.
    pub fn conclude(&mut self) -> &[LogEntry] {
        let before = self.log.len();
        self.clock += QUIET;
        self.announce_handle(0);
        &self.log[before..]
    }

    // === Actions ===

    fn commit(&mut self, number: usize) {
        let writes = self.writes(number);
        self.commit_writes(number, writes);
    }

    fn commit_writes(&mut self, number: usize, writes: Vec<Written>) {
        let (mut commit, changes) = self.apply(number, writes);
        if self.omits_prev_data {
            commit.prev_data = None;
        }
        if self.omits_since {
            commit.since = None;
        }
        if self.omits_records {
            commit.omit_records();
        }
        let did = self.accounts[number].did.clone();
        let mut random = self.random.fork();
        let is_spoiled = self.random.u32(..100) < self.shape.spoiled_percent;
        let mut spoiled = None;
        self.emit(|stamp| {
            let mut payload = frame::commit_payload(stamp, &did, commit);
            if is_spoiled {
                spoiled = Some(adversary::spoil_operation(&mut payload, &mut random));
            }
            frame::message("#commit", payload)
        });
        for change in changes {
            let is_in_stream = spoiled.as_ref().is_none_or(|op| !change.is_of(&op.path));
            self.oracle.note(&did, change, is_in_stream);
        }
        if let Some(SpoiledOperation { path, block }) = spoiled {
            self.oracle
                .refuse(&did, Some(format!("at://{did}/{path}")), block);
        }
    }

    /// The account moves to another host, and its repository is different afterwards.
    fn migrate(&mut self, number: usize) {
        let writes = self.writes(number);
        let (_unsaid, changes) = self.apply(number, writes);
        self.announce_handle(number);
        self.sync(number);
        let did = self.accounts[number].did.clone();
        for change in changes {
            self.oracle.note(&did, change, false);
        }
    }

    fn rotate_key(&mut self, number: usize) {
        let key = SigningKey::generate(&mut self.random);
        self.accounts[number].repo.rotate_key(key);
        self.apply(number, Vec::new());
        self.announce_handle(number);
        self.sync(number);
    }

    fn identity(&mut self, number: usize) {
        let account = &mut self.accounts[number];
        let did = account.did.clone();
        match self.random.u32(..4) {
            0 => {
                self.emit(|stamp| frame::identity(stamp, &did, None));
                self.unnamed.insert(did);
            }
            // The relay could not verify the handle; the DID document still has it.
            1 => self.announce(&did, "handle.invalid"),
            _ => {
                account.handle = format!("user{number}-{}.test", self.random.u32(..1000));
                self.announce_handle(number);
            }
        }
    }

    fn change_status(&mut self, number: usize) {
        match self.accounts[number].status {
            None => {
                let status = Status::ALL[self.random.usize(..Status::ALL.len())];
                self.leave(number, status);
            }
            Some(Status::Deleted) => self.come_back(number),
            Some(_) if self.random.u32(..8) == 0 => self.leave(number, Status::Deleted),
            Some(_) => self.come_back(number),
        }
    }

    /// A deleted account starts again with an empty repository; any other one continues with its
    /// records.
    fn come_back(&mut self, number: usize) {
        let account = &mut self.accounts[number];
        if account.status == Some(Status::Deleted) {
            let key = SigningKey::generate(&mut self.random);
            account.repo = Repository::new(&account.did, key);
            self.announce_handle(number);
            self.open(number);
        } else {
            account.status = None;
            self.announce_status(number);
        }
    }

    fn leave(&mut self, number: usize, status: Status) {
        self.accounts[number].status = Some(status);
        self.announce_status(number);
    }

    /// Creates an account, or a new repository for a deleted one, with an empty first commit.
    fn open(&mut self, number: usize) {
        self.accounts[number].status = None;
        self.announce_status(number);
        let (commit, _nothing) = self.apply(number, Vec::new());
        let did = self.accounts[number].did.clone();
        self.emit(|stamp| frame::commit(stamp, &did, commit));
    }

    fn unknown(&mut self, number: usize) {
        let did = self.accounts[number].did.clone();
        let op = if self.random.bool() { 1 } else { 7 };
        self.emit(|stamp| frame::unknown(stamp, &did, op));
    }

    /// Emits an invalid frame, made from a commit that does not exist.
    fn hostile(&mut self, number: usize) {
        let rev = tid(self.clock, number as u16);
        let mut random = self.random.fork();
        let Account { did, repo, .. } = &self.accounts[number];
        let did = did.clone();
        let write = Write {
            path: record::path(&mut random),
            value: Some(record::to_ipld(&json!({ "text": "never" }))),
        };
        let path = write.path.clone();
        let commit = repo.clone().apply(vec![write], rev);
        let mut hostile = Bytes::new();
        let mut is_refused = false;
        self.emit(|stamp| {
            let payload = frame::commit_payload(stamp.clone(), &did, commit);
            let weapon = Weapon::choose(&mut random);
            is_refused = weapon.is_always_noticed() || record::is_looked_at(&path);
            hostile = weapon.frame(stamp, &did, payload, &mut random);
            hostile.clone()
        });
        if is_refused {
            self.oracle.refuse(&did, None, hostile);
        }
    }

    fn lie(&mut self, number: usize) {
        self.clock += self.random.u64(PAUSE);
        let seq = self.next_seq + LEAP;
        let time = self.time().to_string();
        let frame = frame::identity(Stamp { seq, time }, &self.accounts[number].did, None);
        self.oracle.lie(seq);
        self.unnamed.insert(self.accounts[number].did.clone());
        self.log.push(LogEntry::unnumbered(frame));
    }

    fn repeat(&mut self) {
        let recent = self.log.len().saturating_sub(REPEATED_WITHIN);
        let index = self.random.usize(recent..self.log.len().max(recent + 1));
        let numbered = self.log.get(index).filter(|entry| entry.seq.is_some());
        if let Some(frame) = numbered.map(|entry| entry.frame.clone()) {
            self.log.push(LogEntry::unnumbered(frame));
        }
    }

    // === Messages ===

    fn announce_handle(&mut self, number: usize) {
        let Account { did, handle, .. } = &self.accounts[number];
        let (did, handle) = (did.clone(), handle.clone());
        self.announce(&did, &handle);
    }

    fn announce(&mut self, did: &str, handle: &str) {
        self.emit(|stamp| frame::identity(stamp, did, Some(handle)));
        self.unnamed.remove(did);
        self.oracle.note(did, What::Handle(handle.to_owned()), true);
    }

    fn announce_status(&mut self, number: usize) {
        let Account { did, status, .. } = &self.accounts[number];
        let (did, status) = (did.clone(), status.map(Status::as_str));
        self.emit(|stamp| frame::account(stamp, &did, status));
        let status = status.map(str::to_owned);
        self.oracle.note(&did, What::Status(status), true);
    }

    fn sync(&mut self, number: usize) {
        let Account { did, repo, .. } = &self.accounts[number];
        let (head, blocks) = repo.sync_frame().expect("an active account has a commit");
        let (did, rev) = (did.clone(), head.rev.clone());
        self.emit(|stamp| frame::sync(stamp, &did, &rev, blocks));
    }

    /// Gives a message the next seq and time, and appends it to the log.
    fn emit(&mut self, message: impl FnOnce(Stamp) -> Bytes) {
        let seq = self.next_seq;
        self.next_seq += 1;
        if self.random.u32(..100) < self.shape.seq_gaps_percent {
            self.next_seq += self.random.u64(1..20);
        }
        self.clock += self.random.u64(PAUSE);
        let time = self.time();
        self.oracle.place(seq, time);
        let time = time.to_string();
        let frame = message(Stamp { seq, time });
        self.log.push(LogEntry::numbered(seq, frame));
    }

    // === Records ===

    /// Commits the writes, and returns the frame and the changes.
    fn apply(&mut self, number: usize, writes: Vec<Written>) -> (CommitFrame, Vec<What>) {
        let rev = tid(self.clock, number as u16);
        self.clock += self.random.u64(PAUSE);
        let account = &mut self.accounts[number];
        let commit = account.repo.apply(
            writes
                .iter()
                .map(|(path, value)| Write {
                    path: path.clone(),
                    value: value.as_ref().map(record::to_ipld),
                })
                .collect(),
            rev,
        );
        let mut changes = Vec::new();
        for ((path, value), op) in writes.into_iter().zip(&commit.ops) {
            let Some((cid, value)) = op.cid.zip(value) else {
                changes.push(What::Delete { path });
                continue;
            };
            if path.starts_with(SLOT_OFFER) {
                self.refs.truncate(REMEMBERED_REFS - 1);
                self.refs.insert(
                    0,
                    StrongRef {
                        uri: format!("at://{}/{path}", account.did),
                        cid: cid.to_string(),
                    },
                );
            }
            let record = Record { cid, value };
            changes.push(What::Put { path, record });
        }
        (commit, changes)
    }

    /// Random creates, updates and deletes, sometimes two on the same path.
    fn writes(&mut self, number: usize) -> Vec<Written> {
        let now = self.time();
        // Most commits are small.
        let most = self.random.usize(..=self.shape.max_ops);
        let count = self.random.usize(..=most);
        let mut writes = Vec::new();
        let mut exists = BTreeMap::new();
        for _ in 0..count {
            let path = record::path(&mut self.random);
            let is_repeat = exists.contains_key(&path);
            if is_repeat && (!self.shape.repeats_paths || self.random.u32(..4) != 0) {
                continue;
            }
            let repo = &self.accounts[number].repo;
            let is_there = exists
                .get(&path)
                .copied()
                .unwrap_or_else(|| repo.cid(&path).is_some());
            let is_delete = is_there && self.random.bool();
            let value =
                (!is_delete).then(|| record::record(&path, now, &self.refs, &mut self.random));
            exists.insert(path.clone(), !is_delete);
            writes.push((path, value));
        }
        writes
    }

    fn time(&self) -> Timestamp {
        let micros = i64::try_from(self.clock).expect("the clock is within the calendar");
        Timestamp::from_microsecond(micros).expect("the clock is within the calendar")
    }
}
