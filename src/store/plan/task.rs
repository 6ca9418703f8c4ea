//! What the tables are asked to do in one transaction.

use jiff::Timestamp;

use super::repository::RepoEvent;
use crate::atproto::syntax::{Did, Nsid};
use crate::model::{Resynced, SourceId};
use crate::store::plan::effect::Effect;

/// What one transaction is to do.
#[derive(Clone, Copy, Debug)]
pub enum Task<'a> {
    /// Apply a batch of the stream.
    Batch {
        source: &'a SourceId,
        effects: &'a [Effect],
    },
    Change(RepoChange<'a>),
}

impl<'a> Task<'a> {
    /// The effects that it applies, and where they come from.
    pub fn effects(&self) -> Option<(&'a SourceId, &'a [Effect])> {
        match *self {
            Self::Batch { source, effects } => Some((source, effects)),
            Self::Change(RepoChange::Replayed { parked, effects }) => {
                Some((&parked.source, effects))
            }
            Self::Change(RepoChange::Snapshot(part)) => Some((part.source, part.effects)),
            Self::Change(_) => None,
        }
    }
}

/// What has become of a repository, or of an account, other than by the stream.
#[derive(Clone, Copy, Debug)]
pub enum RepoChange<'a> {
    /// A search has found repositories. Those that were never seen as a whole are to be fetched.
    Discovered(&'a DiscoveryPage<'a>),
    /// The account's own host was asked what is true of it. Changes nothing where the account has
    /// another status by now.
    HostAnswered {
        unconfirmed: &'a UnconfirmedStatus,
        answer: &'a HostStatus,
    },
    /// The account's host gives its repository out no longer, by this status. That is noted as of the
    /// last that is known of the account, so that the stream's next word of it counts for more.
    HostRefused {
        did: &'a Did,
        status: &'a str,
    },
    /// A parked frame was read again. What it asks for is applied, and the frame is taken out of the
    /// queue. One that does not follow from what is known stays, and its repository is to be fetched.
    Replayed {
        parked: &'a ParkedCommit,
        effects: &'a [Effect],
    },
    Repo {
        did: &'a Did,
        event: RepoEvent<'a>,
    },
    /// A part of a repository that was fetched.
    Snapshot(&'a SnapshotPart<'a>),
}

/// A part of a repository.
#[derive(Debug)]
pub struct SnapshotPart<'a> {
    /// Where it was fetched.
    pub source: &'a SourceId,
    pub did: &'a Did,
    pub effects: &'a [Effect],
    /// Paths of records that are as the tables have them.
    pub confirmed: &'a [String],
}

/// An attempt to fetch a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resync {
    pub did: Did,
    pub cause: String,
    /// Where it was asked for, if it came to that.
    pub host: Option<String>,
    pub started_at: Timestamp,
    pub outcome: Result<Resynced, ResyncFailure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResyncFailure {
    pub error: String,
    /// Its host wants to be left alone.
    pub is_throttled: bool,
    /// There is no such repository, so that nothing is lost where nothing of it is kept.
    pub is_gone: bool,
    pub retry_at: Timestamp,
}

/// A frame that is parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedCommit {
    pub id: i64,
    pub did: Did,
    /// Where its repository stands, where nothing of it was missed.
    pub known_rev: Option<String>,
    pub source: SourceId,
    pub frame: bytes::Bytes,
}

/// What is said of an account by another party than its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnconfirmedStatus {
    pub did: Did,
    pub status: Option<String>,
    /// The time of the event that said so.
    pub as_of: String,
    /// How often its host was asked in vain.
    pub attempts: u32,
}

/// What the host of an account says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostStatus {
    Active,
    /// Gone for good.
    Deleted,
    /// Not active, by this status.
    Inactive(Option<String>),
    /// It could not be asked; again then.
    Unknown(Timestamp),
}

/// A page of an discovery.
#[derive(Clone, Copy, Debug)]
pub struct DiscoveryPage<'a> {
    pub collection: &'a Nsid,
    pub dids: &'a [Did],
    /// Where it goes on; `None` is the end.
    pub cursor: Option<&'a str>,
}
