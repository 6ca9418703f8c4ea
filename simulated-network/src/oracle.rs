//! The expected state of the network, from a simple model.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cid::Cid;
use jiff::Timestamp;
use serde_json::Value;

use crate::record::{WANTED, is_malformed};

/// All messages of the relay in order, and the changes that they stand for.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    places: Vec<Place>,
    changes: Vec<Change>,
    refusals: Vec<Refusal>,
    lies: Vec<u64>,
    /// How often the relay's seqs were restarted.
    sequence: u32,
}

/// A point in the relay's messages. Ordered also across restarts of the seqs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub sequence: u32,
    pub seq: u64,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    moment: Moment,
    time: Timestamp,
}

#[derive(Clone, Debug)]
pub struct Change {
    pub moment: Moment,
    pub time: Timestamp,
    pub did: String,
    pub what: What,
    /// Whether a consumer that only has the stream can know the change. It cannot know the changes
    /// of a migration, or a record whose block is not in the commit.
    pub is_in_stream: bool,
}

/// An invalid message or operation, which a consumer must keep as a dead letter.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub moment: Moment,
    pub did: String,
    /// The URI of the record; `None` for a whole frame.
    pub uri: Option<String>,
    /// The frame, or the block that the commit has as the record.
    pub raw: Bytes,
}

#[derive(Clone, Debug)]
pub enum What {
    /// The handle that the network announced.
    Handle(String),
    /// `None` means active.
    Status(Option<String>),
    Put {
        path: String,
        record: Record,
    },
    Delete {
        path: String,
    },
}

/// The network at one moment: all accounts by DID, including deleted ones.
pub type NetworkState = BTreeMap<String, Account>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    pub handle: Option<String>,
    /// `None` means active.
    pub status: Option<String>,
    /// By path; empty if the account is deleted.
    pub records: BTreeMap<String, Record>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub cid: Cid,
    pub value: Value,
}

/// Selects accounts by status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Active accounts.
    Live,
    /// Accounts that are neither active nor deleted.
    Hidden,
}

impl Oracle {
    /// Records that the relay emitted a message with this position.
    pub(crate) fn place(&mut self, seq: u64, time: Timestamp) {
        let moment = self.moment(seq);
        self.places.push(Place { moment, time });
    }

    /// Records a change by the last message.
    pub(crate) fn note(&mut self, did: &str, what: What, is_in_stream: bool) {
        let Place { moment, time } = self.here();
        let did = did.to_owned();
        self.changes.push(Change {
            moment,
            time,
            did,
            what,
            is_in_stream,
        });
    }

    /// Records that the last message, or one of its operations, is invalid.
    pub(crate) fn refuse(&mut self, did: &str, uri: Option<String>, raw: Bytes) {
        self.refusals.push(Refusal {
            moment: self.here().moment,
            did: did.to_owned(),
            uri,
            raw,
        });
    }

    /// Records that a message has a false seq.
    pub(crate) fn lie(&mut self, seq: u64) {
        self.lies.push(seq);
    }

    pub(crate) fn restart_sequence(&mut self) {
        self.sequence += 1;
    }

    fn here(&self) -> Place {
        *self.places.last().expect("something was said")
    }

    fn moment(&self, seq: u64) -> Moment {
        let sequence = self.sequence;
        Moment { sequence, seq }
    }

    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }

    /// Whether the account was deleted later. A consumer deletes its dead letters with it.
    pub fn is_removed(&self, refusal: &Refusal) -> bool {
        self.changes.iter().any(|change| {
            change.did == refusal.did
                && change.moment > refusal.moment
                && matches!(&change.what, What::Status(Some(status)) if status == "deleted")
        })
    }

    pub fn lies(&self) -> &[u64] {
        &self.lies
    }

    /// The moment that a consumer has reached if its cursor has `seq` and the time of the event
    /// there. A false seq stands for the last message before that time.
    pub fn reached(&self, seq: u64, time: Option<Timestamp>) -> Option<Moment> {
        let time = time?;
        let until = self.places.partition_point(|place| place.time <= time);
        let by_time = self.places[..until].last()?.moment;
        let by_seq = Moment { seq, ..by_time };
        let is_true = self
            .places
            .binary_search_by_key(&by_seq, |place| place.moment)
            .is_ok();
        Some(if is_true {
            by_seq.max(by_time)
        } else {
            by_time
        })
    }

    /// The state after all messages.
    pub fn now(&self) -> NetworkState {
        self.at(u64::MAX)
    }

    /// The state after the event with this seq in the current sequence.
    pub fn at(&self, seq: u64) -> NetworkState {
        let end = self.moment(seq);
        let until = self.changes.partition_point(|change| change.moment <= end);
        fold(&self.changes[..until])
    }

    /// The state that a consumer of the stream alone has after all messages, if it missed the
    /// messages at `unseen`.
    pub fn in_stream(&self, unseen: &BTreeSet<Moment>) -> NetworkState {
        let changes = self.changes.iter();
        fold(changes.filter(|change| change.is_in_stream && !unseen.contains(&change.moment)))
    }
}

fn fold<'a>(changes: impl IntoIterator<Item = &'a Change>) -> NetworkState {
    let mut network = NetworkState::new();
    for change in changes {
        let account = network.entry(change.did.clone()).or_default();
        account.change(&change.what);
    }
    network
}

impl What {
    /// Whether the refusal is about the record at `path`.
    pub fn is_of(&self, record: &str) -> bool {
        match self {
            Self::Put { path, .. } | Self::Delete { path } => path == record,
            Self::Handle(_) | Self::Status(_) => false,
        }
    }
}

impl Account {
    fn change(&mut self, what: &What) {
        match what {
            What::Handle(handle) => self.handle = Some(handle.clone()),
            What::Status(status) => {
                if status.as_deref() == Some("deleted") {
                    self.records.clear();
                }
                self.status.clone_from(status);
            }
            What::Put { path, record } => {
                self.records.insert(path.clone(), record.clone());
            }
            What::Delete { path } => {
                self.records.remove(path);
            }
        }
    }
}

/// The records of the three wanted collections by URI, including malformed ones.
pub fn records(network: &NetworkState, visibility: Visibility) -> BTreeMap<String, &Record> {
    select(network, visibility, |path| {
        WANTED.contains(&collection(path))
    })
}

/// Records of similar collections, which an indexer of the three collections must not keep.
pub fn near_misses(network: &NetworkState, visibility: Visibility) -> BTreeMap<String, &Record> {
    select(network, visibility, |path| {
        path.starts_with("com.huddle") && !WANTED.contains(&collection(path))
    })
}

/// Records of the wanted collections that do not match their schema.
pub fn malformed(network: &NetworkState, visibility: Visibility) -> BTreeMap<String, &Record> {
    select(network, visibility, |path| {
        WANTED.contains(&collection(path)) && is_malformed(path)
    })
}

/// The records whose path is wanted, by URI.
pub fn select(
    network: &NetworkState,
    visibility: Visibility,
    is_wanted: impl Fn(&str) -> bool,
) -> BTreeMap<String, &Record> {
    let mut records = BTreeMap::new();
    for (did, account) in network {
        if account.status.is_none() != (visibility == Visibility::Live) {
            continue;
        }
        let wanted = account.records.iter().filter(|(path, _)| is_wanted(path));
        records.extend(wanted.map(|(path, record)| (format!("at://{did}/{path}"), record)));
    }
    records
}

fn collection(path: &str) -> &str {
    path.split_once('/')
        .map_or(path, |(collection, _)| collection)
}
