//! The task of one transaction.

use jiff::Timestamp;

use super::rejudge::Rejudged;
use super::repository::RepoEvent;
use super::repository::WaitsFor;
use super::resync_cause::ResyncCause;
use super::retry::Retry;
use super::search::Search;
use crate::atproto::syntax::Did;
use crate::model::{HandleStatus, Resynced, SourceId};
use crate::store::plan::effect::Effect;

/// The task of one transaction.
#[derive(Clone, Copy, Debug)]
pub enum Task<'a> {
    /// Apply a batch of the stream.
    Batch {
        source: &'a SourceId,
        effects: &'a [Effect],
        /// The seq up to which the source is followed afterwards; `None` if that is unknown.
        through: Option<u64>,
    },
    Change(RepoChange<'a>),
}

impl<'a> Task<'a> {
    /// The effects that it applies, and their source.
    pub fn effects(&self) -> Option<(&'a SourceId, &'a [Effect])> {
        match *self {
            Self::Batch {
                source, effects, ..
            } => Some((source, effects)),
            Self::Change(RepoChange::Replayed(replay)) => Some((replay.source(), replay.effects())),
            Self::Change(RepoChange::Reread { source, effects }) => Some((source, effects)),
            Self::Change(RepoChange::Retried(retry)) => retry.outcome.effects(),
            Self::Change(RepoChange::Snapshot(part)) => Some((part.source, part.effects)),
            Self::Change(_) => None,
        }
    }
}

/// A change to a repository or an account that does not come from the stream.
#[derive(Clone, Copy, Debug)]
pub enum RepoChange<'a> {
    /// A discovery found repositories. Those that were never seen as a whole have to be fetched.
    Discovered(&'a DiscoveryPage<'a>),
    /// Whether the account's handle is its own was looked up. It changes nothing if another handle was
    /// told meanwhile.
    HandleChecked(&'a HandleCheck),
    /// The account's document was looked up for its handle.
    HandleAnswered {
        due: &'a DueHandle,
        answer: &'a HandleAnswer,
    },
    /// The account's own host told its status, or the source, if that holds the account. It changes
    /// nothing if a later event set another status.
    HostAnswered {
        unconfirmed: &'a UnconfirmedStatus,
        answer: &'a HostStatus,
    },
    /// The account's host refused its repository with this status. The account stays as it is, and
    /// its host is asked about it after a while.
    HostRefused {
        did: &'a Did,
        status: &'a str,
    },
    /// An operator shows an account that the source holds, or ends that.
    Override {
        did: &'a Did,
        is_shown: bool,
        /// Its repository is fetched when it is shown again.
        is_fetched: bool,
    },
    /// Records were judged again.
    Rejudged(&'a Rejudged<'a>),
    /// All rows of an account that was removed are deleted.
    RemovalEnded {
        did: &'a str,
        removal: i64,
    },
    /// Parked frames were processed again. Their effects are applied, and they are no longer parked. One
    /// that does not follow from the head stays parked, with all behind it, and its repository has to be
    /// fetched.
    Replayed(Replay<'a>),
    Repo {
        did: &'a Did,
        event: RepoEvent<'a>,
    },
    /// Events of the stream that were read again. The cursor stays where it is, and no gap is opened.
    Reread {
        source: &'a SourceId,
        effects: &'a [Effect],
    },
    /// A dead letter was tried again, and is resolved.
    Retried(&'a Retry<'a>),
    /// A part of a fetched repository.
    Snapshot(&'a SnapshotPart<'a>),
}

/// The oldest parked frames of a repository, in their order and from one source, and their effects.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'a> {
    first: &'a ParkedCommit,
    rest: &'a [ParkedCommit],
    effects: &'a [Effect],
    /// The number of effects up to the end of each frame. The last frame may be left out: all effects
    /// that are left are its.
    ends: &'a [usize],
}

impl<'a> Replay<'a> {
    pub fn of_one(parked: &'a ParkedCommit, effects: &'a [Effect]) -> Self {
        Self {
            first: parked,
            rest: &[],
            effects,
            ends: &[],
        }
    }

