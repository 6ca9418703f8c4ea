//! What the network holds, told by a model that is as simple as can be.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cid::Cid;
use jiff::Timestamp;
use serde_json::Value;

use crate::record::{WANTED, is_malformed};

/// Everything that was ever said, in order, and what it means.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    places: Vec<Place>,
    changes: Vec<Change>,
    refusals: Vec<Refusal>,
    lies: Vec<u64>,
    /// How often the relay's seqs began anew.
    sequence: u32,
}

/// A place among all that the relay says, also where its seqs began anew in between.
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
    /// Whether a consumer of the stream alone can know. It can't of what a migration brought, nor of
    /// a record that the commit does not bring along.
    pub is_told: bool,
}

/// Something said that can't be taken, and that a consumer has to put aside.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub moment: Moment,
    /// The record that is spoken of; `None` for a whole frame.
    pub uri: Option<String>,
    /// The frame, or the block that was brought as the record.
    pub raw: Bytes,
}

#[derive(Clone, Debug)]
pub enum What {
    /// The handle that the network announces.
    Handle(String),
    /// `None` is active.
    Status(Option<String>),
    Put {
        path: String,
        record: Record,
    },
    Delete {
        path: String,
    },
}

/// The network at one moment: its accounts by DID, also those that are deleted.
pub type Truth = BTreeMap<String, Account>;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    pub handle: Option<String>,
    /// `None` is active.
    pub status: Option<String>,
    /// By path; none where the account is deleted.
    pub records: BTreeMap<String, Record>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub cid: Cid,
    pub value: Value,
}

/// Whose records are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Those of active accounts.
    Live,
    /// Those of accounts that are neither active nor deleted.
    Hidden,
}

impl Oracle {
    /// The relay says something that has a place.
    pub(crate) fn place(&mut self, seq: u64, time: Timestamp) {
        let moment = self.moment(seq);
        self.places.push(Place { moment, time });
    }

    /// What was said last has changed something.
    pub(crate) fn note(&mut self, did: &str, what: What, is_told: bool) {
        let Place { moment, time } = self.here();
        let did = did.to_owned();
        self.changes.push(Change {
            moment,
            time,
            did,
            what,
            is_told,
        });
    }

    /// What was said last can't be taken.
    pub(crate) fn refuse(&mut self, uri: Option<String>, raw: Bytes) {
        let moment = self.here().moment;
        self.refusals.push(Refusal { moment, uri, raw });
    }

    /// A message gives itself a seq that is not its own.
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

    pub fn lies(&self) -> &[u64] {
        &self.lies
    }

    /// How far a consumer claims to be whose cursor says `seq` and the time of the event there. A seq
    /// that is a lie stands for what was said before that time.
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

    /// The truth after everything that has happened.
    pub fn now(&self) -> Truth {
        self.at(u64::MAX)
    }

    /// The truth after the event with this seq of the present sequence.
    pub fn at(&self, seq: u64) -> Truth {
        let end = self.moment(seq);
        let until = self.changes.partition_point(|change| change.moment <= end);
        fold(&self.changes[..until])
    }

    /// What a consumer of the stream alone holds after everything that has happened, if it has not
    /// heard what was said at these moments.
    pub fn told(&self, unheard: &BTreeSet<Moment>) -> Truth {
        let changes = self.changes.iter();
        fold(changes.filter(|change| change.is_told && !unheard.contains(&change.moment)))
    }
}

fn fold<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Truth {
    let mut truth = Truth::new();
    for change in changes {
        let account = truth.entry(change.did.clone()).or_default();
        account.change(&change.what);
    }
    truth
}

impl What {
    /// Whether it is about the record at `path`.
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

/// Records by their URI whose collection is one of the three wanted ones, malformed ones included.
pub fn records(truth: &Truth, visibility: Visibility) -> BTreeMap<String, &Record> {
    select(truth, visibility, |path| WANTED.contains(&collection(path)))
}

/// Records that an indexer of the three collections must not take for one of them.
pub fn near_misses(truth: &Truth, visibility: Visibility) -> BTreeMap<String, &Record> {
    select(truth, visibility, |path| {
        path.starts_with("com.huddle") && !WANTED.contains(&collection(path))
    })
}

/// Records of the wanted collections that break their schema.
pub fn malformed(truth: &Truth, visibility: Visibility) -> BTreeMap<String, &Record> {
    select(truth, visibility, |path| {
        WANTED.contains(&collection(path)) && is_malformed(path)
    })
}

/// Records by their URI whose path is wanted.
pub fn select(
    truth: &Truth,
    visibility: Visibility,
    is_wanted: impl Fn(&str) -> bool,
) -> BTreeMap<String, &Record> {
    let mut records = BTreeMap::new();
    for (did, account) in truth {
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
