//! What the network holds, told by a model that is as simple as can be.

use std::collections::BTreeMap;

use cid::Cid;
use serde_json::Value;

use crate::record::{WANTED, is_malformed};

/// Everything that ever changed, in order.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    history: Vec<(Moment, Change)>,
    /// How often the relay's seqs began anew.
    sequence: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment {
    sequence: u32,
    seq: u64,
}

#[derive(Clone, Debug)]
pub struct Change {
    pub did: String,
    pub what: What,
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
    pub(crate) fn note(&mut self, seq: u64, did: &str, what: What) {
        let moment = Moment {
            sequence: self.sequence,
            seq,
        };
        let did = did.to_owned();
        self.history.push((moment, Change { did, what }));
    }

    pub(crate) fn restart_sequence(&mut self) {
        self.sequence += 1;
    }

    /// The truth after everything that has happened.
    pub fn now(&self) -> Truth {
        self.at(u64::MAX)
    }

    /// The truth after the event with this seq of the present sequence.
    pub fn at(&self, seq: u64) -> Truth {
        let end = Moment {
            sequence: self.sequence,
            seq,
        };
        let until = self.history.partition_point(|(moment, _)| *moment <= end);
        let mut truth = Truth::new();
        for (_, change) in &self.history[..until] {
            truth
                .entry(change.did.clone())
                .or_default()
                .change(&change.what);
        }
        truth
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