    /// `ends` has the number of effects up to the end of each frame. `None` if there is no frame.
    pub fn of(
        parked: &'a [ParkedCommit],
        effects: &'a [Effect],
        ends: &'a [usize],
    ) -> Option<Self> {
        let (first, rest) = parked.split_first()?;
        Some(Self {
            first,
            rest,
            effects,
            ends,
        })
    }

    pub fn did(&self) -> &'a Did {
        &self.first.did
    }

    pub fn source(&self) -> &'a SourceId {
        &self.first.source
    }

    pub fn effects(&self) -> &'a [Effect] {
        self.effects
    }

    /// The number of frames.
    pub fn count(&self) -> usize {
        1 + self.rest.len()
    }

    /// The ids of the first `count` frames.
    pub(super) fn ids(&self, count: usize) -> impl Iterator<Item = i64> + use<'a> {
        let (first, rest) = (self.first, self.rest);
        std::iter::once(first)
            .chain(rest)
            .take(count)
            .map(|parked| parked.id)
    }

    /// The index of the frame that has the effect with this index.
    pub(super) fn frame_of(&self, effect: usize) -> usize {
        let frame = self.ends.partition_point(|end| *end <= effect);
        frame.min(self.rest.len())
    }
}

/// A part of a repository.
#[derive(Debug)]
pub struct SnapshotPart<'a> {
    /// The host that gave it.
    pub source: &'a SourceId,
    pub did: &'a Did,
    pub effects: &'a [Effect],
    /// Paths of records that are equal in the tables.
    pub confirmed: &'a [String],
}

/// An attempt to fetch a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resync {
    pub did: Did,
    pub cause: ResyncCause,
    /// The host that was asked, if any.
    pub host: Option<String>,
    pub started_at: Timestamp,
    pub outcome: Result<Resynced, ResyncFailure>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResyncFailure {
    pub error: String,
    /// Its host asked for a cooldown.
    pub is_throttled: bool,
    /// There is no such repository. If nothing of it is kept, it may be forgotten.
    pub is_gone: bool,
    pub waits_for: WaitsFor,
    pub retry_at: Timestamp,
}

/// A parked frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedCommit {
    pub id: i64,
    pub did: Did,
    /// The rev and the tree of its repository's head, if nothing of it is missing.
    pub known_head: Option<(String, String)>,
    pub source: SourceId,
    pub frame: bytes::Bytes,
}

/// An account status that has to be confirmed: by the account's host, or by the source, if that
/// holds the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnconfirmedStatus {
    pub did: Did,
    pub status: Option<String>,
    /// The time of the event that set the status, if one did.
    pub as_of: Option<String>,
    /// The source holds the account, so only the source can say whether that has ended.
    pub is_held: bool,
    /// The host refused the account's repository, and the source does not say that it is inactive.
    pub is_suspected: bool,
    /// How many requests to its host failed.
    pub attempts: u32,
}

/// An account's status, as its own host tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostStatus {
    Active,
    /// Deleted for good.
    Deleted,
    /// Not active, by this status.
    Inactive(Option<String>),
    /// The host was not asked, because it or the directory has no slot free or refuses requests for
    /// now. It is asked then.
    NotAsked(Timestamp),
    /// The host could not be asked. It is asked again then.
    Unknown(Timestamp),
}

/// An account whose handle has to be taken from its document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueHandle {
    pub did: Did,
    /// The time of the event that set the last known handle, if one did.
    pub as_of: Option<String>,
}

/// What a check of an account's handle found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandleCheck {
    pub did: Did,
    /// The handle that the tables had.
    pub known: Option<String>,
    /// The handle that the account's document declares, if it was read.
    pub claimed: Option<String>,
    pub status: HandleStatus,
    pub checked_at: Timestamp,
    /// When it is checked again.
    pub check_at: Timestamp,
}

/// What a look-up for a handle found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HandleAnswer {
    /// The handle that the document claims, if any.
    Found(Option<String>),
    /// There is no document for now. It is looked up again then.
    Unknown(Timestamp),
}

/// A page of a discovery.
#[derive(Clone, Copy, Debug)]
pub struct DiscoveryPage<'a> {
    pub search: &'a Search,
    pub dids: &'a [Did],
    /// The cursor of the next page; `None` at the end.
    pub cursor: Option<&'a str>,
    /// The pass of the discovery in which it was requested.
    pub pass: i64,
}
