//! A row as the change feed tells it.

use bytes::Bytes;
use bytestring::ByteString;

use super::feed::RandomId;

/// The latest state of one row, and the change that made it so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The epoch that gave out the number.
    pub epoch: RandomId,
    pub number: u64,
    pub row: ChangedRow,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangedRow {
    Account(Box<ChangedAccount>),
    Record(Box<ChangedRecord>),
}

/// A row of `records`. Datetimes are text that sorts. The texts of several rows may be parts of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedRecord {
    pub uri: ByteString,
    pub did: ByteString,
    pub collection: ByteString,
    pub rkey: ByteString,
    pub cid: Option<ByteString>,
    pub rev: ByteString,
    pub seq: u64,
    pub source: ByteString,
    /// The event's time.
    pub time: ByteString,
    /// The JSON of the record; `None` for a tombstone.
    pub record: Option<ByteString>,
    /// The record as it was signed, if it was asked for: most sinks do not deliver it.
    pub record_cbor: Option<Bytes>,
    pub validity: Option<ByteString>,
    pub invalid_reason: Option<ByteString>,
    pub refused_cid: Option<ByteString>,
    pub verified: ByteString,
    pub first_indexed_at: ByteString,
    pub last_indexed_at: ByteString,
    /// The set of interest did not want it for a while, so it may not be up to date. Readers hide it.
    pub is_stale: bool,
}

impl ChangedRecord {
    /// The earlier of the event's time and the time of its receipt: a time that is dated ahead proves
    /// nothing.
    pub fn credible_time(&self) -> &str {
        (&*self.time).min(&*self.last_indexed_at)
    }
}

/// A row of `accounts`. Datetimes are text that sorts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedAccount {
    pub did: ByteString,
    pub is_active: bool,
    pub status: Option<ByteString>,
    pub handle: Option<ByteString>,
    /// `verified`, `invalid` or `unknown`: whether the handle is the account's.
    pub handle_status: ByteString,
    /// The time of its latest deletion. What was written up to then is gone.
    pub removed_at: Option<ByteString>,
    /// The change of its latest removal. What the feed told of its records before is gone.
    pub removal_change: Option<u64>,
    /// The time of the latest event that set something, as far as it is credible.
    pub time: ByteString,
    /// When the row was written.
    pub updated_at: ByteString,
}

impl ChangedRow {
    /// What its columns have beside the record and the URI, about.
    pub const BYTES: usize = 512;

    pub fn did(&self) -> &str {
        match self {
            Self::Account(account) => &account.did,
            Self::Record(record) => &record.did,
        }
    }

    /// The bytes that it has in memory, about.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Account(_) => Self::BYTES,
            Self::Record(record) => {
                let json = record.record.as_ref().map_or(0, |json| json.len());
                let cbor = record.record_cbor.as_ref().map_or(0, Bytes::len);
                // The URI is there a second time, in its parts.
                Self::BYTES + 2 * record.uri.len() + json + cbor
            }
        }
    }
}
