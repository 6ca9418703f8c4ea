//! Dead letters that are tried again.

use super::change_set::{ChangeSet, ToldAgain};
use super::draft::Draft;
use super::repository::{RepoEvent, transition};
use super::resync_cause::ResyncCause;
use super::view::View;
use crate::atproto::syntax::Did;
use crate::model::SourceId;
use crate::store::plan::effect::Effect;

/// A dead letter that is tried again. It is resolved in the transaction of what follows from it.
#[derive(Clone, Copy, Debug)]
pub struct Retry<'a> {
    /// Its id.
    pub letter: i64,
    pub outcome: Retried<'a>,
}

/// What follows from a dead letter that is tried again.
#[derive(Clone, Copy, Debug)]
pub enum Retried<'a> {
    /// The repository is fetched.
    Fetched { did: &'a Did },
    /// A frame was processed again. A commit of it is applied only if it follows from the head of its
    /// repository, which is fetched otherwise.
    Frame {
        source: &'a SourceId,
        effects: &'a [Effect],
    },
    /// A record was judged again, whose commit has moved the head of its repository already.
    Record {
        source: &'a SourceId,
        effects: &'a [Effect],
        /// `None` where no repository is fetched.
        kept: Option<KeptSince<'a>>,
    },
    /// The row of an account is told to the sinks again.
    ToldAccount { did: &'a Did },
    /// The row of a record is told to the sinks again.
    ToldRecord { uri: &'a str },
}

/// Since when a dead letter of an account is kept. A repository that was fetched whole since may have shown
/// that the record is gone, which leaves no row where there was none. Then it is fetched again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptSince<'a> {
    pub did: &'a Did,
    pub created_at: &'a str,
}

impl<'a> Retried<'a> {
    /// The effects that it applies, and their source.
    pub(super) fn effects(self) -> Option<(&'a SourceId, &'a [Effect])> {
        match self {
            Self::Frame { source, effects }
            | Self::Record {
                source, effects, ..
            } => Some((source, effects)),
            Self::Fetched { .. } | Self::ToldAccount { .. } | Self::ToldRecord { .. } => None,
        }
    }
}

/// Has a repository fetched, in any state.
pub(super) fn fetch<'a>(draft: &mut Draft<'a>, did: &'a str) {
    let cause = ResyncCause::Operator;
    let event = RepoEvent::RequestResync { cause };
    let next = transition(draft.repo(did), event, draft.view.contents);
    draft.set_repo(did, next);
}

/// Has a row told to the sinks again, if it is there.
pub(super) fn tell<'a>(view: &View, row: ToldAgain<'a>, changes: &mut ChangeSet<'a>) {
    let is_there = match row {
        ToldAgain::Account(did) => view.accounts.contains_key(did),
        ToldAgain::Record(uri) => view.records.contains_key(uri),
    };
    changes.told_again = is_there.then_some(row);
    changes.written.told_again = is_there;
}
