//! Decides what a transaction writes: from what the tables hold and what is asked of them to the rows
//! that are put and deleted. Nothing here knows a database.
//!
//! A transaction goes in three steps. It reads what [`Needs`] names, [`plan`] decides, and the
//! [`ChangeSet`] is written. The one writer holds the write lock all the while, so what was read stays
//! true.

mod account;
mod batch;
mod chain;
mod change_set;
mod dead_letters;
mod draft;
pub mod effect;
mod gaps;
pub mod index_task;
mod parked;
mod records;
mod repository;
mod task;
mod view;

#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};

pub use self::account::{AccountRow, AsOf};
pub use self::change_set::{ChangeSet, Written};
pub use self::dead_letters::Fingerprint;
pub use self::gaps::GapRow;
pub use self::parked::{ParkedNeeds, ParkedView};
pub use self::records::RecordWrite;
pub use self::repository::{Contents, RepoEvent, RepoRow, RepoState, transition};
pub use self::task::{
    DiscoveryPage, HostStatus, ParkedCommit, RepoChange, Resync, ResyncFailure, SnapshotPart, Task,
    UnconfirmedStatus,
};
pub use self::view::{HeldRecord, Needs, View};

use self::batch::{Batch, Origin};
use self::draft::Draft;
use self::view::confirmed_uris;
use crate::atproto::syntax::Did;
use crate::model::SourceId;
use crate::store::datetime::sortable;
use crate::store::plan::effect::Effect;

/// How long the host of an account that is said to be gone, and commits, is left alone in between.
const ABSENCE_QUESTION_SPACING: SignedDuration = SignedDuration::from_mins(1);

/// Decides what `task` writes, where the tables are as `view` has them.
///
/// # Errors
/// Says what has to be known of parked frames where the view does not have it and the task parks some.
pub fn plan<'a>(
    view: &'a View,
    task: &Task<'a>,
    now: Timestamp,
) -> Result<ChangeSet<'a>, ParkedNeeds> {
    let mut draft = Draft::new(view);
    let mut changes = ChangeSet::default();
    let batch = |source: &'a SourceId, effects: &'a [Effect], origin| {
        let ask_at = now.checked_add(ABSENCE_QUESTION_SPACING);
        Batch {
            source,
            effects,
            origin,
            ask_at: sortable(ask_at.unwrap_or(Timestamp::MAX)),
        }
    };
    match *task {
        Task::Batch { source, effects } => {
            batch(source, effects, Origin::Stream).plan(&mut draft, &mut changes)?;
        }
        Task::Change(RepoChange::Replayed { parked, effects }) => {
            batch(&parked.source, effects, Origin::Replay).plan(&mut draft, &mut changes)?;
            if changes.written.waiting == 0 {
                finish_replay(&mut draft, &mut changes, parked);
            }
        }
        Task::Change(RepoChange::Snapshot(part)) => {
            changes.confirmed = confirmed_uris(part)
                .filter(|uri| {
                    let held = view.records.get(uri);
                    held.is_some_and(|held| !held.is_chain_verified)
                })
                .collect();
            batch(part.source, part.effects, Origin::Snapshot).plan(&mut draft, &mut changes)?;
        }
        Task::Change(RepoChange::Repo { did, event }) => {
            change_repo(&mut draft, &mut changes, did, event);
        }
        Task::Change(RepoChange::HostRefused { did, status }) => {
            let did = did.as_str();
            let known = draft.repo(did).and_then(|repo| repo.time.clone());
            let last_known = known.unwrap_or_else(|| sortable(Timestamp::UNIX_EPOCH));
            draft.account_mut(did).refuse_by_host(status, last_known);
        }
        Task::Change(RepoChange::HostAnswered {
            unconfirmed,
            answer,
        }) => {
            take_answer(&mut draft, unconfirmed, answer);
        }
        Task::Change(RepoChange::Discovered(page)) => {
            for did in page.dids {
                match draft.repo_mut(did.as_str()) {
                    Some(repo) => repo.discover(),
                    None => draft.set_repo(did.as_str(), Some(RepoRow::to_be_fetched("backfill"))),
                }
            }
            changes.page = Some(page);
        }
    }
    draft.conclude(&mut changes);
    Ok(changes)
}

/// A parked frame was applied, or came too late.
fn finish_replay<'a>(draft: &mut Draft<'a>, changes: &mut ChangeSet<'a>, parked: &'a ParkedCommit) {
    let did = parked.did.as_str();
    changes.replayed = Some(parked.id);
    let is_of_it = |record: &RecordWrite<'_>| record.version().did == parked.did;
    let contents = Contents {
        has_records: draft.view.contents.has_records || changes.records.values().any(is_of_it),
        ..draft.view.contents
    };
    if let Some(repo) = draft.repo(did).cloned() {
        draft.set_repo(did, repo.after_replay(contents));
    }
}

fn change_repo<'a>(
    draft: &mut Draft<'a>,
    changes: &mut ChangeSet<'a>,
    did: &'a Did,
    event: RepoEvent<'a>,
) {
    let did = did.as_str();
    match event {
        RepoEvent::EndResync(resync) => changes.resync = Some(resync),
        RepoEvent::Untrack => {
            changes.dropped.insert(did);
        }
        RepoEvent::SuspendUntilActive => {
            // It may have come back since it was looked at.
            if draft.account(did).is_none_or(|account| account.is_active) {
                return;
            }
            // What was said of it when nothing of it was kept was never looked into.
            draft.account_mut(did).ask_again();
        }
        _ => {}
    }
    let next = transition(draft.repo(did), event, draft.view.contents);
    draft.set_repo(did, next);
}

/// What is removed is what the account had at the time of the event, so that what it has made since
/// stays.
fn take_answer<'a>(draft: &mut Draft<'a>, unconfirmed: &'a UnconfirmedStatus, answer: &HostStatus) {
    let did = unconfirmed.did.as_str();
    if draft.account(did).is_none() || !draft.account_mut(did).take_answer(unconfirmed, answer) {
        return;
    }
    match answer {
        HostStatus::Deleted => draft.remove(did, &unconfirmed.as_of),
        HostStatus::Active => {
            if let Some(repo) = draft.repo_mut(did) {
                repo.return_of_account();
            }
        }
        HostStatus::Inactive(_) | HostStatus::Unknown(_) => {}
    }
}
